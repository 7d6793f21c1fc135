"""Draw the house figures of the README and the site again: `python assets/make_figures.py`.

- `demo.png`: the film of `make demo`, 18 recalls out of 4,134 stored pictures.
- `capacity.png`: exact recalls of icons against their number, for three energies.
- `temperature.png`: one memory of six patterns at three temperatures.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr

import amlib as am

HERE = Path(__file__).parent


def demo(path: Path) -> None:
    """The film of the demonstration."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "amlib", "--out", folder], check=True)
        shutil.copy(Path(folder) / "film.png", path)


def capacity(path: Path) -> None:
    """Exact recalls with a quarter of the bits flipped, from 2 to 2,048 stored icons."""
    images, _ = am.data.icons()
    Xi = images[jr.permutation(jr.key(0), len(images))[:2048]].reshape(2048, -1)
    factories = {
        "quadratic (classical)": am.ClassicalHopfield,
        "polynomial, n = 5": lambda Xi: am.PolynomialDenseAM(Xi, n=5, rectified=True),
        "exponential": am.ExponentialDenseAM,
    }
    ax = None
    for name, factory in factories.items():
        curve = am.analysis.retrieval_curve(
            factory,
            Xi,
            am.data.corrupt.flip,
            [0.25],
            jr.key(1),
            counts=[2, 8, 32, 128, 512, 2048],
            queries=64,
            recall=lambda model, x, key: model.recall(x, key=key, record=0, max_sweeps=20),
            success=lambda x, xi: (x == xi).all(),
        )
        ax = am.plots.capacity(curve, ax=ax, label=name)
    ax.set_title("Icons of 2,304 bits, a quarter of them flipped", loc="left", fontsize=10)
    ax.figure.savefig(path)


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
    figure.savefig(path)


FIGURES: dict[str, Callable[[Path], None]] = {
    "demo": demo,
    "capacity": capacity,
    "temperature": temperature,
}


def main() -> None:
    """Draw the figures that are named, or all of them."""
    parser = argparse.ArgumentParser(description="Draw the house figures again.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; default: all"
    )
    for name in parser.parse_args().names or FIGURES:
        FIGURES[name](HERE / f"{name}.png")
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
