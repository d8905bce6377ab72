"""What torch.autocast and the dtypes of tensors mean to modules that cast by themselves."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import Tensor


def autocasts(device: torch.device) -> bool:
    """Whether torch.autocast is on there."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside this torch casts nothing on its own."""
    return torch.autocast(device.type, enabled=False) if autocasts(device) else nullcontext()


def of_products(weight: Tensor) -> torch.dtype:
    """The dtype of products with ``weight``: autocast's where it is on, else the weight's own. As
    in torch's autocast float64 stays as it is."""
    if not autocasts(weight.device) or weight.dtype == torch.float64:
        return weight.dtype
    return torch.get_autocast_dtype(weight.device.type)


@cache
def autocasts_lstm() -> bool:
    """Whether torch's LSTM runs under torch.autocast on this CPU: oneDNN's does from AVX-512 on."""
    zeros, weight = torch.zeros(1, 1, 1, device="cpu"), torch.zeros(4, 1, device="cpu")
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            torch.lstm(zeros, [zeros, zeros], [weight, weight], False, 1, 0.0, False, False, False)
    except RuntimeError:
        return False
    return True


def check(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Raise RuntimeError unless a tensor has the dtype of the weights, or autocast will cast it."""
    if tensor.dtype != weight.dtype and not autocasts(weight.device):
        raise RuntimeError(
            f"{name} is {tensor.dtype}, the weights are {weight.dtype}: convert one of them"
        )
