"""How masks and parameters cross the boundary of an operator.

Operators take tensors, numbers and lists of them: the masks of a layer become one list of tensors,
its parameters another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import torch
from torch import Tensor

from structured_dropout.layer import Weights
from structured_dropout.masks import UnitMask


def pack_masks(masks: Iterable[UnitMask | None], on_device: bool = False) -> list[Tensor]:
    """The masks of an operator's sites as one list: nr of a projection; nr, rh and, in a layer of
    two directions, rh of the reverse one. With ``on_device`` offsets are where indices are.

    Each site has four tensors: ``indices`` and ``offsets`` as in UnitMask, ``steps_per_draw`` (an
    int64 scalar on the CPU) and ``scale`` (a float64 scalar on the CPU). A site that drops nothing
    (None) has empty ``indices`` and ``offsets``.
    """
    packed = []
    for mask in masks:
        packed += _nothing() if mask is None else _tensors(mask, on_device)
    return packed


def flat_weights(weights: Sequence[Weights]) -> list[Tensor]:
    """The parameters of a layer, or their gradients, in torch's order: w_ih, w_hh and the biases if
    there are any, direction by direction."""
    return [tensor for direction in weights for tensor in direction if tensor is not None]


def flat_gradients(
    by_direction: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], has_bias: bool
) -> list[Tensor]:
    """The gradients of ``flat_weights``, from dw_ih, dw_hh and db; both biases have the same."""
    gradients = [
        Weights(dw_ih, dw_hh, db if has_bias else None, db if has_bias else None)
        for dw_ih, dw_hh, db in zip(*by_direction, strict=True)
    ]
    return flat_weights(gradients)


def _tensors(mask: UnitMask, on_device: bool) -> list[Tensor]:
    return [
        mask.indices,
        mask.device_offsets if on_device else mask.offsets,
        _number(mask.steps_per_draw, torch.int64),
        _number(mask.scale, torch.float64),
    ]


@lru_cache(maxsize=256)  # they are few, and nobody writes them
def _number(value: float, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):  # a training that comes later saves it, too
        return torch.tensor(value, dtype=dtype, device="cpu")


@cache
def _nothing() -> list[Tensor]:
    with torch.inference_mode(False):  # as in _number
        nobody = torch.empty(0, dtype=torch.int64, device="cpu")
        return _tensors(UnitMask(nobody.int(), nobody, 1, 0, 1.0), on_device=False)
