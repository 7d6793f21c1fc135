"""Films of a recall, as animated PNG, GIF or MP4."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import Blend

from amlib import _progress as bars
from amlib.binary.playback import Playback
from amlib.descent.frames import Frames
from amlib.descent.trajectory import Recall, StateTrajectory, Trajectory
from amlib.plots import _pixels as pixels
from amlib.plots._pixels import Shape
from amlib.plots.pictures import (
    BLUE,
    MARGIN,
    AnyTrajectory,
    Array,
    clock_of,
    curves_of,
    draw_curves,
    new_figure,
    one_state,
    painted,
    place,
    settled,
    show,
    trajectory_of,
)

CLEAR = 255
"""The palette's index for a pixel that stays as it is."""
LARGEST = 2**31
"""Pixels that PNG and GIF films may have in all; Pillow holds them in memory."""


def animate(
    source: Recall | Trajectory | StateTrajectory | Frames | Playback | Array,
    *,
    energy: Recall | AnyTrajectory | Array | None = None,
    every: int | None = None,
    path: str | Path = "recall.png",
    fps: int = 25,
    ncols: int | None = None,
    titles: Sequence[str] | None = None,
    shape: Shape | None = None,
    progress: bool | None = None,
) -> Path:
    """Write a film of a recall, or of a batch side by side, with its energy below.

    The film ends where nothing changes any more, and starts again after a pause.

    **Arguments:**

    - `source`: a `Recall`, its trajectory or frames; a `Playback`; or frames `(T, H, W)`,
        `(T, D)` or, for a batch, `(B, T, H, W)`. Of a hierarchical memory the states of one layer,
        `result.trajectory.x["image"]`, with `energy=result`.
    - `energy`: energies `(T,)` or `(B, T)`, or a recall; a recall with a trajectory knows them.
    - `every`: keep each so-manieth state, at least 1; by default a film of about 125 frames.
    - `path`: `.png` for a lossless animated PNG, `.gif`, or `.mp4`.
    - `fps`: frames per second, 1 to 50.
    - `ncols`, `titles`, `shape`: as for `grid`.
    - `progress`: whether to show a progress bar; by default only on a terminal.

    **Returns:** the path of the file.

    **Raises:** `ValueError` for another kind of file, or frames that are no pictures;
    `ModuleNotFoundError` for `.mp4` without the extra `amlib[video]`.
    """
    path = Path(path)
    if path.suffix.lower() not in (".png", ".apng", ".gif", ".mp4"):
        raise ValueError(f"animate: path must end in .png, .gif or .mp4; {path.name!r} came.")
    if not 1 <= fps <= 50:
        raise ValueError(f"animate: fps must be from 1 to 50; {fps} came.")
    if path.suffix.lower() == ".mp4":
        require_video()
    states, seen = _film_states(source, every, shape)
    if energy is None and isinstance(source, Recall | AnyTrajectory):
        energy = trajectory_of(source, "animate")
    pixels.fit(titles, len(states), "animate: titles")
    ncols = pixels.columns(ncols, len(states), 2.0, "animate")
    trajectory = source.trajectory if isinstance(source, Recall) else source
    bits = isinstance(trajectory, Trajectory | Frames)
    curves = None if energy is None else _curves(energy, seen, bits)
    film = _film(states, seen, curves, ncols, titles)
    if path.suffix.lower() != ".mp4" and len(seen) * film.size > LARGEST:
        raise ValueError(
            f"animate: a {path.suffix} film may have {LARGEST // film.size:,} frames of this size; "
            f"{len(seen):,} came. Raise every, or write .mp4."
        )
    label = {"desc": path.name, "unit": "frame", "iterable": film.frames}
    frames = bars.bar(len(seen), progress, **label)
    _write(path, frames, film.palette, len(seen), fps)
    return path


