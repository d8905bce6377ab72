"""Figure 3: validation perplexity by epoch under random and structured dropout."""

from __future__ import annotations

import csv
import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

from scripts.report.figures.style import save
from scripts.report.runs import Group, groups, longest
from scripts.report.tables import POLICIES

LABELS = dict(zip(POLICIES, ("NR+Random (baseline)", "NR+ST", "NR+RH+ST"), strict=True))


def draw(root: Path) -> None:
    """Write results/figure3.png: the paper's task where it was run, else the small one."""
    found = groups(root / "results/runs")
    chosen = next(filter(None, (_longest(found, t) for t in ("ptb_medium", "ptb_small"))), None)
    if chosen is None:
        print("not drawn: figure 3 needs python run.py -m +experiment=figure3", file=sys.stderr)
        return
    figure, axes = plt.subplots(figsize=(7, 3.6))
    for color, group in enumerate(chosen):
        curves = [perplexities(result.path.with_name("metrics.csv")) for result in group.results]
        epochs = range(1, min(len(curve) for curve in curves) + 1)
        by_epoch = list(zip(*curves, strict=False))
        seeds = f", {len(curves)} seeds" if len(curves) > 1 else ""
        label = LABELS[group.dropout] + seeds
        means = [statistics.mean(y) for y in by_epoch]
        low, high = ([f(y) for y in by_epoch] for f in (min, max))
        axes.plot(epochs, means, "o-", markersize=3, label=label)
        axes.fill_between(epochs, low, high, color=f"C{color}", alpha=0.25, linewidth=0)
    notes = f" ({', '.join(chosen[0].notes)})" if chosen[0].notes else ""
    axes.set_title(f"{chosen[0].task}{notes}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation perplexity")
    axes.legend()
    save(figure, root / "results/figure3.png")


def _longest(found: list[Group], task: str) -> list[Group]:
    return longest([group for group in found if group.task == task], POLICIES)


def perplexities(path: Path) -> list[float]:
    """On the validation text, epoch by epoch."""
    with open(path, newline="") as file:
        return [float(row["valid_perplexity"]) for row in csv.DictReader(file)]
