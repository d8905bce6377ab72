"""How figures look: transparent, in colours that can be read on light and dark pages."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from cycler import cycler

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

INK = "#7d8590"  # text and axes: about 4 to 1 against white and against black
COLORS = ("#3b82f6", "#e8710a", "#22a06b", "#b06ae0")
KEPT, DROPPED = "#3b82f6", "#7d859033"  # of a mask

plt.rcParams.update(
    {
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.prop_cycle": cycler(color=COLORS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlesize": 10,
        "font.size": 10,
        "legend.frameon": False,
        "legend.labelcolor": INK,
        "savefig.bbox": "tight",
        "savefig.dpi": 150,
        "savefig.pad_inches": 0.03,
        "savefig.transparent": True,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def save(figure: Figure, path: Path) -> None:
    """Write a figure, and its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    print(f"written: {path}")
