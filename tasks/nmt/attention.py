"""Luong's global attention with the general score over one target sentence, on OpenNMT's
parameters.

The score h W_a m and the output tanh(W_c [context; h]) are linear in the memory m, so that the keys
m W_a and the values W_c m of all source words are computed once, and their gradients once, after
the backward of all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from onmt.modules import GlobalAttention
from onmt.utils.misc import sequence_mask
from torch import Tensor

from structured_dropout import backends
from structured_dropout.derivatives import differentiable_once
from structured_dropout.masks import Packing
from structured_dropout.phases import phase
from structured_dropout.steps import StepLinear, gradient_slot
from tasks.nmt.masks import Masks, StepDropout


class Attention:
    """The attentional output of a step a call.

    Args:
        attn: OpenNMT's module.
        memory: [src_len, batch, hidden_size], dropped already; the products are in its dtype.
        lengths: of the source sentences [batch].
        steps: of the target sentence.
        backend: by name.
    """

    def __init__(
        self,
        attn: GlobalAttention,
        memory: Tensor,
        lengths: Tensor,
        masks: Masks,
        steps: int,
        backend: str,
    ) -> None:
        src_len, batch, hidden = memory.shape
        mask = masks.memory and masks.memory.applied()
        w_context, w_query = attn.linear_out.weight[:, :hidden], attn.linear_out.weight[:, hidden:]
        keys, values = (
            backends.get(backend)
            .linear(
                memory.flatten(0, 1),
                weight.contiguous(),
                None,
                mask,
                Packing.padded(src_len, batch),
            )
            .view(src_len, batch, hidden)
            .transpose(0, 1)
            .contiguous()
            for weight in (attn.linear_in.weight.t(), w_context)
        )
        self._memory = keys.detach(), values.detach(), ~sequence_mask(lengths, src_len).unsqueeze(1)
        self._slots: tuple[Tensor, ...] = _MemoryGradient.apply(keys, values, steps)
        query_mask = masks.query and masks.query.applied()
        w_query = w_query.to(memory.dtype).contiguous()
        self._from_query = StepLinear(w_query, None, query_mask, steps, batch, backend)
        ones = attn.linear_out.weight.new_ones(1)
        self._dropped = StepDropout(masks.query, ones.expand(steps, batch, hidden))

    def __call__(self, h: Tensor, step: int) -> Tensor:
        """[batch, hidden] for the decoder's last hidden state h [batch, hidden]."""
        h = self._dropped(h, step)
        context: Tensor = _Read.apply(h, *self._memory, *self._slots[4 * step : 4 * step + 4])
        return torch.tanh(context.to(h.dtype) + self._from_query(h, step))


class _MemoryGradient(torch.autograd.Function):
    """Hands out slots for dscores, query, weights and dcontext of each step, by turns."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, steps: int) -> tuple[Tensor, ...]:
        batch, src_len, hidden = keys.shape
        return tuple(
            gradient_slot(keys, batch, 1, size)
            for _ in range(steps)
            for size in (src_len, hidden) * 2
        )

    @staticmethod
    def backward(ctx: Any, *slots: Tensor) -> tuple[Tensor, Tensor, None]:
        with phase("bp"):
            dscores, queries, weights, dcontexts = (torch.cat(slots[i::4], dim=1) for i in range(4))
            return dscores.transpose(1, 2) @ queries, weights.transpose(1, 2) @ dcontexts, None


class _Read(torch.autograd.Function):
    """softmax(h keys^T) values: [batch, hidden] for h [batch, hidden], keys and values
    [batch, src_len, hidden]."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, keys: Tensor, values: Tensor, padding: Tensor, *slots: Tensor
    ) -> Tensor:
        h = h.unsqueeze(1).to(keys.dtype)
        with phase("fp"):
            scores = h @ keys.transpose(1, 2)
            weights = scores.masked_fill_(padding, -torch.inf).softmax(dim=2)
            context = weights @ values
        ctx.save_for_backward(h, weights, keys, values)
        return context.squeeze(1)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dcontext: Tensor) -> tuple[Tensor | None, ...]:
        h, weights, keys, values = ctx.saved_tensors
        with phase("bp"):
            dcontext = dcontext.unsqueeze(1)
            dweights = dcontext @ values.transpose(1, 2)
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, 2, weights.dtype)
            dh = dscores @ keys
        return dh.squeeze(1), None, None, None, dscores, h, weights, dcontext
