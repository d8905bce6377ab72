"""torch's own LSTM (oneDNN, cuDNN) and linear layer on masked inputs: what a user would run
instead."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from structured_dropout.backends.base import inside_cell
from structured_dropout.backends.dense import DenseBackend
from structured_dropout.layer import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing
from structured_dropout.policy import DropoutPolicy


class FusedBackend(DenseBackend):
    """Any device and dtype that torch's LSTM has. A loop that goes step by step leaves nothing to
    fuse: there its three products are dense's."""

    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if policy.rh is not None and policy.rh.drops:
            return "torch's LSTM cannot drop its recurrent state (rh)"
        return inside_cell(policy)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
    ) -> Tensor:
        x = x if mask is None else mask.apply(x, packing)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    def lstm_layer(
        self,
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        weights: tuple[Weights, ...],
        masks: LayerMasks,
        packing: Packing,
    ) -> LayerOutput:
        if masks.inside or any(mask is not None for mask in masks.rh):
            raise ValueError(
                "the fused backend can drop a layer's input only, neither its recurrent state (rh) "
                "nor inside its cell: choose dense"
            )
        if masks.nr is not None:
            x = masks.nr.apply(x, packing)
        state = [h_0.to(x.dtype), c_0.to(x.dtype)]
        flat = [
            parameter.to(x.dtype)
            for direction in weights
            for parameter in direction
            if parameter is not None
        ]
        has_bias = weights[0].b_ih is not None
        bidirectional = len(weights) == 2
        training = torch.is_grad_enabled()
        if packing.is_padded:  # oneDNN's LSTM takes padded sequences only
            x = x.view(packing.steps, packing.batch, x.shape[1])
            y, h_n, c_n = torch.lstm(
                x, state, flat, has_bias, 1, 0.0, training, bidirectional, False
            )
            y = y.flatten(0, 1)
        else:
            sizes = torch.tensor(packing.sizes, device="cpu")
            y, h_n, c_n = torch.lstm(
                x, sizes, state, flat, has_bias, 1, 0.0, training, bidirectional
            )
        return LayerOutput(y, h_n.to(h_0.dtype), c_n.to(c_0.dtype))
