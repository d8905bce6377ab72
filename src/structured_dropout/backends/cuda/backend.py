"""CUDA kernels that skip what was dropped while they load it (kernels/cuda); a layer's time steps
in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends.cuda import build, launch, operators, payoff, plan
from structured_dropout.backends.cuda.masks import pack
from structured_dropout.backends.fused import FusedBackend
from structured_dropout.backends.operators.arguments import flat_weights
from structured_dropout.backends.operators.backend import OperatorBackend, skippable
from structured_dropout.layer import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.phases import Phase, phase
from structured_dropout.policy import DropoutPolicy

_TORCH = FusedBackend()


class CudaBackend(OperatorBackend):
    """float32, and bfloat16 with float32 sums, on NVIDIA GPUs; CuPy compiles its kernels, all of a
    layer's at its first call.

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
        build.load()

    def of_steps(self, mask: Mask | None, like: Tensor) -> Mask | None:
        skips = (
            isinstance(mask, UnitMask)
            and not mask.offsets.is_meta  # in a graph, whose replay alone knows a step's units
            and _pays("bp", mask, like.dtype)
        )
        return mask if skips else super().of_steps(mask, like)

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
    ) -> Tensor:
        # BP is the product that pays first.
        if not isinstance(mask, UnitMask) or not _pays("bp", mask, x.dtype):
            return _TORCH.linear(x, weight, bias, mask, packing)
        with phase("fp"):
            return _project(x, weight, bias, mask, packing)

    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask) or not _pays("fp", mask, x.dtype):
            return super().fp(x, weight, mask, packing)
        return _project(x, weight, None, mask, packing)

    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask) or not _pays("bp", mask, dy.dtype):
            return super().bp(dy, weight, mask, packing)
        where = _where(dy, mask, packing)
        rows = build.load().cuda_by_unit(weight, *where)
        sequence = pack([mask], packing, dy.device)
        dx: Tensor = build.load().cuda_linear_bp(dy, rows, *sequence, *where)
        return dx

    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask) or not _pays("wg", mask, x.dtype):
            return super().wg(dy, x, mask, packing)
        sequence, where = pack([mask], packing, x.device), _where(x, mask, packing)
        dweight: Tensor
        dweight, _ = build.load().cuda_linear_wg(x, dy, *sequence, *where)
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
        dtype, device = x.dtype, x.device
        if not launch.current().multiplies_bfloat16(device):
            x = _widened(x)
        sizes = len(weights), h_0.shape[2]
        with phase("fp"):
            y, h_n, c_n = operators.lstm_layer(
                x,
                _widened(h_0),
                _widened(c_0),
                [_widened(weight) for weight in flat_weights(weights)],
                pack(to_skip, packing, device),
                plan.of_layer(to_skip[0], to_skip[1], sizes, packing, device, x.dtype),
            )
        return LayerOutput(y.to(dtype), h_n.to(h_0.dtype), c_n.to(c_0.dtype))


def _project(
    x: Tensor, weight: Tensor, bias: Tensor | None, mask: UnitMask, packing: Packing
) -> Tensor:
    own_plan = plan.of_projection(mask, packing, x.device, x.dtype)
    return operators.linear(x, weight, bias, pack([mask], packing, x.device), own_plan)


def _where(x: Tensor, mask: UnitMask, packing: Packing) -> tuple[tuple[int, ...], tuple[int, int]]:
    """The plan and the queue of a product of rows like x."""
    return plan.of_projection(mask, packing, x.device, x.dtype), launch.queue(x.device)


def _pays(product: Phase, mask: UnitMask, dtype: torch.dtype) -> bool:
    return product in payoff.paying(mask.scale, payoff.on_tensor_cores(dtype))


def _widened(tensor: Tensor) -> Tensor:
    """bfloat16 as float32; whatever else comes is for the operators to check."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
