"""How the time steps of a layer are shared out: an owner keeps its hidden units to the end."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from scripts.report.figures.style import COLORS, DROPPED, INK, KEPT, save

OWNERS, UNITS = 3, 9
_STEPS = {"t": (0, 2, 3, 7), "t + 1": (1, 2, 5, 6, 8), "t + 2": (0, 4, 5, 7)}  # kept units of h
_CELLS = 3.6  # the width of what follows the products
_WIDTH = UNITS + _CELLS + 2


def draw(root: Path) -> None:
    """Write docs/steps.png."""
    figure, axes = plt.subplots(figsize=(9, 2.3))
    for number, (step, kept) in enumerate(_STEPS.items()):
        left = number * _WIDTH
        axes.text(left + (UNITS + _CELLS) / 2, -0.2, f"step {step}", ha="center")
        for owner in range(OWNERS):
            _draw_share(axes, left, owner, kept)
        if number:
            axes.plot([left - 0.85] * 2, [0, OWNERS], color=INK, linewidth=2.5)
    for owner in range(OWNERS):
        axes.text(-0.5, owner + 0.5, f"owner {owner}", ha="right", va="center")
    axes.set_xlim(-3.5, len(_STEPS) * _WIDTH - 1.5)
    axes.set_ylim(OWNERS + 0.05, -0.6)
    axes.axis("off")
    save(figure, root / "docs/steps.png")


def _draw_share(axes: Axes, left: float, owner: int, kept: tuple[int, ...]) -> None:
    """What an owner does in a step: the products of the kept units, then its cells."""
    for unit in range(UNITS):
        color = KEPT if unit in kept else DROPPED
        axes.add_patch(Rectangle((left + unit + 0.1, owner + 0.15), 0.8, 0.7, color=color, lw=0))
    cells = Rectangle((left + UNITS + 0.3, owner + 0.15), _CELLS, 0.7, color=COLORS[1], lw=0)
    axes.add_patch(cells)
    middle = (left + UNITS + 0.3 + _CELLS / 2, owner + 0.5)
    axes.text(*middle, "cells", color="white", ha="center", va="center", fontsize=9)
