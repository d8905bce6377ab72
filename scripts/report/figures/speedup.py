"""Speed-up of a training iteration against rate, hidden size and batch."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from scripts.report.benchmarks import timings
from scripts.report.figures.style import INK, save
from scripts.report.speed import SWEPT, Sweep, sweeps, swept_policies

TASK, RATE = "ptb_medium", 0.5  # that hidden sizes and batches were varied at


def draw(root: Path) -> None:
    """Write results/benchmarks/speedup.png from the committed sweeps of one key each."""
    folder = root / "results/benchmarks"
    found = sweeps(timings(folder))
    shown = {key: found[TASK, key] for key in SWEPT if (TASK, key) in found}
    if not shown:
        print("not drawn: the speed-ups need the sweeps of docs/results.md", file=sys.stderr)
        return
    figure, panels = plt.subplots(1, len(shown), figsize=(10, 3.3), sharey=True, squeeze=False)
    for panel, (key, sweep) in zip(panels[0], shown.items(), strict=True):
        _plot(panel, key, sweep)
    panels[0, 0].set_ylabel("speed-up of an iteration\nover torch's LSTM")
    panels[0, 0].legend()
    figure.subplots_adjust(wspace=0.06)
    save(figure, folder / "speedup.png")


def _plot(panel: Axes, key: str, sweep: Sweep) -> None:
    for number, (dropout, precision) in enumerate(swept_policies(sweep)):
        points = [
            (value, sweep[value][dropout, precision].vs_fused)
            for value in sorted(sweep)
            if (dropout, precision) in sweep[value]
        ]
        label = dropout if precision == "fp32" else f"{dropout}, {precision}"
        panel.plot(*zip(*points, strict=True), "os^D"[number % 4] + "-", label=label, markersize=5)
    values = sorted(sweep)
    allowed = [1 / (1 - (value if key == "task.rates.nr" else RATE)) for value in values]
    panel.plot(values, allowed, "--", color=INK, linewidth=1, label="1 / (1 - p)")
    panel.axhline(1, color=INK, linewidth=0.6)
    panel.set_xlabel(SWEPT[key])
    panel.set_ylim(bottom=0.8)
