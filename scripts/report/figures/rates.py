"""Translation's quality against speed, by policy and by the rate of all sites."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from scripts.report.benchmarks import timings
from scripts.report.figures.style import save
from scripts.report.rates import Point, points, precisions
from scripts.report.runs import groups


def draw(root: Path) -> None:
    """Write results/benchmarks/rates.png: a panel for each precision in which speed was timed."""
    found = points(groups(root / "results/runs"), timings(root / "results/benchmarks"))
    timed = precisions(found)
    if not timed:
        print("not drawn: docs/results.md has the commands of BLEU by rate", file=sys.stderr)
        return
    figure, panels = plt.subplots(1, len(timed), figsize=(7, 3.6), sharey=True, squeeze=False)
    for axes, precision in zip(panels[0], timed, strict=True):
        for color, kind in enumerate(dict.fromkeys(_kind(point) for point in found)):
            own = [point for point in found if _kind(point) == kind and precision in point.speeds]
            speeds = [point.speeds[precision] for point in own]
            means = [statistics.mean(point.bleu) for point in own]
            below = [mean - min(point.bleu) for mean, point in zip(means, own, strict=True)]
            above = [max(point.bleu) - mean for mean, point in zip(means, own, strict=True)]
            axes.errorbar(
                speeds,
                means,
                [below, above],
                color=f"C{color}",
                marker="o",
                capsize=2,
                label=", ".join(kind),
            )
            for point, x, y in zip(own, speeds, means, strict=True):
                place = {"xytext": (6, 4), "textcoords": "offset points"}
                axes.annotate(f"p = {point.rate:g}", (x, y), fontsize=8, **place)
        axes.set_xlabel(f"speed-up over the fastest of torch's, {precision}")
        axes.margins(x=0.25)
    first = found[0].group
    panels[0][0].set_ylabel("BLEU, test set")
    panels[0][0].legend()
    figure.suptitle(f"{first.task}, {first.epochs} epochs", fontsize=10)
    save(figure, root / "results/benchmarks/rates.png")


def _kind(point: Point) -> tuple[str, str]:
    return point.group.dropout, point.group.precision
