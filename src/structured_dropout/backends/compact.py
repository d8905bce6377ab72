"""Gather what is kept, compute smaller products, scatter the result; plain torch, any device.

Only structured masks leave something to gather: a random one is multiplied in, as in ``dense``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends.base import inside_cell
from structured_dropout.backends.dense import DenseBackend
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.policy import DropoutPolicy


class CompactBackend(DenseBackend):
    """Smaller products on any device, in any dtype."""

    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        return inside_cell(policy)

    def of_steps(self, mask: Mask | None, like: Tensor) -> Mask | None:
        return mask

    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().fp(x, weight, mask, packing)
        y, by_unit = x.new_empty(len(x), len(weight)), _by_unit(weight, mask)
        for rows, kept in _draws(mask, packing):
            inputs = x[rows].index_select(1, kept) * mask.scale
            torch.mm(inputs, by_unit.index_select(0, kept), out=y[rows])
        return y

    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().bp(dy, weight, mask, packing)
        dx, by_unit = dy.new_zeros(len(dy), weight.shape[1]), _by_unit(weight, mask)
        for rows, kept in _draws(mask, packing):
            dinputs = dy[rows] @ by_unit.index_select(0, kept).t() * mask.scale
            dx[rows].index_copy_(1, kept, dinputs)
        return dx

    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().wg(dy, x, mask, packing)
        wide = torch.promote_types(x.dtype, torch.float32)
        by_unit = x.new_zeros(x.shape[1], dy.shape[1], dtype=wide)
        for rows, kept in _draws(mask, packing):
            of_draw = x[rows].index_select(1, kept).t() @ dy[rows]
            by_unit.index_add_(0, kept, of_draw.to(wide), alpha=mask.scale)
        return by_unit.t()


def _by_unit(weight: Tensor, mask: UnitMask) -> Tensor:
    """The weight with a row a unit; copied where several draws gather from it, so that they read
    whole rows."""
    return weight.t() if mask.draws == 1 else weight.t().contiguous()


def _draws(mask: UnitMask, packing: Packing) -> list[tuple[slice, Tensor]]:
    bounds = packing.draw_bounds(mask.steps_per_draw)
    return [(slice(bounds[d], bounds[d + 1]), mask.kept(d).long()) for d in range(mask.draws)]
