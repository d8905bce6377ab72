"""Structured masks where the kernels read them.

A mask's offsets and the bounds of its rows go to the device once a layer, in one copy that nothing
waits for; BP and WG find them there. On the host remain sizes, never the counts of kept units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from structured_dropout.masks import Packing


@dataclass(frozen=True)
class DeviceMask:
    """A structured mask over the rows of a packed sequence, on the device.

    Args:
        indices: int32 [kept units of all draws], ascending within a draw.
        offsets: int64 [draws + 1]; draw d keeps ``indices[offsets[d]:offsets[d + 1]]``.
        rows: int64 [draws + 1]; draw d serves the rows ``rows[d]`` to ``rows[d + 1]``.
        most_rows: the rows of the draw that serves the most.
        units: size of the dropped dimension.
        scale: the factor on kept units.
    """

    indices: Tensor
    offsets: Tensor
    rows: Tensor
    most_rows: int
    units: int
    scale: float

    @property
    def draws(self) -> int:
        return len(self.rows) - 1


def most_rows(packing: Packing, steps_per_draw: int) -> int:
    """The rows of the draw that serves the most: the first, since steps do not grow."""
    return packing.bounds[min(steps_per_draw, packing.steps)]


def draw_rows(first: Tensor, steps_per_draw: int) -> Tensor:
    """The row bounds of draws, from those of steps."""
    return first if steps_per_draw == 1 else torch.cat((first[:-1:steps_per_draw], first[-1:]))


def send(device: torch.device, *numbers: Tensor) -> list[Tensor]:
    """Small CPU tensors to the device in one copy, without waiting for it."""
    if device.type != "cuda":
        return list(numbers)
    together = torch.cat(numbers).pin_memory().to(device, non_blocking=True)
    return list(torch.split(together, [len(part) for part in numbers]))


def check(name: str, tensor: Tensor, like: Tensor, shape: Sequence[int | None]) -> None:
    """A float32 tensor of this shape (None: any size) on the device of ``like``.

    Raises:
        ValueError: it is not.
    """
    if tensor.dtype != torch.float32:
        raise ValueError(
            f"{name} is {tensor.dtype}: the CUDA kernels take float32, convert the model"
        )
    if tensor.device != like.device:
        raise ValueError(
            f"{name} is on {tensor.device}, another argument on {like.device}: move them to one device"
        )
    if tensor.dim() != len(shape) or any(
        n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} must have shape {list(shape)}, has {list(tensor.shape)}")
