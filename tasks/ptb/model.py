"""The word-level language model of Zaremba et al. (2014)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structured_dropout import DropoutPolicy, StructuredLinear, StructuredLSTM

State = tuple[Tensor, Tensor]


class LanguageModel(nn.Module):
    """Embedding, LSTM, softmax layer, all of one width; every parameter starts uniform in [-init,
    init].

    Dropout is the LSTM's and the projection's: nr on the embedding's output and between layers, rh
    inside, output before the softmax layer.

    Args:
        tied: whether the projection's weight is the embedding's (Press & Wolf, 2017); theirs are
            apart.
        generator: what structured masks are drawn from.
    """

    def __init__(
        self,
        vocabulary: int,
        hidden_size: int,
        layers: int,
        tied: bool | None,
        init: float,
        policy: DropoutPolicy,
        backend: str,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.lstm = StructuredLSTM(
            hidden_size, hidden_size, layers, policy=policy, backend=backend, generator=generator
        )
        self.projection = StructuredLinear(
            hidden_size, vocabulary, policy=policy, backend=backend, generator=generator
        )
        initialize(self, tied, init)

    def forward(self, tokens: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Logits [T, B, vocabulary] for tokens [T, B], and the state to carry over."""
        h, state = self.lstm(self.embedding(tokens), state)
        return self.projection(h), state


def initialize(model: nn.Module, tied: bool | None, init: float) -> None:
    """Tie the weights of ``projection`` and ``embedding`` if asked to, and draw all parameters."""
    if tied:
        model.projection.weight = model.embedding.weight
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -init, init)
