"""Which dtype a module's products are in under torch.autocast."""

from __future__ import annotations

import torch
from torch import Tensor

from structured_dropout.derivatives import autocasts


def of_products(weight: Tensor) -> torch.dtype:
    """The dtype of products with ``weight``: autocast's where it is on, else the weight's own. As
    in torch's autocast float64 stays as it is."""
    if not autocasts(weight.device) or weight.dtype == torch.float64:
        return weight.dtype
    return torch.get_autocast_dtype(weight.device.type)


def check(name: str, tensor: Tensor, weight: Tensor) -> None:
    """Raise RuntimeError unless a tensor has the dtype of the weights, or autocast will cast it."""
    if tensor.dtype != weight.dtype and not autocasts(weight.device):
        raise RuntimeError(
            f"{name} is {tensor.dtype}, the weights are {weight.dtype}: convert one of them"
        )
