"""The CUDA operators, with their gradients and shapes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from structured_dropout.backends.cuda import linear, lstm


@cache
def load() -> Any:
    """torch.ops.structured_dropout with the operators of kernels/cuda; each kernel is compiled at
    its first launch."""
    linear.register()
    lstm.register()
    return torch.ops.structured_dropout
