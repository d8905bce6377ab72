"""Where a dropped unit lies in memory: in torch's layout of a weight, and by unit."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from scripts.report.figures.style import DROPPED, INK, KEPT, save

UNITS, OUTPUTS = 8, 8
_KEPT_UNITS = (0, 3, 4, 6)


def draw(root: Path) -> None:
    """Write docs/layout.png."""
    figure, (torchs, ours) = plt.subplots(1, 2, figsize=(8, 3.3), gridspec_kw={"wspace": 0.35})
    _draw_weight(torchs, by_unit=False)
    torchs.set_title(
        "torch's layout, [outputs][units]:\na line of memory has kept units and dropped ones"
    )
    torchs.set_xlabel("units")
    torchs.set_ylabel("outputs")
    _draw_weight(ours, by_unit=True)
    ours.set_title("by unit, [units][outputs]:\nthe lines of a dropped unit are never loaded")
    ours.set_xlabel("outputs")
    ours.set_ylabel("units")
    save(figure, root / "docs/layout.png")


def _draw_weight(axes: Axes, by_unit: bool) -> None:
    """A weight; each row is contiguous in memory, and framed where some of it is read."""
    for row in range(UNITS):
        kept = [(row if by_unit else column) in _KEPT_UNITS for column in range(OUTPUTS)]
        for column in range(OUTPUTS):
            color = KEPT if kept[column] else DROPPED
            axes.add_patch(Rectangle((column + 0.06, row + 0.12), 0.88, 0.76, color=color, lw=0))
        if any(kept):
            axes.add_patch(Rectangle((0, row + 0.03), OUTPUTS, 0.94, fill=False, ec=INK, lw=1.2))
    axes.set_xlim(-0.1, OUTPUTS + 0.1)
    axes.set_ylim(UNITS + 0.1, -0.1)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
