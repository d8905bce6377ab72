"""Which dtype a module's products are in under torch.autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.backends.base import Backend
from structured_dropout.derivatives import autocasts
from structured_dropout.policy import DropoutPolicy


def of_products(backend: Backend, policy: DropoutPolicy, weight: Tensor) -> torch.dtype:
    """The dtype of products with ``weight``: autocast's where it is on and the backend computes in
    it, else the weight's own. As in torch's autocast float64 stays as it is."""
    device = weight.device
    if not autocasts(device) or weight.dtype == torch.float64:
        return weight.dtype
    dtype = torch.get_autocast_dtype(device.type)
    return dtype if backend.supports(policy, device, dtype) is None else weight.dtype


def check(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Raise RuntimeError unless a tensor has the dtype of the weights, or autocast will cast it."""
    if tensor.dtype != weight.dtype and not autocasts(weight.device):
        raise RuntimeError(
            f"{name} is {tensor.dtype}, the weights are {weight.dtype}: convert one of them"
        )
