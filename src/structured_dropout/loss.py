"""Cross-entropy in the memory of its logits: with a large vocabulary the largest tensor of a
training step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from structured_dropout.backends.cpu import build
from structured_dropout.backends.operators.build import missing
from structured_dropout.derivatives import differentiable_once


def cross_entropy_(logits: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """What ``torch.nn.functional.cross_entropy`` gives with ``reduction="sum"``. The logits may be
    lost.

    Args:
        logits: [rows, classes]; overwritten, and their gradient after them, so that nothing of
            their size is allocated. Of bfloat16 and float16 logits all but the gradient is
            float32, the loss, too; they are left as they are where the ``cpu`` backend's kernel
            does not take them: in float16, on a GPU, not contiguous.
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
    half = logits.dtype in (torch.bfloat16, torch.float16)
    if half and not _has_kernel(logits):
        logs = functional.log_softmax(logits, dim=1, dtype=torch.float32)
        return functional.nll_loss(logs, targets, ignore_index=ignore_index, reduction="sum")
    function = _BFloat16CrossEntropy if half else _CrossEntropy
    loss: Tensor = function.apply(logits, targets, ignore_index)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        counts = (targets != ignore_index).to(logits.dtype)
        targets = targets.masked_fill(targets == ignore_index, 0).unsqueeze(1)
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


class _BFloat16CrossEntropy(torch.autograd.Function):
    """Rounds once, to the gradient: of the softmax the forward keeps a sum a row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ignore_index: int) -> Tensor:
        counts = (targets != ignore_index).float()
        targets = targets.masked_fill(targets == ignore_index, 0)
        target_logits = logits.gather(1, targets.unsqueeze(1)).squeeze(1).float()
        largest, log_sum = build.load().cross_entropy_fp(logits)
        ctx.save_for_backward(logits, targets, counts, largest, log_sum)
        loss: Tensor = ((largest - target_logits + log_sum) * counts).sum()
        return loss

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, counts, largest, log_sum = ctx.saved_tensors
        build.load().cross_entropy_bp_(logits, targets, largest, log_sum, dloss * counts)
        return logits, None, None


def _has_kernel(logits: Tensor) -> bool:
    suits = logits.is_cpu and logits.dtype == torch.bfloat16 and logits.is_contiguous()
    return bool(suits) and missing() is None
