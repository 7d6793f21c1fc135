"""The page and the pictures of what `train_energy_transformer.py` measured.

python benchmarks/report_energy_transformer.py --weights et-weights
python benchmarks/report_energy_transformer.py --weights et-weights --tutorial

The second writes the weights that the tutorial reads, and no page.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import train_energy_transformer as training
from captions import captioned, save
from train_energy_transformer import FILE, RESULTS, STEPS, call, make, pictures

import amlib as am

TUTORIAL = RESULTS.parents[1] / "nbs" / "tutorials" / "weights"
PICTURES = RESULTS / "energy_transformer_pictures.npz"
ROWS = ("whole", "shown", "Energy Transformer", "after 96 steps", "standard block")
CAPTIONS = {
    "mnist": "The first ten of 1,000 held-out digits of MNIST (D = 784), 25 of their 49 patches "
    "hidden (key 2026); one training of each model (seed 0, 3 times 60,000 pictures), no "
    "intervals. The Energy Transformer was trained for 12 steps.",
    "icons": "The first ten of 500 held-out icons (D = 2,304), 33 of their 64 patches of 6 x 6 "
    "hidden (key 2026); one training of each model (seed 0, 6 times 3,634 pictures), no "
    "intervals. The Energy Transformer was trained for 12 steps.",
}


def over(runs: dict[str, Any], kind: str, value: str = "mse") -> list[float]:
    """One number of all seeds of a model."""
    return [run[value] for name, run in runs.items() if name.rsplit(" ", 1)[0] == kind]


def table(runs: dict[str, Any]) -> str:
    """Errors of all models on all data, as Markdown."""
    names = [n for n in ("mnist", "icons") if n in runs]
    rows = ["| | " + " | ".join(names) + " | weights of the block |"]
    rows.append("|---" * (len(names) + 2) + "|")
    for name, word in (("mean", "the mean picture"), ("nearest", "nearest on what is shown")):
        cells = " | ".join(f"{runs['baselines'][n][name]:.4f}" for n in names)
        rows.append(f"| {word} | {cells} | |")
    words = {
        "et": "Energy Transformer",
        "et_long": "the same, three times as long",
        "block": "standard block",
        "block_long": "the same, three times as long",
        "looped": "standard block, 12 times",
    }
    for kind, word in words.items():
        found = [over(runs[n], kind) for n in names]
        if not any(found):
            continue
        cells = [" ".join(f"{x:.4f}" for x in sorted(f)) or "not run" for f in found]
        first = next(n for n, f in zip(names, found, strict=True) if f)
        run = next(r for k, r in runs[first].items() if k.rsplit(" ", 1)[0] == kind)
        rows.append(f"| {word} | {' | '.join(cells)} | {run['block_weights']:,} |")
    return "\n".join(rows)


def more_steps(runs: dict[str, Any]) -> str:
    """What more steps than were trained do."""
    rows = ["| steps | " + " | ".join(map(str, STEPS)) + " |", "|---" * (len(STEPS) + 1) + "|"]
    for name in ("mnist", "icons"):
        every = [r for k, r in runs.get(name, {}).items() if k.startswith("et ")]
        if every:
            mean = [np.mean([r["mse_after"][str(n)] for r in every]) for n in STEPS]
            rows.append(f"| error, {name} | " + " | ".join(f"{x:.4f}" for x in mean) + " |")
            mean = [np.mean([r["core_energy"][n] for r in every]) for n in STEPS]
            rows.append(f"| core energy, {name} | " + " | ".join(f"{x:.0f}" for x in mean) + " |")
    return "\n".join(rows)


def what_more_steps_do(runs: dict[str, Any]) -> str:
    """The same in words, with its numbers."""
    said = []
    for name in ("mnist", "icons"):
        every = [r["mse_after"] for k, r in runs.get(name, {}).items() if k.startswith("et ")]
        if every:
            mean = {n: float(np.mean([r[str(n)] for r in every])) for n in STEPS}
            best = min(mean, key=lambda n: mean[n])
            said.append(
                f"{name}: the error is least after {best} steps ({mean[best]:.4f}), and after "
                f"{max(STEPS)} it is {mean[max(STEPS)]:.4f}, where the mean picture has "
                f"{runs['baselines'][name]['mean']:.4f}."
            )
    return (
        "The energy goes on falling, and grey, which says what is uncertain, goes on turning into "
        "ink or paper; the error is least near the depth that was trained, and goes up again. "
        + " ".join(said)
    )


def where(run: dict[str, Any]) -> str:
    """The device of a run."""
    device = run["machine"].split("JAX devices: ")[1].splitlines()[0]
    return "one core" if device.startswith("cpu") else f"an {device}"


def digits(runs: dict[str, Any]) -> str:
    """What the token CLS makes of the whole test file, in how many steps."""
    rows = ["## Digits from the token CLS\n"]
    rows += [
        f"- seed {seed}: **{100 * r['accuracy']:.2f} %** of the test file after {r['epochs']} "
        f"epochs of {r['pictures']:,} pictures, batches of {r['batch']}, peak rate {r['rate']:g}, "
        f"{r['seconds'] / 60:.0f} minutes on {where(r)} beside other work; training loss "
        + ", ".join(f"{x:.3f}" for x in r["loss"])
        for seed, r in runs.items()
    ]
    run = next(iter(runs.values()))
    rows.append(
        f"\nTrained end to end on pictures shifted by up to 1 pixel, label smoothing 0.1 (of which "
        f"0.500 is the least loss there is): patches of 7, {run['features']} features, "
        f"{run['heads']} heads of width {run['head_width']}, {run['memories']} memories "
        f"({run['block_weights']:,} weights in the block), {run['steps']} steps of "
        f"{run['alpha']:g}, and Muon, whose steps are of equal size in all directions of a weight "
        "matrix: over 10,000 digits from the same start it came to 84 %, AdamW to 61 %, of the "
        "first 2,000 digits of the test file (96 features, 6 steps of 0.2; rates 0.01 and 0.003). "
        "With the tokens of the completion above (patches of 4, 64 features, 12 steps) and AdamW "
        "the head was at 79.7 % after one epoch, and at 91.5 % after two that began with the "
        "weights of completion (commit ef90bae)."
    )
    after = run["accuracy_after"]
    rows += ["", "| steps (trained for " + str(run["steps"]) + ") | " + " | ".join(after) + " |"]
    rows.append("|---" * (len(after) + 1) + "|")
    rows.append("| % right | " + " | ".join(f"{100 * x:.2f}" for x in after.values()) + " |")
    return "\n".join(rows)


def collect(weights: Path) -> None:
    """Keep what models of the longest training at hand make of ten held-out pictures."""
    kept = dict(np.load(PICTURES)) if PICTURES.exists() else {}
    for name in CAPTIONS:
        data, chosen = pictures(name), slice(0, 10)
        images, hidden = data.held_out[chosen], data.hidden()[chosen]
        pixels = jax.vmap(make("et", data, jr.key(0)).pixels)(hidden)
        rows = {"whole": images, "shown": jnp.where(pixels, jnp.nan, images)}
        for kind in ("et", "block"):
            files = [weights / f"{name}_{k}_0.am" for k in (f"{kind}_long", kind)]
            file = next((f for f in files if f.exists()), None)
            if file is None:
                continue
            model = am.load(file, make(kind, data, jr.key(0)))
            out = jax.vmap(functools.partial(call, model))(images, hidden)
            rows["standard block" if kind == "block" else "Energy Transformer"] = out
            if kind == "et":
                rows["after 96 steps"] = jax.vmap(lambda i, h, m=model: m(i, h, steps=96))(
                    images, hidden
                )
        for row, values in rows.items():
            ink = np.where(pixels, values, images) if row != "shown" else np.asarray(values)
            kept[f"{name}: {row}"] = np.asarray([data.ink(x) for x in ink], np.float16)
    np.savez_compressed(PICTURES, **kept)


def completed(name: str) -> str:
    """Held-out pictures with what is made of them."""
    import matplotlib.pyplot as plt

    with np.load(PICTURES) as kept:
        rows = {row: kept[f"{name}: {row}"] for row in ROWS if f"{name}: {row}" in kept}
    fig, axes = plt.subplots(len(rows), 10, figsize=(10, 1.02 * len(rows)))
    for line, (word, several) in zip(axes, rows.items(), strict=True):
        for ax, image in zip(line, several, strict=True):
            ax.imshow(image.astype(np.float32), cmap="gray_r", vmin=0, vmax=1)
            ax.set_facecolor("#c6d8ee")
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(
            word.replace(" ", "\n", 1), rotation=0, ha="right", va="center", fontsize=8
        )
    fig.subplots_adjust(left=0.12, right=0.995, top=0.99, bottom=0.01, wspace=0.06, hspace=0.06)
    save(captioned(fig, CAPTIONS[name]), RESULTS / f"energy_transformer_{name}.png", dpi=110)
    return f"![Completed pictures](energy_transformer_{name}.png)"


def figure(runs: dict[str, Any]) -> list[str]:
    """Held-out pictures with what is made of them; errors and energies along the steps."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    made = [completed(name) for name in CAPTIONS]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for name, colour in (("mnist", "#0072B2"), ("icons", "#D55E00")):
        for key, run in runs.get(name, {}).items():
            if key.startswith("et"):
                label = name if key == "et 0" else None
                energy = np.asarray(run["core_energy"])
                left.plot(energy - energy[0], color=colour, label=label)
                right.plot(STEPS, [run["mse_after"][str(n)] for n in STEPS], ".-", color=colour)
    for ax, title in ((left, "core energy, from the start"), (right, "error on hidden patches")):
        ax.axvline(12, color="0.6", lw=0.8, ls="--")
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("steps (trained for 12)")
    left.legend(frameon=False)
    captioned(
        fig,
        "Held-out pictures, 1,000 of MNIST (D = 784) and 500 icons (D = 2,304), about half of the "
        "patches hidden; a line for each training (seed), without intervals.",
    )
    save(fig, RESULTS / "energy_transformer_steps.png", dpi=110)
    return [*made, "![Energies and errors by the number of steps](energy_transformer_steps.png)"]


