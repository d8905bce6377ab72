"""Structured masks where the kernels read them.

Their offsets are on the device as their indices are, the bounds of the steps go there once for all
sequences of the same sizes; BP and WG find them there. On the host remain sizes, never the counts
of kept units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from structured_dropout.backends.operators.arguments import TENSORS_PER_MASK, pack_masks
from structured_dropout.capture import kept
from structured_dropout.masks import Packing, UnitMask


@dataclass(frozen=True)
class DeviceMask:
    """A structured mask over the rows of a packed sequence, on the device.

    Args:
        indices: int32 [kept units of all draws], ascending within a draw.
        offsets: int64 [draws + 1]; draw d keeps ``indices[offsets[d]:offsets[d + 1]]``.
        steps_per_draw: time steps that one draw serves.
        rows: int64 [draws + 1]; draw d serves the rows ``rows[d]`` to ``rows[d + 1]``.
        most_rows: the rows of the draw that serves the most.
        units: size of the dropped dimension.
        scale: the factor on kept units.
    """

    indices: Tensor
    offsets: Tensor
    steps_per_draw: int
    rows: Tensor
    most_rows: int
    units: int
    scale: float

    @property
    def draws(self) -> int:
        return len(self.rows) - 1


def pack(
    masks: Sequence[UnitMask | None], packing: Packing, device: torch.device
) -> tuple[Sequence[int], Tensor, list[Tensor]]:
    """What the operators take for a sequence and its masks: the sizes of the steps, the bounds of
    their rows on the device, and ``pack_masks`` with offsets on the device."""
    bounds = kept(_bounds(packing, device))
    on_device = [mask and replace(mask, offsets=mask.device_offsets) for mask in masks]
    return packing.sizes, bounds, pack_masks(on_device)


@lru_cache(maxsize=64)  # a waiting copy, so that other streams find it there, too
def _bounds(packing: Packing, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # a training that comes later saves it, too
        return torch.tensor(packing.bounds, device=device)


@lru_cache(maxsize=64)
def packing_of(sizes: tuple[int, ...]) -> Packing:
    """One object for equal sizes, which finds its bounds once."""
    return Packing(sizes)


def unpack(
    packed: Sequence[Tensor], packing: Packing, bounds: Tensor, units: Sequence[int]
) -> list[DeviceMask | None]:
    """The masks that ``pack`` packed; ``units`` has the size of each site's dropped dimension."""
    sites = [packed[i : i + TENSORS_PER_MASK] for i in range(0, len(packed), TENSORS_PER_MASK)]
    masks: list[DeviceMask | None] = []
    for (indices, offsets, steps_per_draw, scale), size in zip(sites, units, strict=True):
        if len(offsets) == 0:
            masks.append(None)
            continue
        steps = int(steps_per_draw)
        rows = bounds if steps == 1 else torch.cat((bounds[:-1:steps], bounds[-1:]))
        if len(offsets) != len(rows):
            raise ValueError(
                f"a mask has {len(offsets) - 1} draws, the sequence needs {len(rows) - 1}"
            )
        # Steps do not grow: no draw serves more rows than the first.
        most_rows = packing.bounds[min(steps, packing.steps)]
        mask = DeviceMask(indices, offsets, steps, rows, most_rows, size, float(scale))
        masks.append(mask)
    return masks


def check(
    name: str,
    tensor: Tensor,
    like: Tensor,
    shape: Sequence[int | None],
    dtypes: Sequence[torch.dtype] = (torch.float32,),
) -> None:
    """A tensor of one of these dtypes and of this shape (None: any size) on the device of ``like``.

    Raises:
        ValueError: it is not.
    """
    if tensor.dtype not in dtypes:
        taken = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(
            f"{name} is {tensor.dtype}: the CUDA kernels take {taken}, convert the model"
        )
    if tensor.device != like.device:
        raise ValueError(
            f"{name} is on {tensor.device}, another argument on {like.device}: move them to one "
            "device"
        )
    if tensor.dim() != len(shape) or any(
        n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape {list(shape)}, has {list(tensor.shape)}")
