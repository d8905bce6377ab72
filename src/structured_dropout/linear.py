"""A projection whose input was dropped: the softmax layer of a language model, for one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structured_dropout import backends
from structured_dropout.masks import Mask, Packing, check_fit, draw
from structured_dropout.policy import DropoutPolicy


class StructuredLinear(nn.Linear):
    """``torch.nn.Linear`` that drops its input as ``policy.output`` says and skips what was
    dropped.

    Args:
        policy, backend, generator: as in StructuredLSTM; of the policy only ``output`` counts.
        Others: as in ``torch.nn.Linear``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        policy: DropoutPolicy | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.policy = DropoutPolicy(output=policy.output if policy else None)
        self.backend = backend
        self.generator = generator
        backends.check(
            backend, self.policy, self.weight.device, self.weight.dtype
        )  # an impossible choice fails here

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # as in StructuredLSTM
    def forward(self, input: Tensor, mask: Mask | None = None) -> Tensor:
        """Mask, scale and project input [steps, batch, in_features]; the mask is drawn here if
        None.

        Input [batch, in_features] is one step.

        Raises:
            ValueError: the input has other dimensions or features, or the mask does not fit it.
        """
        if input.dim() not in (2, 3):
            raise ValueError(
                f"StructuredLinear takes a 2-D (one step) or 3-D input, not {input.dim()}-D"
            )
        if input.dim() == 2:
            return self(input.unsqueeze(0), mask).squeeze(0)  # type: ignore[no-any-return]
        steps, batch, features = input.shape
        if features != self.in_features:
            raise ValueError(
                f"the input has {features} features, in_features is {self.in_features}"
            )
        packing = Packing.padded(steps, batch)
        check_fit("output", mask, packing, features)
        mask = self.draw_mask(steps, batch) if mask is None else mask
        backend = backends.get(
            backends.resolve(self.backend, self.policy, input.device, input.dtype)
        )
        y = backend.linear(
            input.reshape(steps * batch, features), self.weight, self.bias, mask, packing
        )
        return y.view(steps, batch, self.out_features)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, policy={self.policy}, backend={self.backend!r}"

    def draw_mask(self, steps: int, batch: int) -> Mask | None:
        """Draw what one training sequence drops; nothing in eval mode."""
        site = self.policy.output if self.training else None
        return draw(
            site,
            steps=steps,
            batch=batch,
            units=self.in_features,
            like=self.weight,
            generator=self.generator,
        )
