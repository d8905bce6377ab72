"""A projection whose input was dropped: the softmax layer of a language model, for one."""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable takes seconds to import
from torch.nn.utils.rnn import PackedSequence

from structured_dropout import backends, precision
from structured_dropout.generators import OwnStream
from structured_dropout.masks import Mask, Packing, check_fit, draw
from structured_dropout.policy import DropoutPolicy, check_policy

CANNOT_SCRIPT = (
    "torch.jit.script cannot read this module: call eval() and take torch.jit.trace, or script "
    "what to_torch() returns"
)


class StructuredLinear(nn.Linear):
    """``torch.nn.Linear`` that drops its input as ``policy.output`` says and skips what was
    dropped.

    Where nothing is dropped, in eval mode or with ``backend="auto"`` at a rate of 0, it is
    nn.Linear's own forward.

    Args:
        policy, backend, generator: as in StructuredLSTM; of the policy only ``output`` counts.
        batch_first: a 3-D input is [batch, steps, in_features], as StructuredLSTM gives it with
            ``batch_first=True``.
        Others: as in ``torch.nn.Linear``.

    Raises:
        TypeError: ``policy`` is not a DropoutPolicy.
        ValueError: ``output`` has a list of rates, or the backend is unknown.
        RuntimeError: the backend cannot run this policy here.
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
        batch_first: bool = False,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        check_policy(policy)
        if policy is not None and policy.output is not None:
            policy.output.check_layers(1)
        self.policy = DropoutPolicy(output=policy.output if policy else None)
        self.backend = backend
        self.generator = generator
        self.batch_first = batch_first
        self._stream = OwnStream()
        # An impossible choice fails here.
        backends.check(backend, self.policy, self.weight.device, self.weight.dtype)

    @overload
    def forward(self, input: Tensor, mask: Mask | None = None) -> Tensor: ...

    @overload
    def forward(self, input: PackedSequence, mask: Mask | None = None) -> PackedSequence: ...

    def forward(
        self, input: Tensor | PackedSequence, mask: Mask | None = None
    ) -> Tensor | PackedSequence:
        """Mask, scale and project a sequence; the mask is drawn here if None.

        Which rows are one time step decides what they lose together, so that the input must say it:
        pass the LSTM's output as it is. Flattened to [steps * batch, in_features] it would be one
        step, all of whose rows lose the same units.

        Args:
            input: [steps, batch, in_features], [batch, steps, in_features] with ``batch_first``,
                packed, or [batch, in_features]: one step.
            mask: as ``draw_mask`` returns it.

        Returns:
            The same with out_features.

        Raises:
            RuntimeError: the input has other features or another dtype than the weights.
            ValueError: the input has other dimensions, or the mask does not fit it.
        """
        rows = input.data if isinstance(input, PackedSequence) else input
        if not isinstance(input, PackedSequence) and input.dim() not in (2, 3):
            raise ValueError(
                f"StructuredLinear takes a 2-D (one step) or 3-D input, not {input.dim()}-D"
            )
        if rows.shape[-1] != self.in_features:
            raise RuntimeError(
                f"the input has {rows.shape[-1]} features, in_features is {self.in_features}"
            )
        precision.check("input", rows, self.weight)
        if mask is None and self._drops_nothing:
            if isinstance(input, PackedSequence):
                return _packed_like(input, super().forward(rows))
            return super().forward(rows)
        if isinstance(input, PackedSequence):
            packing = Packing(tuple(input.batch_sizes.tolist()))
            return _packed_like(input, self._project(rows, mask, packing))
        if rows.dim() == 2:
            return self._project(rows, mask, Packing.padded(1, len(rows)))
        if self.batch_first:
            rows = rows.transpose(0, 1)
        steps, batch, _ = rows.shape
        packing = Packing.padded(steps, batch)
        y: Tensor = self._project(rows.reshape(steps * batch, self.in_features), mask, packing)
        y = y.view(steps, batch, self.out_features)
        return y.transpose(0, 1) if self.batch_first else y

    def draw_mask(self, steps: int, batch: int) -> Mask | None:
        """Draw what one training sequence drops; nothing in eval mode."""
        with self._stream.drawing(self.generator):
            return draw(
                self.policy.output if self.training else None,
                steps=steps,
                batch=batch,
                units=self.in_features,
                like=self.weight,
                generator=self.generator,
            )

    def to_torch(self) -> nn.Linear:
        """A torch.nn.Linear with these very parameters, for what must know its class, such as
        ``torch.ao.quantization.quantize_dynamic``."""
        linear = nn.Linear(
            self.in_features, self.out_features, self.bias is not None, device="meta"
        )
        linear.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, policy={self.policy}, backend={self.backend!r}"

    @property
    def _drops_nothing(self) -> bool:
        return not self.training or (self.backend == "auto" and not self.policy.drops)

    def __prepare_scriptable__(self) -> nn.Linear:
        raise RuntimeError(CANNOT_SCRIPT)

    @_disable_dynamo  # as in StructuredLSTM
    def _project(self, rows: Tensor, mask: Mask | None, packing: Packing) -> Tensor:
        """y [rows, out_features]; the mask is drawn here if None."""
        check_fit("output", mask, packing, self.in_features)
        mask = self.draw_mask(packing.steps, packing.batch) if mask is None else mask
        weight, bias = self.weight, self.bias
        dtype = precision.of_products(weight)
        backend = backends.get(backends.resolve(self.backend, self.policy, rows.device, dtype))
        with precision.without_autocast(rows.device):
            return backend.linear(rows.to(dtype), weight, bias, mask, packing)


def _packed_like(packed: PackedSequence, data: Tensor) -> PackedSequence:
    return PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
