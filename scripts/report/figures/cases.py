"""Figure 1: what each case of dropout drops of a layer's input, step by step."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap

from scripts.report.figures.style import DROPPED, KEPT, save
from structured_dropout import Case, SiteDropout
from structured_dropout.masks import Packing
from structured_dropout.masks import draw as draw_mask

STEPS, BATCH, UNITS = 3, 5, 10


def draw(root: Path) -> None:
    """Write results/figure1.png, from masks that the library draws."""
    figure, panels = plt.subplots(
        STEPS, len(Case), figsize=(10, 3.9), gridspec_kw={"hspace": 0.12, "wspace": 0.08}
    )
    for column, case in enumerate(Case):
        within = "each row its own units" if not case.structured else "one choice for the batch"
        over = "one draw a sequence" if case.fixed else "drawn anew each step"
        panels[0, column].set_title(f"Case {case.value}\n{within},\n{over}")
        for step, kept in enumerate(kept_units(case)):
            panel = panels[step, column]
            panel.imshow(kept, cmap=ListedColormap([DROPPED, KEPT]), vmin=0, vmax=1)
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set_visible(False)
            for line in range(1, UNITS):
                panel.axvline(line - 0.5, color="white", linewidth=0.8, alpha=0.5)
            for line in range(1, BATCH):
                panel.axhline(line - 0.5, color="white", linewidth=0.8, alpha=0.5)
            if column == 0:
                panel.set_ylabel(f"t = {step}\nbatch")
            if step == STEPS - 1:
                panel.set_xlabel("units")
    save(figure, root / "results/figure1.png")


def kept_units(case: Case) -> torch.Tensor:
    """What a mask of this case keeps: 0 or 1, float32 [steps, batch, units]."""
    torch.manual_seed(1)
    ones = torch.ones(STEPS * BATCH, UNITS)
    mask = draw_mask(SiteDropout(case, 0.5), steps=STEPS, batch=BATCH, units=UNITS, like=ones)
    assert mask is not None
    return mask.apply(ones, Packing.padded(STEPS, BATCH)).view(STEPS, BATCH, UNITS) / 2
