"""Draw the speed-up plots from the benchmark's files: python scripts/figures.py [results/benchmarks]

ptb_medium_p.csv, ptb_medium_hidden.csv and ptb_medium_batch.csv become speedup.png; README has their commands.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

SWEEPS = {
    "p": ("task.rates.nr", "dropout rate p"),
    "hidden": ("model.hidden_size", "hidden size"),
    "batch": ("train.batch", "batch size"),
}


def main(folder: Path) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(12, 4), sharey=True, layout="constrained")
    for panel, (name, (key, label)) in zip(panels, SWEEPS.items(), strict=True):
        draw(panel, read(folder / f"ptb_medium_{name}.csv"), key)
        panel.set_xlabel(label)
    panels[0].set_ylabel("speed-up of a training iteration\nover torch's LSTM")
    panels[0].legend(frameon=False)
    figure.suptitle("Zaremba medium: one key varied, the others as in the task")
    path = folder / "speedup.png"
    figure.savefig(path, dpi=150)
    print(f"written: {path}")


def read(path: Path) -> list[dict[str, str]]:
    """The rows of whole iterations."""
    if not path.exists():
        sys.exit(f"error: {path} is missing; README has the command that makes it")
    with open(path, newline="") as file:
        return [row for row in csv.DictReader(file) if row["phase"] == "iteration"]


def draw(panel: Axes, rows: list[dict[str, str]], key: str) -> None:
    for dropout, style in (("nr_st", "o-"), ("nr_rh_st", "s-")):
        points = sorted(
            (setting(row, key), float(row["speedup_vs_fused"])) for row in rows if row["dropout"] == dropout
        )
        panel.plot(*zip(*points, strict=True), style, label=dropout)
    xs = [x for x, _ in points]
    allowed = [1 / (1 - (x if key == "task.rates.nr" else 0.5)) for x in xs]
    panel.plot(xs, allowed, "k--", linewidth=1, label="1 / (1 - p), what dropout allows")
    panel.axhline(1, color="gray", linewidth=0.5)
    panel.set_ylim(bottom=0)


def setting(row: dict[str, str], key: str) -> float:
    """The value that this row's overrides give to a key."""
    return float(dict(override.split("=", 1) for override in row["overrides"].split())[key])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/benchmarks"))
