"""Store thousands of icons in one associative memory, corrupt some, and recall them."""

import argparse
import functools
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import amlib as am
from amlib import _interrupt, _progress as bars, plots
from amlib._types import Key
from amlib.binary.patterns import overlaps, stored_patterns
from amlib.data._views import views

_Number = TypeVar("_Number", int, float)

CHUNK = 10  # queries recalled at once, between two moves of the progress bar
MAX_SWEEPS = 20  # the classical network needs 12 here, the others 1 or 2
SHOWN = 18  # recalls in the film
VIEWS, VIEW = 1_000_000, 32  # how many views are stored, and their side

# Icons are mostly background: two of them have a mean overlap of 0.29, the closest two 0.99.
# With 40 % of its 2,304 bits flipped, a query's overlap with its own icon is 461 (not divided by
# D), typically 120 more than with any other, but for 1 icon in 100 less than 4 more. So the
# memory must tell overlaps apart that differ by a few, where 4 beta, or 4 n / 461, is not small:
# then the largest overlap wins alone, recall finds the nearest icon, and nothing could do better.
# beta = 1 is the published energy (Demircigil et al. 2017). Measured: any beta from 0.1 to 5 and
# any n from 50 to 100 recall the same; beta = 0.01 or n = 10 blend many icons into one.
MODELS = {
    "classical": am.ClassicalHopfield,
    "polynomial": functools.partial(am.PolynomialDenseAM, n=50),
    "exponential": functools.partial(am.ExponentialDenseAM, beta=1.0),
}

ROW = "{:<12} {:<18} {:>8}  {:>7} {:>7}  {:>6}  {:>10} {:>10}  {:>7}"
COLORS = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PURPLE]
HEADER = (
    ROW.format("", "", "", "overlap", "overlap", "", "energy", "energy", "").rstrip()
    + "\n"
    + ROW.format(*"model bits_flipped exact before after sweeps before after seconds".split())
).replace("_", " ")


