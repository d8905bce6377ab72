"""The weights of the best epoch, which are the ones to test."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


class Best:
    """A copy of the model's weights from its best validation."""

    def __init__(self, model: nn.Module) -> None:
        self.perplexity = math.inf
        self._model = model
        self._weights: dict[str, Any] = {}

    def update(self, perplexity: float) -> None:
        """Copy the weights if they are the best so far."""
        if not self._weights or perplexity < self.perplexity:
            self.perplexity = perplexity
            self._weights = {name: weight.clone() for name, weight in self._model.state_dict().items()}

    def restore(self) -> None:
        """Put the copy back into the model."""
        self._model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"perplexity": self.perplexity, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.perplexity, self._weights = state["perplexity"], state["weights"]
