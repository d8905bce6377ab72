"""CUDA kernels that skip what was dropped while they load it (kernels/cuda); a layer's time steps
in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends.cuda import launch, layout, operators, payoff
from structured_dropout.backends.cuda.masks import pack
from structured_dropout.backends.fused import FusedBackend
from structured_dropout.backends.operators.arguments import flat_weights
from structured_dropout.backends.operators.backend import OperatorBackend, skippable
from structured_dropout.layer import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy

_TORCH = FusedBackend()


class CudaBackend(OperatorBackend):
    """float32, and bfloat16 with float32 sums, on NVIDIA GPUs; CuPy compiles its kernels, each at
    its first launch.

    Where tensor cores do not multiply bfloat16, a layer that comes in it is computed in float32 and
    rounded.
    """

    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if dtype not in (torch.float32, torch.bfloat16):
            return f"its kernels take float32 and bfloat16, not {dtype}"
        return super().supports(policy, device, dtype) or launch.supports(device)

    def prepare(self) -> None:
        operators.load()

    def of_steps(self, mask: Mask | None, like: Tensor) -> Mask | None:
        skips = (
            isinstance(mask, UnitMask)
            and not mask.offsets.is_meta  # in a graph, whose replay alone knows a step's units
            and payoff.pays("bp", mask.scale, like.dtype)
        )
        return mask if skips else super().of_steps(mask, like)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
    ) -> Tensor:
        # BP is the product that pays first.
        if not isinstance(mask, UnitMask) or not payoff.pays("bp", mask.scale, x.dtype):
            return _TORCH.linear(x, weight, bias, mask, packing)
        with phase("fp"):
            return _project(x, weight, bias, mask, packing)

    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask) or not payoff.pays("fp", mask.scale, x.dtype):
            return super().fp(x, weight, mask, packing)
        return _project(x, weight, None, mask, packing)

    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask) or not payoff.pays("bp", mask.scale, dy.dtype):
            return super().bp(dy, weight, mask, packing)
        rows = layout.rows_by_unit(weight)
        dx: Tensor = operators.load().cuda_linear_bp(dy, rows, *pack([mask], packing, dy.device))
        return dx

    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask) or not payoff.pays("wg", mask.scale, x.dtype):
            return super().wg(dy, x, mask, packing)
        dweight: Tensor
        dweight, _ = operators.load().cuda_linear_wg(x, dy, *pack([mask], packing, x.device))
        return dweight

    def lstm_layer(
        self,
        x: Tensor,
        h_0: Tensor,
        c_0: Tensor,
        weights: tuple[Weights, ...],
        masks: LayerMasks,
        packing: Packing,
    ) -> LayerOutput:
        x, to_skip = skippable(x, masks, packing)
        in_bfloat16 = x.dtype == torch.bfloat16 and launch.multiplies_bfloat16(x.device)
        with phase("fp"):
            y, h_n, c_n, *_ = operators.load().cuda_lstm_fp(
                x if in_bfloat16 else _widened(x),
                _widened(h_0),
                _widened(c_0),
                [_widened(weight) for weight in flat_weights(weights)],
                *pack(to_skip, packing, x.device),
            )
        return LayerOutput(y.to(x.dtype), h_n.to(h_0.dtype), c_n.to(c_0.dtype))


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: UnitMask, packing: Packing
) -> Tensor:
    y: Tensor
    y, _ = operators.load().cuda_linear_fp(x, weight, bias, *pack([mask], packing, x.device))
    return y


def _widened(tensor: Tensor) -> Tensor:
    """bfloat16 as float32; whatever else comes is for the operators to check."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
