"""The meaning: multiply by the mask, then the full products. Every other backend equals this one.

Where the others find nothing to skip, they inherit these products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout import regularized_cell
from structured_dropout.backends.base import Backend
from structured_dropout.layer import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.policy import DropoutPolicy


class DenseBackend(Backend):
    """Plain torch on any device, in any dtype; the cell's own regularizers, too."""

    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        return None

    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        return _masked(x, mask, packing) @ weight.t()

    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        return _masked(dy @ weight, mask, packing)

    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        return dy.t() @ _masked(x, mask, packing)

    def of_steps(self, mask: Mask | None, like: Tensor) -> Mask | None:
        return mask.elements(like) if isinstance(mask, UnitMask) else mask

    def lstm_layer(
        self,
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        weights: tuple[Weights, ...],
        masks: LayerMasks,
        packing: Packing,
    ) -> LayerOutput:
        if masks.inside:
            return regularized_cell.lstm_layer(self.linear, x, h_0, c_0, weights, masks, packing)
        return super().lstm_layer(x, h_0, c_0, weights, masks, packing)


def _masked(x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
    return x if mask is None else mask.apply(x, packing)