class Run(NamedTuple):
    """All queries at one noise level, recalled by one model."""

    model: str
    noise: float
    recall: am.Recall
    truth: np.ndarray
    energy: float  # before, the mean
    seconds: float

    @property
    def exact(self) -> np.ndarray:
        return (np.asarray(self.recall.x) == self.truth).all(axis=1)

    @property
    def row(self) -> str:
        """Its row of the table."""
        Q, D = self.truth.shape
        end = self.recall
        overlaps = [np.mean(np.asarray(x) * self.truth) for x in (end.trajectory.x0, end.x)]
        return ROW.format(
            self.model,
            f"{100 * self.noise:.4g} %, {_flips(self.noise, D):,} of {D:,}",
            f"{self.exact.sum()}/{Q}",
            f"{overlaps[0]:.3f}",
            f"{overlaps[1]:.4f}",
            f"{np.mean(np.asarray(end.sweeps)):.1f}",
            f"{self.energy:.5g}",
            f"{np.mean(np.asarray(end.energy)):.5g}",
            f"{self.seconds:.1f}",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit code."""
    _demo(_parser(), argv)
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say in one line what is wrong, without the usage, and exit with 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def _parser() -> _Parser:
    parser = _Parser(prog="python -m amlib", description=__doc__)
    add = parser.add_argument
    add("--model", choices=list(MODELS), default="exponential", help="default: exponential")
    add("--memories", type=_count, metavar="K", help="pictures to store; default: all")
    add("--queries", type=_count, metavar="Q", help="pictures to recall; default: 100")
    help = "store 32 x 32 windows of the pictures, turned and mirrored; default: a million"
    add("--views", action="store_true", help=help)
    help = "fractions of the bits to flip, from 0 to 0.5; default: 0.25 0.4"
    add("--noise", type=_noise, nargs="+", action="extend", metavar="P", help=help)
    add("--images", type=Path, metavar="FOLDER", help="PNGs to store instead of the icons")
    add("--seed", type=_seed, default=0, help="chooses pictures and noise; default: 0")
    out = Path("amlib-demo")
    add("--out", type=Path, default=out, metavar="FOLDER", help=f"for the pictures; default: {out}")
    add("--mp4", action="store_true", help="write the film as MP4 too")
    return parser


def _count(text: str) -> int:
    return _within(text, int(text), 1)


def _noise(text: str) -> float:
    return _within(text, float(text), 0, 0.5, " (25 % is 0.25)")


def _seed(text: str) -> int:
    return _within(text, int(text), 0, 2**32 - 1)


_count.__name__ = _seed.__name__ = "whole number"  # as argparse names them in its errors
_noise.__name__ = "number"


def _within(
    text: str, value: _Number, low: float, high: float = math.inf, hint: str = ""
) -> _Number:
    """Return `value`, or make argparse say what must hold."""
    if low <= value <= high:
        return value
    bound = f"at most {high}" if value > high else f"at least {low}"
    raise argparse.ArgumentTypeError(f"must be {bound}; {text} came{hint}")


def _demo(parser: _Parser, argv: Sequence[str] | None) -> None:
    args = parser.parse_args(argv)
    try:
        if args.mp4:
            plots.require_video()
        images, names = am.data.sprites(args.images) if args.images else am.data.icons()
    except (OSError, ValueError, ModuleNotFoundError) as err:
        parser.error(str(err))
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=args.out).close()  # before a minute's work, not after
    except OSError as err:
        parser.error(f"argument --out: {args.out} must be a folder to write to; {err.strerror}")
    if args.views and args.model != "exponential":
        parser.error(f"argument --views: goes with --model exponential; {args.model} came")
    K = args.memories or (VIEWS if args.views else len(images))
    queries = args.queries or min(100, K)
    if len(images) < K and not args.views:
        parser.error(f"argument --memories: must be at most {len(images):,}; {K:,} came")
    if queries > K:
        parser.error(f"argument --queries: must be at most the memories, {K:,}; {queries:,} came")

    choose, corrupt, visits = jr.split(jr.key(args.seed), 3)
    # A random choice, for the alphabet starts with a hundred look-alikes. The first are queries.
    if args.views:
        try:
            made, chosen = views(images, K, VIEW, args.seed)
        except ValueError as err:
            parser.error(str(err))
        Xi = stored_patterns(made)
        del made
    else:
        chosen = np.asarray(jr.permutation(choose, len(images)))[:K]
        Xi = images.reshape(len(images), -1)[chosen]
    names = [str(name) for name in names]
    names = [names[k] for k in chosen]
    side = math.isqrt(Xi.shape[1])
    print(
        f"amlib {am.__version__} on {jax.default_backend()}: {K:,} "
        f"{'views of ' * args.views}{'pictures' if args.images else 'icons'} of {side} x {side} "
        f"bits stored, {queries:,} of them "
        f"corrupted and recalled (seed {args.seed}).\n\n{HEADER}"
    )
    levels = list(dict.fromkeys(args.noise or [0.25, 0.4]))
    runs = [_run(args.model, Xi, queries, p, (corrupt, visits)) for p in levels]
    classical = None
    if args.model != "classical" and not args.views:
        classical = _run("classical", Xi, queries, levels[0], (corrupt, visits))
    print(
        "Exactly so many bits are flipped. Overlap, sweeps, energy: means. Seconds: compiling too."
    )
    _report(runs, classical, Xi, names)
    _draw(runs, classical, names[:queries], K, args)


def _run(kind: str, Xi: jax.Array, queries: int, noise: float, keys: tuple[Key, Key]) -> Run:
    """Corrupt the first `queries` pictures, recall them, and print a row of the table."""
    model = MODELS[kind](Xi)
    Xi = model.Xi
    truth = Xi[:queries].astype(jnp.float32)
    corrupt, visits = (jr.split(key, queries) for key in keys)
    flip = jax.vmap(am.data.corrupt.flip_exactly, in_axes=(0, 0, None))
    x0 = flip(corrupt, truth, _flips(noise, Xi.shape[1]))
    energy = jax.vmap(model.energy)(x0).mean()
    recall = jax.vmap(lambda x, key: model.recall(x, key=key, max_sweeps=MAX_SWEEPS))
    # Patterns in int8 are read once for all queries.
    chunk = min(CHUNK if Xi.dtype == jnp.float32 else queries, queries)
    start, parts = time.perf_counter(), []
    with bars.bar(queries, None, desc=kind, unit="picture") as bar:
        for first in range(0, queries, chunk):
            # The last chunk is filled up with queries anew, so that one shape is compiled.
            at = np.arange(first, first + chunk) % queries
            parts.append(jax.block_until_ready(recall(x0[at], visits[at])))
            bar.update(min(chunk, queries - first))
    whole = jax.tree.map(lambda *a: jnp.concatenate(a)[:queries], *parts)
    seconds = time.perf_counter() - start
    run = Run(kind, noise, whole, np.asarray(truth), float(energy), seconds)
    print(run.row, flush=True)
    return run


def _flips(noise: float, D: int) -> int:
    return round(noise * D)


def _report(runs: list[Run], classical: Run | None, Xi: jax.Array, names: Sequence[str]) -> None:
    """Name what was missed, and say in one line how the classical network fails."""
    for run in runs:
        missed = np.flatnonzero(~run.exact).tolist()
        if run.model == "classical" or not 0 < len(missed) <= 5:
            continue
        h = _overlaps(Xi, run.recall.trajectory.x0[np.asarray(missed)])
        ends = np.argmax(_overlaps(Xi, run.recall.x[np.asarray(missed)]), axis=1).tolist()
        pairs = "; ".join(f"{names[q]} as {names[k]}" for q, k in zip(missed, ends, strict=True))
        lost = all(row[k] >= row[q] for row, q, k in zip(h, missed, ends, strict=True))
        why = ", no farther from the corrupted picture" if lost else ""
        print(f"At {100 * run.noise:.4g} % noise it recalled {pairs}{why}.")
    failure = classical or runs[0]
    if failure.model == "classical":
        ends = np.unique(np.asarray(failure.recall.x), axis=0)
        stored = (np.max(ends @ np.asarray(Xi).T, axis=1) == Xi.shape[1]).sum()
        print(
            f"The classical network on the same data: {failure.exact.sum()} of "
            f"{len(failure.truth)} exact; all its recalls end in {len(ends):,} "
            f"state{'s'[: len(ends) > 1]}, {stored or 'none'} of them stored."
        )


def _draw(
    runs: list[Run],
    classical: Run | None,
    names: list[str],
    K: int,
    args: argparse.Namespace,
) -> None:
    """Write the pictures, and print where they are."""
    files: list[Path] = []
    curves = None
    for run, color in zip(runs, itertools.cycle(COLORS), strict=False):
        percent = f"{100 * run.noise:g}"
        at = _columns(run.exact)
        compare = {}
        if classical is not None and classical.noise == run.noise:
            compare = {"classical\nnetwork": classical.recall.x[at]}
        axes = plots.recall(
            run.recall.x[at],
            before=run.recall.trajectory.x0[at],
            truth=run.truth[at],
            energy=run.recall.trajectory,
            names=[names[q] for q in at.tolist()],
            labels=(f"{percent} % of bits\nflipped", f"{run.model}\nmemory", "stored"),
            compare=compare,
            title=f"{run.exact.sum()} of {len(run.truth)} recalled exactly from "
            f"{K:,} stored, with {percent} % of the bits flipped",
        )
        files.append(_save(axes[0], args.out / f"recall-{percent}.png"))
        curves = plots.energies(run.recall, ax=curves, label=f"{percent} % flipped", color=color)
    files.append(_save(curves, args.out / "energies.png"))
    # The film shows no truth, so those that reach theirs come first.
    at = np.argsort(~runs[-1].exact, kind="stable")[:SHOWN]
    few, titles = jax.tree.map(lambda a: a[at], runs[-1].recall), [names[q] for q in at.tolist()]
    for suffix in (".png", ".mp4") if args.mp4 else (".png",):
        files.append(plots.animate(few, titles=titles, path=args.out / f"film{suffix}"))
    print("\nWritten: " + ", ".join(map(str, files)))
    if args.images is None:  # their licence asks to name the authors wherever they are shown
        print("Icons by Lorc, Delapouite and contributors, game-icons.net, CC BY 3.0")


def _overlaps(Xi: jax.Array, states: jax.Array) -> np.ndarray:
    return np.asarray(jax.vmap(lambda x: overlaps(Xi, x))(states))


def _columns(exact: np.ndarray) -> np.ndarray:
    """Ten queries to show: up to three that were missed, more where fewer than seven were not."""
    hits, misses = np.flatnonzero(exact), np.flatnonzero(~exact)
    room = max(10 - len(hits), min(3, len(misses)))
    return np.concatenate([hits[: 10 - room], misses[:room]])


def _save(axes: Any, path: Path) -> Path:
    axes.figure.savefig(path)
    return path


if __name__ == "__main__":
    _interrupt.end_quietly()  # again: `python -m amlib` is not the only way to come here
    code = main()
    _interrupt.ignore()
    sys.exit(code)
