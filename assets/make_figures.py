"""Draw the house figures of the README and the site again: `python assets/make_figures.py`.

- `demo.png`: the film of `make demo`, 18 recalls out of 4,134 stored pictures.
- `capacity.png`: exact recalls of icons against their number, for three energies; measured only
  with `--measure`, and else drawn from `capacity.json`.
- `temperature.png`: one memory of six patterns at three temperatures.
- `energy_transformer.png`: digits whose hidden patches are filled in along 12 steps, by the stored
  weights of the tutorial, and the energy of each.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import amlib as am

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
from captions import captioned, save  # noqa: E402

WEIGHTS = HERE.parent / "nbs" / "tutorials" / "weights"
QUERIES = 64
CAPTIONS = {
    "capacity": "Patterns: key 0; damage: key 1. A recall counts where every bit is right.",
    "temperature": "Modern Hopfield networks of six points of a circle (K = 6, D = 2), by gradient "
    "descent from eight starts; contours of the energy, nothing is drawn at random.",
    "energy_transformer": "Four held-out digits of MNIST (D = 784), 25 of their 49 patches hidden "
    "(key 0, blue); one training (seed 0, 3 times 60,000 pictures), no intervals.",
}


def demo(path: Path) -> None:
    """The film of the demonstration."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "amlib", "--out", folder], check=True)
        shutil.copy(Path(folder) / "film.png", path)


def measure() -> dict[str, dict[str, list[float]]]:
    """Exact recalls with a quarter of the bits flipped, from 2 to 2,048 stored icons."""
    images, _ = am.data.icons()
    Xi = images[jr.permutation(jr.key(0), len(images))[:2048]].reshape(2048, -1)
    factories = {
        "quadratic (classical)": am.ClassicalHopfield,
        "polynomial, n = 5": lambda Xi: am.PolynomialDenseAM(Xi, n=5, rectified=True),
        "exponential": am.ExponentialDenseAM,
    }
    curves = {}
    for name, factory in factories.items():
        curve = am.analysis.retrieval_curve(
            factory,
            Xi,
            am.data.corrupt.flip,
            [0.25],
            jr.key(1),
            counts=[2, 8, 32, 128, 512, 2048],
            queries=QUERIES,
            recall=lambda model, x, key: model.recall(x, key=key, record=0, max_sweeps=20),
            success=lambda x, xi: (x == xi).all(),
        )
        curves[name] = {field: column.tolist() for field, column in curve._asdict().items()}
    return curves


def capacity(path: Path) -> None:
    """The curves that were measured."""
    ax = None
    for name, columns in json.loads(path.with_suffix(".json").read_text()).items():
        arrays = {field: np.asarray(column) for field, column in columns.items()}
        ax = am.plots.capacity(am.analysis.RetrievalCurve(**arrays), ax=ax, label=name)
    assert ax is not None
    title = f"Icons, D = 2,304, a quarter of the bits flipped; {QUERIES} queries, 95 % intervals"
    ax.set_title(title, loc="left", fontsize=10)
    save(captioned(ax.figure, CAPTIONS["capacity"]), path)


def temperature(path: Path) -> None:
    """Recalls of six patterns: all together, in groups, one by one."""

    def circle(degrees: jax.Array) -> jax.Array:
        angle = jnp.deg2rad(degrees)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)

    six = circle(jnp.array([60.0, 90, 120, 240, 270, 300]))
    starts = 1.3 * circle(jnp.arange(8) * 45.0 + 10)
    method = am.GradientDescent(0.2)
    figure = am.plots.Picture(figsize=(10, 3.6), layout="constrained", dpi=100)
    for ax, beta in zip(figure.subplots(1, 3), (1.0, 8.0, 60.0), strict=True):
        model = am.ModernHopfield(six, beta=beta)
        recall = jax.vmap(lambda x, m=model: m.recall(x, method=method, save_every=1, max_steps=80))
        am.plots.landscape(model, (-1.5, 1.5), trajectories=recall(starts), points=81, ax=ax)
        ax.set_title(f"beta = {beta:g}", fontsize=10)
    save(captioned(figure, CAPTIONS["temperature"]), path)


def energy_transformer(path: Path) -> None:
    """Four digits on their way down: what is shown, the steps with their energy, the whole."""
    file = WEIGHTS / "energy_transformer_mnist.npz"
    model = am.hierarchical.load_energy_transformer(file, (28, 28), 4)
    with np.load(file) as stored:
        mean, std = float(stored["mean"]), float(stored["std"])
    chosen = jnp.array([1, 3, 6, 8])
    test = am.data.mnist("test", "bundled").images[chosen]
    hidden = jax.vmap(lambda k: jr.permutation(k, 49) < 25)(jr.split(jr.key(0), 500)[chosen])

    def fill(image: jax.Array, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        end = model.block.recall(model.embed(image, hidden), save_every=1)
        assert end.trajectory is not None
        return jax.vmap(model.decode)(end.trajectory.x), end.trajectory.energy

    films, energies = jax.vmap(fill)((test - mean) / std, hidden)
    films, pixels = (films * std + mean + 1) / 2, jax.vmap(model.pixels)(hidden)
    moments = [0, 1, 2, 4, 6, 8, 10, 12]
    columns = ["shown", *(f"step {n}" for n in moments), "whole"]
    figure = am.plots.Picture(figsize=(10, 5.9), dpi=100)
    heights = [1] * len(test) + [1.5]
    grid = figure.add_gridspec(len(test) + 1, len(columns), height_ratios=heights)
    figure.subplots_adjust(0.005, 0.025, 0.995, 0.95, 0.06, 0.1)
    colours = (am.plots.BLUE, am.plots.ORANGE, am.plots.GREEN, am.plots.PURPLE)
    below = figure.add_subplot(grid[-1, 1:-1])
    for row, colour in enumerate(colours):
        shown = np.ma.array((test[row] + 1) / 2, mask=pixels[row])
        pictures = [shown, *(films[row, n] for n in moments), (test[row] + 1) / 2]
        for column, (picture, title) in enumerate(zip(pictures, columns, strict=True)):
            ax = figure.add_subplot(grid[row, column])
            ax.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[], facecolor="#9cc4ea")
            for side in ax.spines.values():
                side.set(color=colour, linewidth=1.6)
            if row == 0:
                ax.set_title(title, fontsize=10)
        below.plot(energies[row, jnp.array(moments)], "o-", color=colour, ms=5)
    below.set(xlim=(-0.5, len(moments) - 0.5), xticks=[])
    below.set_title("energy", loc="right", y=0.75, fontsize=10)
    below.spines[["top", "right"]].set_visible(False)
    save(captioned(figure, CAPTIONS["energy_transformer"]), path)


FIGURES: dict[str, Callable[[Path], None]] = {
    "demo": demo,
    "capacity": capacity,
    "temperature": temperature,
    "energy_transformer": energy_transformer,
}


def main() -> None:
    """Draw the figures that are named, or all of them."""
    parser = argparse.ArgumentParser(description="Draw the house figures again.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; default: all"
    )
    parser.add_argument("--measure", action="store_true", help="the curves of capacity.png anew")
    args = parser.parse_args()
    if args.measure:
        (HERE / "capacity.json").write_text(json.dumps(measure(), indent=1) + "\n")
    for name in args.names or FIGURES:
        FIGURES[name](HERE / f"{name}.png")
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
