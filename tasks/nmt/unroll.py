"""The decoder's loop over the target sentence, on OpenNMT's parameters, skipping what was dropped.

With input feeding a step reads the attentional output of the step before, so the loop cannot be one call. What it
spares the loop: the words' part of the first layer, and the attention's two products with the memory, are done
for the whole sentence ahead; every weight gradient is one product after it (``steps.py``).
"""

from __future__ import annotations

import torch
from onmt.decoders.decoder import InputFeedRNNDecoder
from onmt.modules import GlobalAttention
from onmt.utils.misc import sequence_mask
from torch import Tensor

from structured_dropout import backends
from structured_dropout.masks import Mask, Packing
from structured_dropout.steps import StepLinear, lstm_cell
from tasks.nmt.masks import Masks, dropped


def unroll(
    decoder: InputFeedRNNDecoder,
    tgt: Tensor,
    lengths: Tensor,
    state: tuple[Tensor, Tensor],
    memory: Tensor,
    masks: Masks,
    backend: str,
) -> Tensor:
    """The decoder's outputs [tgt_len, batch, hidden_size] after dropout.

    Args:
        tgt: ids [tgt_len, batch, 1].
        lengths: of the source sentences [batch].
        state: of the encoder: h and c [layers, batch, hidden_size].
        memory: [src_len, batch, hidden_size], dropped already.
    """
    steps, batch, _ = tgt.shape
    first, *others = decoder.rnn.layers
    words = decoder.embeddings.embedding_size
    w_words, w_feed = first.weight_ih[:, :words].contiguous(), first.weight_ih[:, words:].contiguous()
    from_words = backends.get(backend).linear(
        decoder.embeddings(tgt).flatten(0, 1),
        w_words,
        first.bias_ih + first.bias_hh,
        masks.nr[0],
        Packing.padded(steps, batch),
    )
    from_words = from_words.view(steps, batch, -1).unbind()
    from_feed = StepLinear(w_feed, masks.output and masks.output.applied(), steps, backend)
    from_below = [
        StepLinear(layer.weight_ih, mask, steps, backend) for layer, mask in zip(others, masks.nr[1:], strict=True)
    ]
    from_before = [
        StepLinear(layer.weight_hh, mask, steps, backend)
        for layer, mask in zip(decoder.rnn.layers, masks.rh, strict=True)
    ]
    biases = [layer.bias_ih + layer.bias_hh for layer in others]
    attention = Attention(decoder.attn, memory, lengths, masks, steps, backend)
    keep = _factors(masks.output, steps, batch, decoder.hidden_size, memory)

    h, c = (list(part.unbind()) for part in state)
    outputs: list[Tensor] = []
    for t in range(steps):
        gates = from_words[t] + from_before[0](h[0], t)
        if t > 0:
            gates = gates + from_feed(outputs[-1], t - 1)  # its mask is the one that it was dropped with
        h[0], c[0] = lstm_cell(gates, c[0])
        for i in range(len(others)):
            gates = from_below[i](h[i], t) + from_before[i + 1](h[i + 1], t) + biases[i]
            h[i + 1], c[i + 1] = lstm_cell(gates, c[i + 1])
        output = attention(h[-1], t)
        outputs.append(output if keep is None else output * keep[t])
    return torch.stack(outputs)


class Attention:
    """OpenNMT's global attention with the general score (Luong et al., 2015) over one sentence, a step a call.

    The score h W_a m and the output tanh(W_c [context; h]) are linear in the memory m, so that the keys m W_a and the
    values W_c m of all source words are computed once.
    """

    def __init__(
        self, attn: GlobalAttention, memory: Tensor, lengths: Tensor, masks: Masks, steps: int, backend: str
    ) -> None:
        src_len, batch, hidden = memory.shape
        w_context, w_query = attn.linear_out.weight[:, :hidden], attn.linear_out.weight[:, hidden:]

        def product(weight: Tensor) -> Tensor:
            """[batch, src_len, hidden]"""
            mask = masks.memory and masks.memory.applied()
            y = backends.get(backend).linear(
                memory.flatten(0, 1), weight.contiguous(), None, mask, Packing.padded(src_len, batch)
            )
            return y.view(src_len, batch, hidden).transpose(0, 1).contiguous()

        self._keys = product(attn.linear_in.weight.t()).transpose(1, 2)
        self._values = product(w_context)
        self._padding = ~sequence_mask(lengths, src_len).unsqueeze(1)
        self._from_query = StepLinear(w_query.contiguous(), masks.query and masks.query.applied(), steps, backend)
        self._keep = _factors(masks.query, steps, batch, hidden, memory)

    def __call__(self, h: Tensor, step: int) -> Tensor:
        """The attentional output [batch, hidden] for the decoder's hidden state h [batch, hidden]."""
        if self._keep is not None:
            h = h * self._keep[step]
        scores = (h.unsqueeze(1) @ self._keys).masked_fill(self._padding, -torch.inf)
        context = (scores.softmax(dim=2) @ self._values).squeeze(1)
        return torch.tanh(context + self._from_query(h, step))


def _factors(mask: Mask | None, steps: int, batch: int, units: int, like: Tensor) -> Tensor | None:
    """What the steps are multiplied with [steps, batch, units]."""
    return None if mask is None else dropped(like.new_ones(steps, batch, units), mask)