def _film_states(
    source: Recall | AnyTrajectory | Frames | Playback | Array,
    every: int | None,
    shape: Shape | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The states to show, `(B, frames, H, W)`, and how many energies are known at each."""
    trajectory = source
    if isinstance(source, Recall | AnyTrajectory):
        trajectory = one_state(trajectory_of(source, "animate"), "animate")
        trajectory = trajectory.frames if isinstance(trajectory, Trajectory) else trajectory
    if isinstance(trajectory, Frames):
        ndim = trajectory.accepted.ndim - 1
        end = settled(pixels.batch(np.asarray(trajectory.accepted), ndim).cumsum(1))
        at = _times(end, every)
        states = pixels.batch(trajectory[(slice(None),) * ndim + (at,)], ndim)
        states = np.concatenate([pixels.batch(trajectory.x0, ndim)[:, None], states], axis=1)
        seen = np.concatenate([[0], at + 1])
    else:
        if isinstance(source, Playback):
            a = pixels.batch(np.asarray(source.frames), source.pattern.ndim - 1)
        elif isinstance(trajectory, StateTrajectory):
            a = pixels.batch(np.asarray(trajectory.x), trajectory.energy.ndim - 1)
        else:
            a = np.asarray(source)
            if not 2 <= a.ndim <= 4 or a.size == 0:
                raise ValueError(
                    "animate: frames must have shape (T, D), (T, H, W) or (B, T, H, W); "
                    f"{a.shape} came."
                )
            a = a if a.ndim == 4 else a[None]
        at = _times(settled(a), every)
        states, seen = a[:, at], at + 1
    pictures = pixels.pictures(states.reshape(-1, *states.shape[2:]), "animate: frames", shape)
    return pictures.reshape(*states.shape[:2], *pictures.shape[1:]), seen


class _Curves(NamedTuple):
    energy: np.ndarray  # (B, T)
    clock: np.ndarray  # (B, T)
    unit: str
    heads: np.ndarray  # how far the curves are at each frame, in that unit


def _curves(energy: Recall | AnyTrajectory | Array, seen: np.ndarray, bits: bool) -> _Curves:
    """Energies of a source, and when each frame is."""
    curves = curves_of(energy, "animate: energy")
    if curves.shape[1] < seen[-1]:
        raise ValueError(
            f"animate: energy must have one value per frame, {seen[-1]} or more; "
            f"{curves.shape[1]} came."
        )
    clock, unit = clock_of(energy, curves)
    heads = np.concatenate([[0.0], clock.max(axis=0)])[seen]
    return _Curves(curves, clock, "bits visited" if bits else unit, heads)


def _times(end: int, every: int | None) -> np.ndarray:
    """Which of the first `end` states to show: each so-manieth, and the last."""
    every = max(1, end // 125) if every is None else every
    if every < 1:
        raise ValueError(f"animate: every must be at least 1; {every} came.")
    return np.unique(np.append(np.arange(every - 1, end, every), end - 1))


class _Film(NamedTuple):
    frames: Iterator[np.ndarray]  # indices into the palette
    palette: np.ndarray
    size: int  # pixels of a frame


def _film(
    states: np.ndarray,
    seen: np.ndarray,
    curves: _Curves | None,
    ncols: int,
    titles: Sequence[str] | None,
) -> _Film:
    """Lay the film out and draw all that does not move, once.

    A frame is one byte per pixel: below 128 a shade of the states, from 128 on a colour of the
    still parts. The curves are drawn faint and strong; a frame shows them strong up to its time.
    """
    greys = (pixels.grey(states) * 127).round().astype(np.uint8)
    below = 0 if titles is None else 24
    still = pixels.sheet(pixels.shade(states[:, 0]), ncols, pixels.PAPER, pixels.RULE, below=below)
    height, width = still.image.shape[:2]
    wide, edge = (width, MARGIN) if curves is None else (max(width, 520), 120)
    left = edge + (wide - width) // 2
    tall = 2 * MARGIN + height + (0 if curves is None else 300)
    drawn, head = [], None
    for color in ("#d5dae2", BLUE):
        figure = new_figure((edge + wide + MARGIN + 1) // 2 * 2, (tall + 1) // 2 * 2)
        show(place(figure, left, MARGIN, width, height), still, titles)
        if curves is not None:
            ax = place(figure, edge, MARGIN + height + 30, wide, 200)
            draw_curves(ax, curves.energy, curves.clock, curves.unit, color)
            heads = np.stack([curves.heads, 0 * curves.heads], axis=-1)
            head = ax.transData.transform(heads)[:, 0].round()
            head[-1] = edge + wide
        drawn.append(painted(figure))
    faint, strong, palette = _indexed(*drawn)
    rows, columns = np.nonzero(
        pixels.sheet(np.ones_like(greys[:, 0]), ncols, 0, 0, below=below).image
    )

    def frames() -> Iterator[np.ndarray]:
        for k in range(len(seen)):
            frame = faint.copy()
            if head is not None:
                split = int(head[k])
                frame[MARGIN + height :, edge:split] = strong[MARGIN + height :, edge:split]
            sheet = pixels.sheet(greys[:, k], ncols, 0, 0, below=below).image
            frame[MARGIN + rows, left + columns] = sheet[rows, columns]
            yield frame

    return _Film(frames(), palette, faint.size)


def _indexed(*images: np.ndarray) -> tuple[np.ndarray, ...]:
    """Images with a palette in common: 128 shades of ink, then their own 128 best colours."""
    both = Image.fromarray(np.concatenate(images)).quantize(127, dither=Image.Dither.NONE)
    colours = np.array(both.getpalette(), np.uint8).reshape(-1, 3)[:127]
    shades = np.linspace(pixels.PAPER, pixels.INK, 128).round().astype(np.uint8)
    palette = np.zeros((256, 3), np.uint8)
    palette[:128], palette[128 : 128 + len(colours)] = shades, colours
    return (*np.split(np.asarray(both) + np.uint8(128), len(images)), palette)


def require_video() -> ModuleType:
    """Import imageio-ffmpeg, or say how to install it."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "animate: .mp4 needs imageio-ffmpeg, which is not installed. "
            "pip install 'amlib[video]', or write .png or .gif."
        ) from err
    return imageio_ffmpeg


