"""The figure of results/systolic.csv: speed-ups in cycles by task, array, site and phase."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

DATAFLOWS = {"ws": "weight-stationary", "os": "output-stationary"}
SERIES = {  # (dropout, span): marker, color, label
    ("variational_st", "window"): ("D", "C0", "one draw a window"),
    ("nr_rh_st", "step"): ("o", "C3", "a draw each step"),
    ("nr_rh_st", "better"): ("*", "C2", "a draw each step, dense where that is faster"),
}
POINTS = [
    *((site, phase) for site in ("rh", "nr", "output") for phase in ("fp", "bp", "wg")),
    ("all", "all"),
]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A row of panels for each task, a column for each array and dataflow.

    Args:
        rows: of the CSV.
    """
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arrays = list(dict.fromkeys((row["array"], row["dataflow"]) for row in rows))
    figure, panels = plt.subplots(
        len(tasks), len(arrays), sharex=True, sharey=True, figsize=(15, 7), layout="constrained"
    )
    for line, task in zip(panels, tasks, strict=True):
        for panel, array in zip(line, arrays, strict=True):
            here = [
                row
                for row in rows
                if (row["task"], row["array"], row["dataflow"]) == (task, *array)
            ]
            side, dataflow = array
            panel.set_title(f"{task}, {side} x {side}, {DATAFLOWS[dataflow]}", fontsize=10)
            _plot(panel, {(r["dropout"], r["span"], r["site"], r["phase"]): r for r in here})
        line[0].set_ylabel("speed-up in cycles over dense\n(one product a window, U's a step)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot(panel: Axes, rows: Mapping[tuple[str, ...], Mapping[str, Any]]) -> None:
    for series, (marker, color, label) in SERIES.items():
        speedups = [float(rows[*series, *point]["speedup_vs_window"]) for point in POINTS]
        panel.plot(speedups, marker, color=color, label=label)
    allowed = [float(rows["nr_rh_st", "step", *point]["dropout_allows"]) for point in POINTS]
    panel.plot(allowed, "k_", markersize=14, label="1 / (1 - p)")
    panel.axhline(1, color="gray", linewidth=0.8)
    for edge in range(3, len(POINTS), 3):
        panel.axvline(edge - 0.5, color="lightgray", linewidth=0.8)
    panel.set_yscale("log", base=2)
    panel.set_yticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4], ["1/8", "1/4", "1/2", "1", "2", "4"])
    names = [f"{site} {phase.upper()}" for site, phase in POINTS[:-1]]
    panel.set_xticks(range(len(POINTS)), [*names, "iteration"], rotation=90)
