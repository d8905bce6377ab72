"""Translation's quality against speed, by policy and by the rate of all sites."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from scripts.report.benchmarks import timings
from scripts.report.figures.style import save
from scripts.report.rates import points
from scripts.report.runs import groups


def draw(root: Path) -> None:
    """Write results/benchmarks/rates.png; what was not timed is left out and named."""
    found = points(groups(root / "results/runs"), timings(root / "results/benchmarks"))
    for point in found:
        if point.speed is None:
            print(f"not timed: {point.group.dropout} at {point.rate:g}", file=sys.stderr)
    timed = [(point, point.speed) for point in found if point.speed is not None]
    if not timed:
        print("not drawn: docs/results.md has the commands of multi30k", file=sys.stderr)
        return
    figure, axes = plt.subplots(figsize=(7, 3.9))
    for color, dropout in enumerate(dict.fromkeys(point.group.dropout for point, _ in timed)):
        own = [(point, x) for point, x in timed if point.group.dropout == dropout]
        speeds, tests = [x for _, x in own], [point.metrics[1] for point, _ in own]
        middles = [statistics.mean(values) for values in tests]
        spread = [
            [y - min(values) for y, values in zip(middles, tests, strict=True)],
            [max(values) - y for y, values in zip(middles, tests, strict=True)],
        ]
        axes.errorbar(
            speeds, middles, spread, color=f"C{color}", marker="o", capsize=2, label=dropout
        )
        for (point, x), y in zip(own, middles, strict=True):
            label = f"p = {point.rate:g}"
            axes.annotate(label, (x, y), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel("speed-up of a training iteration over the fastest of torch's")
    axes.set_ylabel("BLEU, test set")
    first = timed[0][0].group
    axes.set_title(f"{first.task}, {first.precision}, {first.epochs} epochs")
    axes.legend()
    save(figure, root / "results/benchmarks/rates.png")