def report(file: Path) -> None:
    """The page of all runs."""
    runs = json.loads(file.read_text())
    machines = {m for g in runs.values() for r in g.values() if isinstance(r, dict)
                for m in r.get("machine", "").splitlines() if m}  # fmt: skip
    machines |= {m for g in runs.values() for m in str(g.get("machine", "")).splitlines() if m}
    doc = (training.__doc__ or "").split("\n\n")
    parts = ["# The Energy Transformer on pictures", *doc[2:4], "\n".join(sorted(machines))]
    parts += ["## Mean squared error of ink on hidden patches", table(runs)]
    first = next(iter(runs["mnist"].values()))
    every = [r for group in ("mnist", "icons") for r in runs.get(group, {}).values()]
    every = [r for r in every if "largest_rise" in r]
    rises = {place: max(r["largest_rise"] for r in every if where(r) == place)
             for place in sorted({where(r) for r in every})}  # fmt: skip
    rises = "; ".join(f"{rise:.1e} on {place}" for place, rise in rises.items())
    parts.append(
        f"One column per data set, all seeds; MNIST: {first['pictures']:,} pictures once, icons: "
        "3,634 pictures 6 times, batches of 25, peak rate 0.003. The largest rise of the core "
        f"energy in any of 96 steps, as a share of it: {rises} (below 0: it fell in all; by "
        "default a GPU rounds the factors of a product to 10 bits, which is seen here)."
    )
    parts += ["## More steps than were trained", more_steps(runs), what_more_steps_do(runs)]
    if "classify" in runs:
        parts.append(digits(runs["classify"]))
    if "backward" in runs:
        rows = [
            "## Backward through the depth, 32 digits\n",
            "| | steps | ms | MB | s to compile |",
        ]
        rows.append("|---|---|---|---|---|")
        for name, group in runs["backward"].items():
            rows += [
                f"| {name}: {way} | {r['steps']} | {r['milliseconds']:.0f} | "
                f"{r['megabytes']:.1f} | {r['seconds_to_compile']:.1f} |"
                for way, r in group.items()
                if isinstance(r, dict)
            ]
        rows.append(
            "\nMedians of five. At rest the patches that are shown are held, the states of the "
            "others solve $x = -\\partial E/\\partial g$ within 0.001, and the derivative is "
            "implicit: its memory does not depend on the number of steps, which is that of the "
            "slowest digit."
        )
        parts.append("\n".join(rows))
    parts += figure(runs)
    (RESULTS / "energy_transformer.md").write_text("\n\n".join(parts) + "\n")


