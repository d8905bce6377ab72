"""Luong's global attention with the general score over one target sentence, on OpenNMT's parameters.

The score h W_a m and the output tanh(W_c [context; h]) are linear in the memory m, so that the keys m W_a and the
values W_c m of all source words are computed once, and their gradients once, after the backward of all steps.
"""

from __future__ import annotations

from typing import Any

import torch
from onmt.modules import GlobalAttention
from onmt.utils.misc import sequence_mask
from torch import Tensor

from structured_dropout import backends
from structured_dropout.derivatives import first_only
from structured_dropout.masks import Packing
from structured_dropout.phases import phase
from structured_dropout.steps import StepLinear
from tasks.nmt.masks import Masks, factors


class Attention:
    """The attentional output of a step a call.

    Args:
        attn: OpenNMT's module.
        memory: [src_len, batch, hidden_size], dropped already.
        lengths: of the source sentences [batch].
        steps: of the target sentence.
        backend: by name.
    """

    def __init__(
        self, attn: GlobalAttention, memory: Tensor, lengths: Tensor, masks: Masks, steps: int, backend: str
    ) -> None:
        src_len, batch, hidden = memory.shape
        mask = masks.memory and masks.memory.applied()
        w_context, w_query = attn.linear_out.weight[:, :hidden], attn.linear_out.weight[:, hidden:]
        keys, values = (
            backends.get(backend)
            .linear(memory.flatten(0, 1), weight.contiguous(), None, mask, Packing.padded(src_len, batch))
            .view(src_len, batch, hidden)
            .transpose(0, 1)
            .contiguous()
            for weight in (attn.linear_in.weight.t(), w_context)
        )
        self._memory = _Memory(keys.detach(), values.detach(), ~sequence_mask(lengths, src_len).unsqueeze(1))
        self._anchor: Tensor = _MemoryGradient.apply(keys, values, self._memory)
        self._from_query = StepLinear(w_query.contiguous(), None, masks.query and masks.query.applied(), steps, backend)
        self._keep = factors(masks.query, steps, batch, hidden, memory)

    def __call__(self, h: Tensor, step: int) -> Tensor:
        """[batch, hidden] for the decoder's last hidden state h [batch, hidden]."""
        if self._keep is not None:
            h = h * self._keep[step]
        context: Tensor = _Read.apply(h, self._anchor, self._memory)
        return torch.tanh(context + self._from_query(h, step))


class _Memory:
    """Keys and values [batch, src_len, hidden], and what the steps' backward leaves for their gradients."""

    def __init__(self, keys: Tensor, values: Tensor, padding: Tensor) -> None:
        self.keys, self.values, self.padding = keys, values, padding
        self.seen: list[tuple[Tensor, ...]] = []


class _MemoryGradient(torch.autograd.Function):
    """Hands out an anchor that every step hangs on, so that its backward runs after all of theirs."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, values: Tensor, memory: _Memory) -> Tensor:
        ctx.memory = memory
        return keys.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        if not ctx.memory.seen:
            return None, None, None
        with phase("bp"):
            dscores, queries, weights, dcontexts = (
                torch.cat(parts, dim=1) for parts in zip(*ctx.memory.seen, strict=True)
            )
            dkeys, dvalues = dscores.transpose(1, 2) @ queries, weights.transpose(1, 2) @ dcontexts
        ctx.memory.seen.clear()
        return dkeys, dvalues, None


class _Read(torch.autograd.Function):
    """softmax(h keys^T) values: [batch, hidden] for h [batch, hidden]."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, anchor: Tensor, memory: _Memory) -> Tensor:
        with phase("fp"):
            scores = h.unsqueeze(1) @ memory.keys.transpose(1, 2)
            weights = scores.masked_fill_(memory.padding, -torch.inf).softmax(dim=2)
            context = weights @ memory.values
        ctx.save_for_backward(h, weights)
        ctx.memory = memory
        return context.squeeze(1)

    @staticmethod
    @first_only
    def backward(ctx: Any, dcontext: Tensor) -> tuple[Tensor, None, None]:
        h, weights = ctx.saved_tensors
        with phase("bp"):
            dcontext = dcontext.unsqueeze(1)
            dweights = dcontext @ ctx.memory.values.transpose(1, 2)
            dscores = torch.ops.aten._softmax_backward_data(dweights, weights, 2, weights.dtype)
            dh = dscores @ ctx.memory.keys
        ctx.memory.seen.append((dscores, h.unsqueeze(1), weights, dcontext))
        return dh.squeeze(1), None, None
