"""The weights of the best epoch, which are the ones to test."""

from __future__ import annotations

from typing import Any

from torch import nn


class BestWeights:
    """A copy of the model's weights from its best validation, the first of equals; a checkpoint
    keeps it.

    Args:
        model: whose weights.
        higher_is_better: of the metric that validates it.
    """

    def __init__(self, model: nn.Module, higher_is_better: bool) -> None:
        self.metric: float | None = None
        self._higher_is_better = higher_is_better
        self._model = model
        self._weights: dict[str, Any] = {}

    def update(self, metric: float) -> None:
        """Copy the weights if they are the best so far."""
        if self.metric is None or (
            metric > self.metric if self._higher_is_better else metric < self.metric
        ):
            self.metric = metric
            self._weights = {
                name: weight.clone() for name, weight in self._model.state_dict().items()
            }

    def restore(self) -> None:
        """Put the copy back into the model."""
        self._model.load_state_dict(self._weights)

    def state_dict(self) -> dict[str, Any]:
        return {"metric": self.metric, "weights": self._weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.metric, self._weights = state["metric"], state["weights"]
