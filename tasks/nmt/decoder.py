"""The decoder over a target sentence, on OpenNMT's parameters, skipping what was dropped.

With input feeding a step reads the attentional output of the step before, so the sentence cannot be
one call. What its loop is spared: the words' part of the first layer, and the attention's products
with the memory, are done for the whole sentence ahead; every weight gradient is one product after
it (``StepLinear``).
"""

from __future__ import annotations

import torch
from onmt.decoders.decoder import InputFeedRNNDecoder
from torch import Tensor

from structured_dropout import backends
from structured_dropout.masks import Mask, Packing
from structured_dropout.steps import StepLinear, lstm_cell
from tasks.nmt.attention import Attention
from tasks.nmt.masks import Masks, StepDropout


def decode(
    decoder: InputFeedRNNDecoder,
    words: Tensor,
    lengths: Tensor,
    state: tuple[Tensor, Tensor],
    memory: Tensor,
    masks: Masks,
    backend: str,
    dtype: torch.dtype,
) -> Tensor:
    """The attentional outputs [tgt_len, batch, hidden_size] after dropout.

    Args:
        words: embedded [tgt_len, batch, hidden_size].
        lengths: of the source sentences [batch].
        state: of the encoder: h and c [layers, batch, hidden_size].
        memory: [src_len, batch, hidden_size], dropped already.
        backend: by name, as ``backends.resolve`` returned it.
        dtype: of the products; states, gates and what is returned have that of the parameters.
    """
    cell = DecoderCell(decoder, words, masks, backend, dtype)
    attention = Attention(decoder.attn, memory.to(dtype), lengths, masks, len(words), backend)
    dropped = StepDropout(
        masks.output, state[1].new_ones(1).expand(*words.shape[:2], decoder.hidden_size)
    )
    h, c = (list(part.unbind()) for part in state)
    output, outputs = None, []
    for t in range(len(words)):
        h, c = cell(t, output, h, c)
        output = dropped(attention(h[-1], t), t)
        outputs.append(output)
    return torch.stack(outputs)


class DecoderCell:
    """The decoder's LSTM cells, one above the other, prepared for one target sentence.

    Args:
        words: embedded [tgt_len, batch, hidden_size].
        backend: by name, as ``backends.resolve`` returned it.
        dtype: of the products.
    """

    def __init__(
        self,
        decoder: InputFeedRNNDecoder,
        words: Tensor,
        masks: Masks,
        backend: str,
        dtype: torch.dtype,
    ) -> None:
        steps, batch, size = words.shape

        def linear(weight: Tensor, bias: Tensor | None, mask: Mask | None) -> StepLinear:
            return StepLinear(weight.to(dtype), bias, mask, steps, batch, backend)

        first, *others = layers = decoder.rnn.layers
        w_words, w_feed = first.weight_ih[:, :size], first.weight_ih[:, size:]
        from_words = backends.get(backend).linear(
            words.flatten(0, 1).to(dtype),
            w_words.contiguous(),
            first.bias_ih + first.bias_hh,
            masks.nr[0],
            Packing.padded(steps, batch),
        )
        self._from_words = from_words.view(steps, batch, -1).unbind()
        fed = masks.output and masks.output.applied()
        self._from_feed = linear(w_feed.contiguous(), None, fed)
        self._from_below = [
            linear(layer.weight_ih, layer.bias_ih + layer.bias_hh, mask)
            for layer, mask in zip(others, masks.nr[1:], strict=True)
        ]
        self._from_before = [
            linear(layer.weight_hh, None, mask)
            for layer, mask in zip(layers, masks.rh, strict=True)
        ]

    def __call__(
        self, step: int, feed: Tensor | None, h: list[Tensor], c: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """h and c of each layer [batch, hidden_size] after this step.

        Args:
            feed: the attentional output of the step before after dropout; None in the first step.
            h, c: after the step before.
        """
        from_feed = [] if feed is None else [self._from_feed(feed, step - 1)]
        gates = [self._from_words[step], self._from_before[0](h[0], step), *from_feed]
        states = [lstm_cell(c[0], *gates)]
        for layer in range(1, len(h)):
            below, _ = states[-1]
            gates = [
                self._from_below[layer - 1](below, step),
                self._from_before[layer](h[layer], step),
            ]
            states.append(lstm_cell(c[layer], *gates))
        return [h for h, _ in states], [c for _, c in states]
