"""Sequences and structured masks where the kernels read them.

Their offsets are on the device as their indices are, the bounds of the steps go there once for all
sequences of the same sizes. On the host remain sizes, never the counts of kept units.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from structured_dropout.backends.operators.arguments import pack_masks
from structured_dropout.capture import constant
from structured_dropout.masks import Packing, UnitMask

# Sizes of the steps, the bounds of their rows on the device, and the masks.
MaskedSequence = tuple[tuple[int, ...], Tensor, list[Tensor]]


def pack(
    masks: Iterable[UnitMask | None], packing: Packing, device: torch.device
) -> MaskedSequence:
    """What the operators take: ``pack_masks`` with offsets on the device, after the sequence."""
    bounds = constant(_bounds, packing, device)
    return packing.sizes, bounds, pack_masks(masks, on_device=True)


@lru_cache(maxsize=64)  # a waiting copy, so that other streams find it there, too
def _bounds(packing: Packing, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a training that comes later saves it, too
        return torch.tensor(packing.bounds, device=device)


def places_before(sizes: tuple[int, ...], directions: int, device: torch.device) -> list[Tensor]:
    """For each direction the place of h_{t-1} of each row of a packed sequence (in the reverse
    direction of h_{t+1}): in y, or behind it in h_0. Empty where all steps have the same rows."""
    packing = Packing(sizes)
    if packing.is_padded:
        return []
    return [constant(_places_before, packing, d == 1, device) for d in range(directions)]


@lru_cache(maxsize=64)
def _places_before(packing: Packing, reverse: bool, device: torch.device) -> Tensor:
    # Out of inference mode: a training that comes later has it, too.
    with torch.inference_mode(False), torch.device("cpu"):
        sizes, bounds = torch.tensor(packing.sizes), torch.tensor(packing.bounds)
        step = torch.repeat_interleave(torch.arange(packing.steps), sizes)
        rows = len(step)
        row = torch.arange(rows) - bounds[step]
        before = step + 1 if reverse else step - 1
        starts = (before == packing.steps) | (before < 0)
        before = before.clamp(0, packing.steps - 1)
        starts |= row >= sizes[before]
        return torch.where(starts, rows + row, bounds[before] + row).to(device)
