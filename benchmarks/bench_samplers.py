"""Samplers of bits against one another: effective samples per second on three hard landscapes.

Each draws 8 chains for the same number of sweeps (a sweep of `Tempering` is one of each
temperature), and is judged by the observable that it mixes worst: of the energy, and of what the
two valleys of each landscape differ in. ArviZ works out the effective sample size of all chains;
where split R-hat is above 1.05 the chains have not mixed, and the number means nothing.

    python benchmarks/bench_samplers.py                # print the table
    python benchmarks/bench_samplers.py --save FILE    # and write it, with machine and versions
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import machine
import numpy as np

import amlib as am

CHAINS, SWEEPS = 8, 2000


class Lattice(am.AbstractBinaryAM):
    """The Ising model on a periodic square lattice."""

    def energy(self, x):
        return -jnp.sum(x * jnp.roll(x, 1, 0)) - jnp.sum(x * jnp.roll(x, 1, 1))


class Glass(am.AbstractBinaryAM):
    """The Edwards-Anderson spin glass: bonds of -1 and +1 on a periodic cubic lattice."""

    J: jax.Array

    def energy(self, x):
        bonds = [self.J[a] * x * jnp.roll(x, 1, a) for a in range(3)]
        return -jnp.sum(bonds[0]) - jnp.sum(bonds[1]) - jnp.sum(bonds[2])


class Job(NamedTuple):
    """A landscape, the temperature to draw at, hotter ones for tempering, what is observed."""

    memory: am.AbstractMemory
    shape: tuple[int, ...]
    beta: float
    hottest: float
    replicas: int
    observables: dict[str, Callable[[Any], Any]]


def lattice() -> Job:
    """Near its critical temperature, beta = log(1 + sqrt 2) / 2 = 0.4407."""
    see = {"abs m": lambda x: jnp.abs(jnp.mean(x))}
    return Job(Lattice(), (32, 32), 0.44, 0.35, 10, see)


def glass() -> Job:
    """Below its transition, beta = 0.9. Seen by its overlap with a state of low energy."""
    J = jr.rademacher(jr.key(0), (3, 6, 6, 6), jnp.float32)
    memory = Glass(J)
    x0 = jr.rademacher(jr.key(1), (64, 6, 6, 6), jnp.float32)
    annealed = am.sampling.sample(
        memory,
        am.sampling.Annealed(np.linspace(0.1, 3.0, 400)),
        x0,
        jr.key(2),
        steps=1,
        warmup=400,
        progress=False,
    )
    low = annealed.x[np.argmin(annealed.energy[:, -1])]
    see = {"q": lambda x: jnp.mean(x * low)}
    return Job(memory, (6, 6, 6), 1.0, 0.2, 10, see)


def dense() -> Job:
    """An exponential memory at a temperature where it hops between two pictures."""
    Xi = jr.rademacher(jr.key(3), (2, 100), jnp.float32)
    see = {"m0 - m1": lambda x: (Xi[0] - Xi[1]) @ x / 100}
    return Job(am.ExponentialDenseAM(Xi, 0.03), (100,), 1.1, 0.6, 8, see)


JOBS = {
    "Ising 32 x 32, beta = 0.44": lattice,
    "Edwards-Anderson 6 x 6 x 6, beta = 1.0": glass,
    "exponential memory, K = 2, D = 100, beta = 1.1": dense,
}


def samplers(job: Job) -> dict[str, Any]:
    """Those compared; tempering with its betas spaced for even swaps by a short first run."""
    beta = job.beta
    betas = np.linspace(job.hottest, beta, job.replicas)
    for key in jr.split(jr.key(4), 2):
        first = am.sampling.sample(
            job.memory,
            am.sampling.Tempering(betas),
            starts(job),
            key,
            steps=100,
            warmup=100,
            progress=False,
        )
        betas = am.sampling.even_swaps(betas, first.swap_rates)
    fastest = am.Metropolis(1.0, "random")
    return {
        "Glauber, permutation": am.Glauber(beta),
        "Glauber, colours": am.Glauber(beta, "colours"),
        "Metropolis, random": am.Metropolis(beta, "random"),
        "GibbsWithGradients": am.GibbsWithGradients(beta),
        "DMALA, step 0.2": am.DMALA(beta, step_size=0.2),
        f"Tempering, {job.replicas} betas": am.sampling.Tempering(betas, fastest),
    }


def starts(job: Job) -> jax.Array:
    """States at random."""
    return jr.rademacher(jr.key(5), (CHAINS, *job.shape), jnp.float32)


def measure(job: Job, method: Any) -> tuple[float, float, int, float, str]:
    """Effective samples a second, their number, that of draws, R-hat, and what mixes worst."""
    # A sweep of single informed flips compares all flips for each: there are fewer of them.
    sweeps = SWEEPS // 40 if isinstance(method, am.GibbsWithGradients) else SWEEPS
    thin = 1 if sweeps < SWEEPS else 4
    words: dict[str, Any] = {
        "steps": sweeps // thin,
        "thin": thin,
        "warmup": sweeps // 4,
        "observables": job.observables,
        "progress": False,
    }
    run = lambda: am.sampling.sample(job.memory, method, starts(job), jr.key(6), **words)
    run()
    start = time.perf_counter()
    samples = run()
    took = (time.perf_counter() - start) * 0.8  # the warm-up is not a part of it
    table = samples.summary()
    rows = np.flatnonzero(np.isnan(table["beta"]) | np.isclose(table["beta"], job.beta, rtol=1e-3))
    worst = rows[np.argmin(table["ess"][rows])]
    ess = float(table["ess"][worst])
    drawn = CHAINS * (sweeps // thin)
    return ess / took, ess, drawn, float(table["r_hat"][worst]), str(table["name"][worst])


def report() -> str:
    """The tables, in Markdown."""
    lines = []
    for title, make in JOBS.items():
        job = make()
        lines += [
            f"\n### {title}\n",
            "| sampler | effective samples a second | of | R-hat | worst seen in |",
            "|---|---|---|---|---|",
        ]
        for name, method in samplers(job).items():
            rate, ess, drawn, r_hat, worst = measure(job, method)
            mixed = r_hat <= 1.05
            shown = f"{rate:,.1f}" if mixed else "not mixed"
            lines.append(f"| {name} | {shown} | {ess:,.0f} of {drawn:,} | {r_hat:.3f} | {worst} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="write the tables to this file, too")
    args = parser.parse_args()
    head = "# Samplers of bits\n\n" + machine.describe()
    how = f"{CHAINS} chains, {SWEEPS:,} sweeps after {SWEEPS // 4:,}, one draw every 4; "
    how += "of GibbsWithGradients a 40th, all drawn."
    text = f"{head}\n{how}\n{report()}"
    print(text)
    if args.save:
        args.save.write_text(text)


if __name__ == "__main__":
    main()
