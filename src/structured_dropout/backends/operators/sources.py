"""Where the sources of the kernels are."""

from __future__ import annotations

from pathlib import Path


def folder(kind: str) -> Path:
    """kernels/cpu or kernels/cuda: inside the package in a wheel, at the top of a checkout."""
    here = Path(__file__).resolve()
    inside, checkout = (here.parents[up] / "kernels" / kind for up in (2, 4))
    return inside if inside.exists() else checkout