def tutorial(weights: Path) -> None:
    """What the tutorial reads: parameters by their published names, in half precision."""

    def write(name: str, values: dict[str, Any], **scale: float) -> None:
        half = {k: np.asarray(v, np.float16) for k, v in values.items()}
        np.savez(TUTORIAL / f"{name}.npz", **half, **scale)

    for name, kind in (("mnist", "et_long"), ("icons", "et")):
        data = pictures(name)
        model = am.load(weights / f"{name}_{kind}_0.am", make("et", data, jr.key(0)))
        write(f"energy_transformer_{name}", model.published(), mean=data.mean, std=data.std)
    model = am.load(weights / "mnist_block_long_0.am", make("block", pictures("mnist"), jr.key(0)))
    block: Any = model.block
    values = {n: getattr(block, n) for n in ("Wqkv", "Wout", "W1", "W2", "b1", "b2")}
    values |= {n: getattr(model, n) for n in am.hierarchical.image_energy_transformer.AROUND}
    scale, shift = block.norms[2]  # of the last normalisation: part of the decoder here
    values |= {"norms": block.norms[:2], "Bdec": model.Bdec + shift @ model.Wdec}
    write("standard_block", values | {"Wdec": scale[:, None] * model.Wdec})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--file", type=Path, default=FILE)
    parser.add_argument("--weights", type=Path, default=Path("et-weights"))
    parser.add_argument("--tutorial", action="store_true", help="write the tutorial's weights")
    args = parser.parse_args()
    if args.tutorial:
        tutorial(args.weights)
    else:
        if args.weights.exists():
            collect(args.weights)
        report(args.file)


if __name__ == "__main__":
    main()
