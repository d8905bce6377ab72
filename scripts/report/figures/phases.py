"""Figure 2: what the three phases of training read, compute and leave out at one step."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from scripts.report.figures.style import DROPPED, INK, KEPT, save

BATCH, INPUTS, OUTPUTS = 3, 8, 5
_KEPT_UNITS = (0, 3, 4, 6)
_GAP = 1.6  # between two matrices


class Matrix(NamedTuple):
    """A factor or a product: its rows and columns, and which of the two are the dropped site's."""

    name: str
    rows: int
    columns: int
    dropped: str  # "rows", "columns" or "" where all of it counts


_X = Matrix("x", BATCH, INPUTS, "columns")
_PHASES = {
    "FP:  y = (x · mask) Wᵀ": (_X, Matrix("Wᵀ", INPUTS, OUTPUTS, "rows"),
                               Matrix("y", BATCH, OUTPUTS, "")),
    "BP:  dx = (dy W) · mask": (Matrix("dy", BATCH, OUTPUTS, ""),
                                Matrix("W", OUTPUTS, INPUTS, "columns"),
                                Matrix("dx", BATCH, INPUTS, "columns")),
    "WG:  dW += dyᵀ (x · mask)": (Matrix("dyᵀ", OUTPUTS, BATCH, ""), _X,
                                  Matrix("dW", OUTPUTS, INPUTS, "columns")),
}  # fmt: skip


def draw(root: Path) -> None:
    """Write docs/phases.png."""
    figure, axes = plt.subplots(figsize=(10, 2))
    x = 0.0
    for title, matrices in _PHASES.items():
        left = x
        for matrix, sign in zip(matrices, (r"$\times$", "=", ""), strict=True):
            _draw_matrix(axes, matrix, x)
            x += matrix.columns + _GAP
            axes.text(x - _GAP / 2, 0, sign, ha="center", va="center", fontsize=13)
        axes.text((left + x - _GAP) / 2, INPUTS / 2 + 2.2, title, ha="center", fontsize=11)
        x += _GAP
    axes.set_xlim(0, x - 2 * _GAP)
    axes.set_ylim(-INPUTS / 2, INPUTS / 2 + 3.2)
    axes.set_aspect("equal")
    axes.axis("off")
    save(figure, root / "docs/phases.png")


def _draw_matrix(panel: Axes, matrix: Matrix, left: float) -> None:
    top = matrix.rows / 2
    for row in range(matrix.rows):
        for column in range(matrix.columns):
            unit = {"rows": row, "columns": column}.get(matrix.dropped)
            kept = unit is None or unit in _KEPT_UNITS
            color = KEPT if kept else DROPPED
            corner = (left + column + 0.05, top - row - 0.95)
            panel.add_patch(Rectangle(corner, 0.9, 0.9, color=color, linewidth=0))
    panel.text(left + matrix.columns / 2, top + 0.35, matrix.name, ha="center", color=INK)
