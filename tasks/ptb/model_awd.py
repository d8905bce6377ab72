"""The AWD-LSTM language model of Merity et al. (2018)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from structured_dropout import DropoutPolicy, StructuredLinear, StructuredLSTM
from structured_dropout.masks import Mask
from structured_dropout.regularizers import drop_words

State = list[tuple[Tensor, Tensor]]  # (h, c) of each layer


class AWDLanguageModel(nn.Module):
    """Embedding, LSTM layers of different widths, softmax layer.

    The last layer is as wide as the embedding, so that the projection's weight can be the
    embedding's.

    Args:
        tied: whether it is.
        embedding_dropout: probability of dropping a word of the vocabulary, for the embedding only.
        policy: nr on the embedded words and between layers, rh or DropConnect inside, output before
            the softmax layer.
        generator: what structured masks are drawn from.
    """

    def __init__(
        self,
        vocabulary: int,
        embedding_size: int,
        hidden_size: int,
        layers: int,
        tied: bool,
        embedding_dropout: float,
        policy: DropoutPolicy,
        backend: str,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding_dropout = embedding_dropout
        self.embedding = nn.Embedding(vocabulary, embedding_size)
        widths = [embedding_size, *[hidden_size] * (layers - 1), embedding_size]
        self.layers = nn.ModuleList(
            StructuredLSTM(
                *sizes, policy=policy.for_layer(layer), backend=backend, generator=generator
            )
            for layer, sizes in enumerate(pairwise(widths))
        )
        self.projection = StructuredLinear(
            embedding_size, vocabulary, policy=policy, backend=backend, generator=generator
        )
        if tied:
            self.projection.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.projection.weight, -0.1, 0.1)
        nn.init.zeros_(self.projection.bias)
        # The LSTM's parameters stay uniform in 1 / sqrt(width), torch's choice.

    def forward(
        self, tokens: Tensor, state: State | None = None, return_h: bool = False
    ) -> tuple[Tensor, State] | tuple[Tensor, State, Tensor, Mask | None]:
        """Logits [T, B, vocabulary] for tokens [T, B], and the state to carry over.

        Args:
            return_h: what the projection reads [T, B, embedding_size], before its dropout, and the
                mask of that, too.
        """
        h = self.embedding(tokens)
        if self.training:
            h = drop_words(h, tokens, self.embedding.num_embeddings, self.embedding_dropout)
        after = []
        for layer, before in zip(self.layers, state or [None] * len(self.layers), strict=True):
            h, reached = layer(h, before)
            after.append(reached)
        if not return_h:
            return self.projection(h), after
        mask = self.projection.draw_mask(*tokens.shape)
        return self.projection(h, mask), after, h, mask
