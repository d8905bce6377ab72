"""How good a language model is: perplexity."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from structured_dropout.experiment.run import LOSS_LIMIT
from structured_dropout.loss import cross_entropy_


@torch.no_grad()
def perplexity(model: nn.Module, stream: Tensor, batch: int, tokens_a_window: int = 400) -> float:
    """The perplexity of every token of ``stream`` but the first, read in ``batch`` parallel
    columns; infinite where the model has diverged.

    Args:
        tokens_a_window: as many as in a training step (of the small model), so that it needs no
            more memory.
    """
    model.eval()
    device = next(model.parameters()).device
    steps = math.ceil((len(stream) - 1) / batch)
    padding = batch * steps - (len(stream) - 1)
    inputs = F.pad(stream[:-1], (0, padding)).view(batch, steps).t().to(device)
    targets = F.pad(stream[1:], (0, padding), value=-100).view(batch, steps).t().to(device)
    total, state = 0.0, None
    window = max(tokens_a_window // batch, 1)
    for start in range(0, steps, window):
        rows = slice(start, start + window)
        logits, state = model(inputs[rows], state)
        total += cross_entropy_(logits.flatten(0, 1), targets[rows].flatten()).item()
    loss = total / (len(stream) - 1)
    return math.exp(loss) if loss <= LOSS_LIMIT else math.inf  # written so that NaN is infinite too
