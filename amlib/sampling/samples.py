"""What `sample` returns: observables of chains, and what they are continued from."""

import importlib
import warnings
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

from amlib import _checks as checks, _show as show
from amlib.descent.trajectory import RESULTS


class Samples(eqx.Module):
    """Draws of several chains: observables, and the states if they were asked for.

    `sample(memory, method, samples, steps=...)` goes on from the end. Arrays are NumPy's, with axes
    `(chains, draws)` first, and with one of temperatures behind them where a sampler has several.

    **Arguments:**

    - `observables`: by name, `(chains, draws, *shape)`; `"energy"` is always one of them.
    - `x`: the last state of each chain.
    - `result`: of each chain `RESULTS.sampled`, or `RESULTS.nonfinite` where it came to an energy
      that is not finite, and stayed there.
    - `steps`: how many steps are behind the chains, the warm-up and earlier runs included.
    - `states`: the states drawn, or `None`.
    - `betas`: the inverse temperatures of a sampler that has several, or `None`.
    - `swap_rates`: of tempering the share of swaps made of those tried, of each pair of neighbours,
      over all chains.
    - `carry`, `keys`: what the chains are continued from.
    """

    observables: dict[str, np.ndarray]
    x: PyTree[Array]
    result: RESULTS
    steps: int
    states: Any
    betas: Any
    swap_rates: Any
    carry: PyTree[Array]
    keys: Array

    @property
    def energy(self) -> np.ndarray:
        """The energies of the draws."""
        return self.observables["energy"]

    @property
    def chains(self) -> int:
        """How many chains there are."""
        return self.energy.shape[0]

    @property
    def draws(self) -> int:
        """How many draws of each chain there are."""
        return self.energy.shape[1]

    def __getitem__(self, name: str) -> np.ndarray:
        """An observable by its name."""
        checks.choice(name, self.observables, "Samples")
        return self.observables[name]

    def append(self, more: "Samples") -> "Samples":
        """These draws and those of a run that went on from here.

        **Raises:** `ValueError` for a run of other chains, observables or temperatures.
        """
        shapes = lambda s: {k: (v.shape[0], *v.shape[2:]) for k, v in s.observables.items()}
        if shapes(self) != shapes(more) or (self.states is None) != (more.states is None):
            raise ValueError(
                f"Samples.append: the run to append must have the chains and observables of this "
                f"one, {shapes(self)}; {shapes(more)} came."
            )
        join = lambda a, b: np.concatenate([a, b], axis=1)
        rates = more.swap_rates
        if self.swap_rates is not None and rates is not None:
            rates = (self.draws * self.swap_rates + more.draws * rates) / (self.draws + more.draws)
        return Samples(
            {name: join(a, more[name]) for name, a in self.observables.items()},
            more.x,
            more.result,
            more.steps,
            jax.tree.map(join, self.states, more.states),
            self.betas,
            rates,
            more.carry,
            more.keys,
        )

    def to_arviz(self) -> Any:
        """The observables as ArviZ keeps posteriors; needs `pip install 'amlib[sampling]'`.

        Temperatures are a dimension `beta` of each variable, and never chains: diagnostics over
        replicas that change their temperature would be wrong.

        **Returns:** an `InferenceData`, since ArviZ 1 a `DataTree`, with a group `posterior`.
        """
        az = _arviz()
        named, coords = {}, {}
        if self.betas is not None:
            coords["beta"] = self.betas
        for name, values in self.observables.items():
            own = [] if self.betas is None else ["beta"]
            own += [f"{name}_dim_{k}" for k in range(values.ndim - 2 - len(own))]
            named[name] = own
        dims = {name: own for name, own in named.items() if own}
        if int(az.__version__.split(".")[0]) < 1:
            return az.from_dict(posterior=dict(self.observables), coords=coords, dims=dims)
        return az.from_dict({"posterior": dict(self.observables)}, coords=coords, dims=dims)

    def summary(self) -> dict[str, np.ndarray]:
        r"""Mean, spread, effective sample size and split $\hat R$ of every scalar observable.

        Each component of an observable is a row, each temperature by itself; ArviZ works the
        diagnostics out. A component that never changes has a $\hat R$ of 1 and an error of 0; one
        that is constant in each chain, but not the same in all, has not mixed: infinity, and as
        many effective draws as chains at most.

        **Returns:** a tidy table, columns as arrays of one length: `name`, `beta` (NaN where there
        is one), `mean`, `sd`, `mcse` (the standard error of the mean), `ess` (bulk), `r_hat`.
        """
        az, rows = _arviz(), []
        for name, values in self.observables.items():
            values = np.asarray(values, np.float64)
            lead = 2 if self.betas is None else 3
            for index in np.ndindex(values.shape[2:]):
                draws = values[(slice(None), slice(None), *index)]
                beta = np.nan if self.betas is None else self.betas[index[0]]
                within = index[lead - 2 :]
                label = f"{name}[{', '.join(map(str, within))}]" if within else name
                ess, r_hat = _diagnostics(az, draws)
                sd = draws.std(ddof=1) if draws.size > 1 else 0.0
                rows.append((label, beta, draws.mean(), sd, sd / np.sqrt(ess), ess, r_hat))
        names = ("name", "beta", "mean", "sd", "mcse", "ess", "r_hat")
        return dict(zip(names, map(np.asarray, zip(*rows, strict=True)), strict=True))

    def __repr__(self) -> str:
        """One line: how many draws, of what, and whether all chains went well."""
        return show.attempt(self._said) or show.block(self)

    def _said(self) -> str:
        lost = int(np.sum(np.asarray(self.result == RESULTS.nonfinite)))
        at = "" if self.betas is None else f" at {len(self.betas)} temperatures"
        kept = "" if self.states is None else ", states"
        ended = f", {lost} chains nonfinite" if lost else ""
        return (
            f"Samples({self.chains} chains x {self.draws} draws{at} of "
            f"{', '.join(self.observables)}{kept}; {self.steps:,} steps{ended})"
        )


def _arviz() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # version 0.23 tells of version 1
            return importlib.import_module("arviz")
    except ImportError as err:
        raise ImportError(
            "Samples: ArviZ works out effective sizes and R-hat, and is not installed. "
            "pip install 'amlib[sampling]'"
        ) from err


def _diagnostics(az: Any, draws: np.ndarray) -> tuple[float, float]:
    """Effective sample size and split R-hat of `(chains, draws)` numbers."""
    if not np.isfinite(draws).all():
        return float("nan"), float("nan")
    if (draws == draws[0, 0]).all():
        return float(draws.size), 1.0
    if (draws == draws[:, :1]).all():
        return float(len(np.unique(draws[:, 0]))), float("inf")
    if draws.shape[1] < 4:
        return float("nan"), float("nan")
    number = lambda a: float(np.asarray(a["x"] if hasattr(a, "data_vars") else a))
    return number(az.ess(draws)), number(az.rhat(draws))
