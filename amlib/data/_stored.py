"""Rows of arrays that stay where they are, read in blocks by a thread that runs ahead.

A memory-mapped file is read through the file, and not through the mapping: pages of a mapping
count as memory of the process, and touching one that a file no longer has kills it (SIGBUS).
"""

import contextlib
import mmap
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
import numpy as np

AHEAD = 2
"""Blocks that are read while one is in use."""

_ALIGNED = 64  # bytes: JAX takes such an array on a CPU as it is

Read: TypeAlias = Callable[[int, int, np.ndarray], np.ndarray]
"""From the first row, the one after the last, and room for their bytes, to these rows."""


@runtime_checkable
class StoredRows(Protocol):
    """What rows can be read from: `np.memmap`, Zarr and HDF5 arrays, and arrays in memory."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, and the shape of one."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """What a number is stored as."""
        ...

    def __getitem__(self, rows: slice, /) -> object:
        """Some rows, as what NumPy makes an array of."""
        ...


class _Place(NamedTuple):
    """Where a file has the rows of an array, one after the other."""

    path: str
    offset: int


class Stored:
    """An array on disk, and how its rows are read.

    **Arguments:**

    - `rows`: the array.
    - `name`: what errors call it.

    **Raises:** `TypeError` for what is no array, or holds no real numbers; `ValueError` for one
    without numbers or with less than two axes, and for a file that has not row after row.
    """

    def __init__(self, rows: StoredRows, name: str):
        if not isinstance(rows, StoredRows) or isinstance(rows, type):
            raise TypeError(
                f"{name}: must be an array that is read row by row; {type(rows).__name__} came. "
                "Open a file by np.load(path, mmap_mode='r'), zarr.open_array(path, mode='r') or "
                "h5py.File(path)[dataset]."
            )
        self.name, self._rows = name, rows
        self.shape = tuple(int(n) for n in rows.shape)
        if len(self.shape) < 2 or 0 in self.shape:
            raise ValueError(
                f"{name}: must have shape (K, D) with K and D at least 1; {self.shape} came."
            )
        self._stored = _numbers(rows.dtype, name)
        self._given = _carried(self._stored)
        self.row_bytes = self._stored.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        chunks = getattr(rows, "chunks", None)
        self.chunk = int(chunks[0]) if chunks else 1
        self._place = _place(rows, name)
        self.nbytes = self.row_bytes * self.shape[0]

    def room(self, rows: int) -> np.ndarray:
        """Room for the bytes of so many rows; none where an array brings its own."""
        size = self.row_bytes * rows if self._place else 0
        room = np.empty(size + _ALIGNED, np.uint8)
        start = -room.__array_interface__["data"][0] % _ALIGNED
        return room[start : start + size]

    @contextlib.contextmanager
    def opened(self) -> Iterator[Read]:
        """A function that reads rows, for as long as the file is open.

        What it returns is valid until it is given the same room again. It raises `OSError`.
        """
        if self._place is None:
            yield self._sliced
            return
        path, offset = self._place
        try:
            file = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as err:
            raise OSError(
                f"{self.name}: the file {path} must be there; it can't be opened: {err}. Open it "
                "again by np.load(path, mmap_mode='r')."
            ) from err
        with file:
            held = os.fstat(file.fileno()).st_size
            if held < offset + self.nbytes:
                raise self._shrank(held)
            yield lambda start, stop, room: self._from_file(file, start, stop, room)

    def one_time(self, start: int, stop: int) -> np.ndarray:
        """Some rows in room of their own."""
        with self.opened() as read:
            return read(start, stop, self.room(stop - start))

    def _shrank(self, held: int) -> OSError:
        assert self._place is not None
        path, offset = self._place
        return OSError(
            f"{self.name}: {path} must hold {offset + self.nbytes:,} bytes, as when it was "
            f"opened; {held:,} came. It shrank: write it anew, and open it again."
        )

    def _from_file(self, file: BinaryIO, start: int, stop: int, room: np.ndarray) -> np.ndarray:
        assert self._place is not None
        first, size = self._place.offset + start * self.row_bytes, (stop - start) * self.row_bytes
        into, done = memoryview(room.data)[:size], 0
        try:
            file.seek(first)
            while done < size:
                got = file.readinto(into[done:])  # pyright: ignore[reportAttributeAccessIssue]
                if not got:
                    raise self._shrank(first + done)
                done += got
        except OSError as err:
            if err.errno is None:  # our own
                raise
            raise self._failed(
                start, stop, err, f" of {file.name}, at byte {first + done:,}"
            ) from err
        rows = room[:size].view(self._stored).reshape(stop - start, *self.shape[1:])
        return rows.astype(self._given, copy=False)

    def _sliced(self, start: int, stop: int, room: np.ndarray) -> np.ndarray:
        del room
        try:
            rows = np.asarray(self._rows[start:stop])
        except (MemoryError, KeyboardInterrupt):
            raise
        except Exception as err:  # a store raises what its codecs and file systems do
            raise self._failed(start, stop, err) from err
        if rows.shape != (stop - start, *self.shape[1:]):
            raise OSError(
                f"{self.name}: rows {start:,} to {stop:,} must have shape "
                f"{(stop - start, *self.shape[1:])}; {rows.shape} came. It was resized: open it "
                "again."
            )
        return rows.astype(self._given, copy=False)

    def _failed(self, start: int, stop: int, err: Exception, where: str = "") -> OSError:
        return OSError(
            f"{self.name}: rows {start:,} to {stop:,}{where} must be readable; "
            f"{type(err).__name__} came: {err}. Nothing was kept: mend the file or the disk, and "
            "call again."
        )


def _numbers(dtype: np.dtype, name: str) -> np.dtype:
    """The dtype as NumPy has it; raise unless it is one of real numbers."""
    dtype = np.dtype(dtype)
    kinds = (jnp.bool_, jnp.integer, jnp.floating)
    if not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise TypeError(
            f"{name}: must hold real numbers; dtype {dtype} came. (np.save keeps no bfloat16: "
            "look at such a file by .view(jnp.bfloat16).)"
        )
    return dtype


def _carried(stored: np.dtype) -> np.dtype:
    """What goes to the device: small numbers as they are, others as JAX's floats.

    Integers as wide as indices become floats here as `checks.as_float` makes them there.
    """
    default, integer = jnp.result_type(float), jnp.issubdtype(stored, jnp.integer)
    if stored.itemsize > (2 if integer else default.itemsize):
        return default
    return stored.newbyteorder("=")


def _place(rows: StoredRows, name: str) -> _Place | None:
    """Where a file has this array, or a view of an array that was mapped; else `None`."""
    base: object = rows
    while isinstance(base, np.ndarray):
        mapped = getattr(base, "_mmap", None)
        if isinstance(base, np.memmap) and isinstance(mapped, mmap.mmap):
            break
        base = base.base
    else:
        return None
    assert isinstance(rows, np.ndarray)
    # What was written to a mapping of mode "c" is in no file; some files have no name.
    if base.mode == "c" or base.filename is None:
        return None
    if not rows.flags.c_contiguous:
        raise ValueError(
            f"{name}: a file must hold row after row; a view with strides {rows.strides} of "
            f"{base.filename} came. Save it by np.save(path, np.ascontiguousarray(Xi))."
        )
    # A view of a mapping keeps the offset of the whole, so it is told by where it lies.
    address = lambda a: a.__array_interface__["data"][0]
    inside = address(rows) - address(np.frombuffer(mapped, np.uint8))
    begins = base.offset - base.offset % mmap.ALLOCATIONGRANULARITY
    return _Place(str(base.filename), begins + inside)


def blocks(
    stored: Sequence[Stored], block: int
) -> Generator[tuple[int, tuple[np.ndarray, ...]], None, None]:
    """The rows of arrays of the same length, block by block; the next ones are read meanwhile.

    Close it (`contextlib.closing`) where it may not be read to its end: then its thread ends.

    **Arguments:**

    - `stored`: the arrays.
    - `block`: rows per block.

    **Returns:** the number of the first row, and the rows of each array: they are valid until
    the next ones are asked for.
    """
    K = stored[0].shape[0]
    count = -(-K // block)
    rooms = [[s.room(min(block, K)) for s in stored] for _ in range(min(AHEAD + 1, count))]
    with contextlib.ExitStack() as stack:
        reads = [stack.enter_context(s.opened()) for s in stored]
        pool = ThreadPoolExecutor(1, "amlib-reader")
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)

        def read(k: int) -> tuple[np.ndarray, ...]:
            start, own = k * block, rooms[k % len(rooms)]
            stop = min(start + block, K)
            return tuple(one(start, stop, room) for one, room in zip(reads, own, strict=True))

        ahead = deque(pool.submit(read, k) for k in range(len(rooms)))
        for k in range(count):
            yield k * block, ahead.popleft().result()
            if k + len(rooms) < count:
                ahead.append(pool.submit(read, k + len(rooms)))
