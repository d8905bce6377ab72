"""Quality against speed, by rate and by how often units are drawn anew."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from scripts.report.benchmarks import timings
from scripts.report.figures.style import INK, save
from scripts.report.frontier import points
from scripts.report.runs import groups

MARKERS = {"1": "o", "5": "s", "sequence": "D"}
HELD = {"1": "1 step", "5": "5 steps", "sequence": "a sequence"}


def draw(root: Path) -> None:
    """Write results/benchmarks/frontier.png; a point that was not run is left out and named."""
    found = points(groups(root / "results/runs"), timings(root / "results/benchmarks"))
    for point in found:
        if point.group is None:
            setting = f"task.rates.nr={point.rate} dropout.nr.redraw_every={point.redraw_every}"
            print(f"not run: {setting}", file=sys.stderr)
    ran = [(point, point.group) for point in found if point.group is not None]
    if not ran:
        print("not drawn: docs/results.md has the commands of the frontier", file=sys.stderr)
        return
    figure, axes = plt.subplots(figsize=(7, 3.9))
    for color, rate in enumerate(sorted({point.rate for point, _ in ran})):
        line = [(point, group) for point, group in ran if point.rate == rate]
        speeds = [point.timing.vs_fused for point, _ in line]
        values = [group.values("test_perplexity") for _, group in line]
        middles = [statistics.median(y) for y in values]
        axes.plot(speeds, middles, color=f"C{color}", linewidth=1, label=f"p = {rate:g}")
        for (point, _), x, y, ys in zip(line, speeds, middles, values, strict=True):
            spread = [[y - min(ys)], [max(ys) - y]]
            marker = MARKERS[point.redraw_every]
            axes.errorbar(x, y, spread, color=f"C{color}", marker=marker, capsize=2)
    for redraw, marker in MARKERS.items():
        axes.plot([], [], marker, color=INK, label=f"a draw is held for {HELD[redraw]}")
    axes.set_xlabel("speed-up of a training iteration over torch's LSTM")
    axes.set_ylabel("test perplexity")
    first, group = ran[0]
    axes.set_title(f"{first.timing.task}, {first.timing.dropout}, {group.epochs} epochs")
    axes.legend()
    save(figure, root / "results/benchmarks/frontier.png")
