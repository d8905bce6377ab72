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

SPEEDS = (0.8, 1.4)  # that a panel has at least, lest noise look like a difference


def draw(root: Path) -> None:
    """Write results/benchmarks/rates.png: a panel for each precision in which speed was timed."""
    found = points(groups(root / "results/runs"), timings(root / "results/benchmarks"))
    timed = precisions(found)
    if not timed:
        print("not drawn: docs/results.md has the commands of BLEU by rate", file=sys.stderr)
        return
    figure, panels = plt.subplots(
        1, len(timed), figsize=(7, 3.6), sharey=True, squeeze=False, layout="constrained"
    )
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
        axes.set_title(f"timed in {precision}")
        axes.set_xlim(*_at_least(SPEEDS, axes.get_xlim()))
    first, left = found[0].group, panels[0][0]
    left.set_ylim(
        *_at_least((first.mean("test_bleu") - 1, first.mean("test_bleu") + 1), left.get_ylim())
    )
    left.set_ylabel(f"BLEU, test set, {first.epochs} epochs")
    left.legend()
    figure.supxlabel("speed-up of a training iteration over the fastest of torch's", fontsize=10)
    save(figure, root / "results/benchmarks/rates.png")


def _at_least(least: tuple[float, float], limits: tuple[float, float]) -> tuple[float, float]:
    return min(least[0], limits[0]), max(least[1], limits[1])


def _kind(point: Point) -> tuple[str, str]:
    return point.group.dropout, point.group.precision