def _write(path: Path, frames: bars.Bar, palette: np.ndarray, count: int, fps: int) -> None:
    """Write frames of palette indices; the last one stays for a second and a half."""
    if path.suffix.lower() == ".mp4":
        _write_video(path, (palette[f] for f in frames), fps)
        return
    durations = [1000 // fps] * (count - 1) + [1500]
    if path.suffix.lower() == ".gif":
        images = [_paletted(frame, palette) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
        return
    # Only what changed is drawn over the frame before: a sixth of the bytes.
    images, last = [], None
    for frame in frames:
        new = frame if last is None else np.where(frame == last, np.uint8(CLEAR), frame)
        images.append(_paletted(new, palette))
        images[-1].info["transparency"] = CLEAR
        last = frame
    blend = [Blend.OP_SOURCE] + [Blend.OP_OVER] * (count - 1)
    images[0].save(
        path, "PNG", save_all=True, append_images=images[1:],
        duration=durations, loop=0, blend=blend,
    )  # fmt: skip


def _paletted(frame: np.ndarray, palette: np.ndarray) -> Image.Image:
    image = Image.fromarray(frame)
    image.putpalette(palette.tobytes())
    return image


def _write_video(path: Path, frames: Iterator[np.ndarray], fps: int) -> None:
    """Send RGB frames to ffmpeg, and the last one again until a second and a half is over."""
    last = next(frames)
    height, width = last.shape[:2]
    # Not imageio_ffmpeg.write_frames: it forks with a preexec_fn, of which JAX warns.
    command = [
        require_video().get_ffmpeg_exe(), "-y", "-loglevel", "error",
        "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps}",
        "-i", "-", "-c:v", "libx264", "-crf", "18", "-preset", "veryfast", "-pix_fmt", "yuv420p",
        "-movflags", "+faststart", str(path),
    ]  # fmt: skip
    with tempfile.TemporaryFile() as log:
        ffmpeg = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log)
        try:
            with ffmpeg:
                assert ffmpeg.stdin is not None
                ffmpeg.stdin.write(last.tobytes())
                for last in frames:
                    ffmpeg.stdin.write(last.tobytes())
                for _ in range(3 * fps // 2):
                    ffmpeg.stdin.write(last.tobytes())
        except BrokenPipeError:
            pass  # ffmpeg gave up, and says why in its log
        if ffmpeg.returncode:
            log.seek(0)
            message = log.read().decode(errors="replace").strip()
            raise OSError(f"animate: ffmpeg could not write {path}: {message}")
