"""The decoder's loop over the target sentence, on OpenNMT's parameters, skipping what was dropped.

With input feeding a step reads the attentional output of the step before, so the loop cannot be one
call. What it spares the loop: the words' part of the first layer, and the attention's products with
the memory, are done for the whole sentence ahead; every weight gradient is one product after it
(``steps.py``).
"""

from __future__ import annotations

import torch
from onmt.decoders.decoder import InputFeedRNNDecoder
from torch import Tensor

from structured_dropout import backends
from structured_dropout.masks import Packing
from structured_dropout.steps import StepLinear, lstm_cell
from tasks.nmt.attention import Attention
from tasks.nmt.masks import Masks, factors


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
    w_words, w_feed = (
        first.weight_ih[:, :words].contiguous(),
        first.weight_ih[:, words:].contiguous(),
    )
    from_words = backends.get(backend).linear(
        decoder.embeddings(tgt).flatten(0, 1),
        w_words,
        first.bias_ih + first.bias_hh,
        masks.nr[0],
        Packing.padded(steps, batch),
    )
    from_words = from_words.view(steps, batch, -1).unbind()
    from_feed = StepLinear(
        w_feed, None, masks.output and masks.output.applied(), steps, batch, backend
    )
    from_below = [
        StepLinear(layer.weight_ih, layer.bias_ih + layer.bias_hh, mask, steps, batch, backend)
        for layer, mask in zip(others, masks.nr[1:], strict=True)
    ]
    from_before = [
        StepLinear(layer.weight_hh, None, mask, steps, batch, backend)
        for layer, mask in zip(decoder.rnn.layers, masks.rh, strict=True)
    ]
    attention = Attention(decoder.attn, memory, lengths, masks, steps, backend)
    keep = factors(masks.output, steps, batch, decoder.hidden_size, memory)

    h, c = (list(part.unbind()) for part in state)
    outputs: list[Tensor] = []
    for t in range(steps):
        fed = (
            [from_feed(outputs[-1], t - 1)] if t > 0 else []
        )  # its mask is the one that it was dropped with
        h[0], c[0] = lstm_cell(c[0], from_words[t], from_before[0](h[0], t), *fed)
        for i in range(1, len(h)):
            h[i], c[i] = lstm_cell(c[i], from_below[i - 1](h[i - 1], t), from_before[i](h[i], t))
        output = attention(h[-1], t)
        outputs.append(output if keep is None else output * keep[t])
    return torch.stack(outputs)
