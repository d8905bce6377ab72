"""Cross-entropy in the memory of its logits: with a large vocabulary the largest tensor of a
training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structured_dropout.derivatives import differentiable_once


def cross_entropy_(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """What ``torch.nn.functional.cross_entropy`` gives with ``reduction="sum"``. The logits are
    lost.

    Args:
        logits: [rows, classes]; overwritten, and their gradient after them, so that nothing of
            their size is allocated.
        targets: int64 [rows]; rows of ``ignore_index`` count for nothing.

    Raises:
        RuntimeError: the logits are a leaf that requires grad, or a view of one, as in torch's
            in-place functions.
    """
    owner = logits if logits._base is None else logits._base
    if owner.is_leaf and owner.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "cross_entropy_ would overwrite logits that are (a view of) a leaf that requires grad"
        )
    loss: Tensor = _CrossEntropy.apply(logits, targets, ignore_index)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        counts = (targets != ignore_index).to(logits.dtype)
        targets = targets.where(targets != ignore_index, 0).unsqueeze(1)
        target_logits, largest = logits.gather(1, targets).squeeze(1), logits.amax(dim=1)
        probabilities = torch.softmax(logits, dim=1, out=logits)
        ctx.save_for_backward(probabilities, targets, counts)
        # The largest probability is exp(largest) / sum. Subtracted first, since logits far from
        # zero have few digits.
        return ((largest - target_logits - probabilities.amax(dim=1).log()) * counts).sum()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets, counts = ctx.saved_tensors
        scale = (dloss * counts).unsqueeze(1)
        gradient = probabilities.mul_(scale)
        return gradient.scatter_add_(1, targets, -scale), None, None
