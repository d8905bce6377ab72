"""Draw the figures: python scripts/figures.py

results/figure1.png: the four cases of dropout, as masks that the library draws.
results/figure3.png: validation perplexity by epoch under the three policies, from the runs'
metrics.csv. results/benchmarks/speedup.png, from ptb_medium_p.csv, ptb_medium_hidden.csv and
ptb_medium_batch.csv beside it; README has their commands.
"""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.report.results import Group, groups  # noqa: E402
from structured_dropout import Case, SiteDropout  # noqa: E402
from structured_dropout.masks import Packing, draw  # noqa: E402

RESULTS = Path("results")
POLICIES = {"nr_random": "NR+Random (baseline)", "nr_st": "NR+ST", "nr_rh_st": "NR+RH+ST"}
STEPS, BATCH, UNITS = 3, 6, 10  # of figure 1
SWEEPS = {
    "p": ("task.rates.nr", "dropout rate p"),
    "hidden": ("model.hidden_size", "hidden size"),
    "batch": ("train.batch", "batch size"),
}


def main() -> None:
    cases()
    training()
    speedup()


def cases(results: Path = RESULTS) -> None:
    """Figure 1: what each case drops of the input of a layer, step by step."""
    figure, panels = plt.subplots(4, STEPS, figsize=(7, 8.5), layout="constrained")
    for row, case in enumerate(Case):
        for step, kept in enumerate(drawn(case)):
            panel = panels[row, step]
            panel.imshow(kept, cmap="Blues_r", vmin=-0.35, vmax=1.25, aspect="equal")
            panel.set_xticks([x - 0.5 for x in range(UNITS + 1)], [])
            panel.set_yticks([y - 0.5 for y in range(BATCH + 1)], [])
            panel.grid(color="white", linewidth=1)
            panel.tick_params(length=0)
            panel.set_xlabel("units")
            panel.set_ylabel("batch" if step == 0 else "")
            within = "structured" if case.structured else "random"
            over = "fixed" if case.fixed else "varying"
            panel.set_title(
                f"t = {step}" if step else f"Case {case.value}: {within}, {over}\nt = 0",
                fontsize=10,
            )
    figure.suptitle("Dropout within the batch and over time, p = 0.5 (dark: dropped)")
    _save(figure, results / "figure1.png")


def drawn(case: Case) -> torch.Tensor:
    """What a mask of this case keeps: 0 or 1 [steps, batch, units]."""
    torch.manual_seed(1)
    ones = torch.ones(STEPS * BATCH, UNITS)
    mask = draw(SiteDropout(case, 0.5), steps=STEPS, batch=BATCH, units=UNITS, like=ones)
    assert mask is not None
    return mask.apply(ones, Packing.padded(STEPS, BATCH)).view(STEPS, BATCH, UNITS) / 2


def training(results: Path = RESULTS) -> None:
    """Figure 3: the paper's task where it was run, else the small one."""
    found = groups(results / "runs")
    chosen = longest(found, "ptb_medium") or longest(found, "ptb_small")
    if not chosen:
        print("not drawn: figure 3 needs python run.py -m +experiment=figure3", file=sys.stderr)
        return
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for color, group in enumerate(chosen):
        curves = [perplexities(run.path.with_name("metrics.csv")) for run in group.runs]
        epochs = range(1, min(len(curve) for curve in curves) + 1)
        by_epoch = list(zip(*curves, strict=False))
        seeds = f", {len(curves)} seeds" if len(curves) > 1 else ""
        label = POLICIES[group.dropout] + seeds
        axes.plot(
            epochs,
            [statistics.mean(y) for y in by_epoch],
            "o-",
            color=f"C{color}",
            markersize=3,
            label=label,
        )
        axes.fill_between(
            epochs,
            [min(y) for y in by_epoch],
            [max(y) for y in by_epoch],
            color=f"C{color}",
            alpha=0.2,
        )
    settings = ", ".join(f"{key}: {value}" for key, value in chosen[0].differences)
    axes.set_title(chosen[0].task + (f" ({settings})" if settings else ""))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation perplexity")
    axes.legend(frameon=False)
    _save(figure, results / "figure3.png")


def longest(found: list[Group], task: str) -> list[Group]:
    """The recipe's runs under the three policies, or a shorter training that all of them went through."""
    own = [
        g
        for g in found
        if g.task == task and g.dropout in POLICIES and (g.shortened or not g.differences)
    ]
    epochs = {g.differences: g.runs[0].summary["epochs"] for g in own}
    for differences in sorted(epochs, key=lambda key: -epochs[key]):
        chosen = [g for g in own if g.differences == differences]
        if len(chosen) == len(POLICIES):
            return sorted(chosen, key=lambda group: list(POLICIES).index(group.dropout))
    return []


def perplexities(path: Path) -> list[float]:
    """On the validation text, epoch by epoch."""
    with open(path, newline="") as file:
        return [float(row["valid_perplexity"]) for row in csv.DictReader(file)]


def speedup(results: Path = RESULTS) -> None:
    """Speed-up of a training iteration against rate, hidden size and batch."""
    folder = results / "benchmarks"
    figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for panel, (name, (key, label)) in zip(panels, SWEEPS.items(), strict=True):
        plot(panel, read(folder / f"ptb_medium_{name}.csv"), key)
        panel.set_xlabel(label)
    panels[0].set_ylabel("speed-up of a training iteration\nover torch's LSTM")
    panels[0].legend(frameon=False)
    figure.suptitle("Zaremba medium: one key varied, the others as in the task")
    _save(figure, folder / "speedup.png")


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"written: {path}")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of whole iterations."""
    if not path.exists():
        sys.exit(f"error: {path} is missing; README has the command that makes it")
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if row["phase"] == "iteration"]


def plot(panel: Axes, rows: list[dict[str, str]], key: str) -> None:
    for dropout, style in (("nr_st", "o-"), ("nr_rh_st", "s-")):
        points = sorted(
            (setting(row, key), float(row["speedup_vs_fused"]))
            for row in rows
            if row["dropout"] == dropout
        )
        panel.plot(*zip(*points, strict=True), style, label=dropout)
    xs = [x for x, _ in points]
    allowed = [1 / (1 - (x if key == "task.rates.nr" else 0.5)) for x in xs]
    panel.plot(xs, allowed, "k--", linewidth=1, label="1 / (1 - p), by the arithmetic alone")
    panel.axhline(1, color="gray", linewidth=0.5)
    panel.set_ylim(bottom=0)


def setting(row: dict[str, str], key: str) -> float:
    """The value that this row's overrides give to a key."""
    return float(dict(override.split("=", 1) for override in row["overrides"].split())[key])


if __name__ == "__main__":
    main()
