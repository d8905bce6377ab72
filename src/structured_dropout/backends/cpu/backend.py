"""C++ kernels that skip what was dropped while they load it (kernels/cpu); a layer's whole sequence
in one call."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structured_dropout.backends.base import StepProducts
from structured_dropout.backends.cpu import build, operators
from structured_dropout.backends.operators.arguments import flat_weights, pack_masks
from structured_dropout.backends.operators.backend import OperatorBackend, skippable
from structured_dropout.backends.operators.build import missing
from structured_dropout.layer import LayerMasks, LayerOutput, Weights
from structured_dropout.masks import Mask, Packing, UnitMask
from structured_dropout.phases import phase
from structured_dropout.policy import DropoutPolicy


class CpuBackend(OperatorBackend):
    """float32, float64 and, where the processor multiplies in it, bfloat16 on the CPU; a C++
    compiler builds its kernels, once a machine."""

    def supports(
        self, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype
    ) -> str | None:
        if device.type != "cpu":
            return "its kernels run on the CPU"
        if dtype not in (torch.float32, torch.float64, torch.bfloat16):
            return f"its kernels take float32, float64 and bfloat16, not {dtype}"
        if dtype == torch.bfloat16 and not build.takes_bfloat16():
            return "this processor has no instruction for bfloat16 (AVX512-BF16): stay in float32"
        return super().supports(policy, device, dtype) or missing()

    def prepare(self) -> None:
        build.load()

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Mask | None, packing: Packing
    ) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().linear(x, weight, bias, mask, packing)
        with phase("fp"):
            return operators.linear(x, weight, bias, packing.sizes, pack_masks([mask]))

    def fp(self, x: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().fp(x, weight, mask, packing)
        y: Tensor = build.load().linear_fp(x, weight, None, packing.sizes, pack_masks([mask]))
        return y

    def bp(self, dy: Tensor, weight: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().bp(dy, weight, mask, packing)
        dx: Tensor = build.load().linear_bp(dy, weight, packing.sizes, pack_masks([mask]))
        return dx

    def wg(self, dy: Tensor, x: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        if not isinstance(mask, UnitMask):
            return super().wg(dy, x, mask, packing)
        dweight: Tensor
        dweight, _ = build.load().linear_wg(x, dy, packing.sizes, pack_masks([mask]))
        return dweight

    def step_products(self, weight: Tensor, mask: Mask | None) -> StepProducts:
        if not isinstance(mask, UnitMask):
            return super().step_products(weight, mask)
        outputs, units = weight.shape
        return _PackedProducts(build.load().pack_weight(weight), outputs, units, mask)

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
        with phase("fp"):
            y, h_n, c_n = operators.lstm_layer(
                x,
                h_0.to(x.dtype),
                c_0.to(x.dtype),
                flat_weights(weights),
                packing.sizes,
                pack_masks(to_skip),
            )
        return LayerOutput(y, h_n.to(h_0.dtype), c_n.to(c_0.dtype))


class _PackedProducts(NamedTuple):
    """The weight as ``pack_weight`` brings it into the kernels' layout: at each step anew, that
    takes longer than the step's product."""

    packed: Tensor
    outputs: int
    units: int
    mask: UnitMask

    def fp(self, x: Tensor, step: int) -> Tensor:
        masks = pack_masks([self.mask.at(step)])
        y: Tensor = build.load().packed_fp(x, self.packed, self.outputs, [len(x)], masks)
        return y

    def bp(self, dy: Tensor, step: int) -> Tensor:
        masks = pack_masks([self.mask.at(step)])
        dx: Tensor = build.load().packed_bp(dy, self.packed, self.units, [len(dy)], masks)
        return dx
