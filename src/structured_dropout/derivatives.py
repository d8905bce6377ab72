"""What autograd may ask of operations that bring a backward of their own, and clear words where it
asks for more."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from structured_dropout.precision import without_autocast

Backward = Callable[..., Any]

_LEVEL = 1  # of the vmap that is_grads_batched=True makes; it does not nest


def differentiable_once(backward: Backward) -> Backward:
    """The backward of an autograd.Function, as ``differentiable_twice``, that raises where autograd
    would differentiate its result (``create_graph=True``).

    ``torch.autograd.function.once_differentiable`` raises only where the incoming gradient is
    itself differentiated; that of a loss is not, and whatever the backward computes from the saved
    tensors would count as a constant.
    """
    backward = differentiable_twice(backward)

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this has no second derivatives: leave out create_graph=True, or drop nothing "
                "(eval mode)"
            )
        return backward(ctx, *gradients)

    return checked


def differentiable_twice(backward: Backward) -> Backward:
    """The backward of an autograd.Function, in the dtypes of its forward even under torch.autocast,
    and called once for each gradient of a batch (``torch.autograd.grad`` with
    ``is_grads_batched=True``): kernels and loops that write in place have no batching rules."""

    @wraps(backward)
    def as_written(ctx: Any, *gradients: Any) -> Any:
        device = next((g.device for g in gradients if g is not None), None)
        if device is None:  # nothing comes back
            return (None,) * len(ctx.needs_input_grad)
        with without_autocast(device):
            return _each(lambda *own: backward(ctx, *own), gradients)

    return as_written


def refuse_transforms() -> None:
    """Raise RuntimeError inside grad, vmap and the other transforms of torch.func, which cannot
    look into an autograd.Function of ours."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "torch.func cannot transform a module while it drops: take torch.autograd.grad, or "
            "drop nothing (eval mode)"
        )


def _each(backward: Backward, gradients: tuple[Any, ...]) -> Any:
    # They tell it themselves: on a GPU autograd calls from a thread that knows of no vmap.
    if not any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in gradients):
        return backward(*gradients)
    # What is not batched comes as a batch of one.
    batches = [g if g is None else torch._remove_batch_dim(g, _LEVEL, 1, 0) for g in gradients]
    size = max(len(batch) for batch in batches if batch is not None)
    rows = [
        [None] * size if batch is None else batch.expand(size, *batch.shape[1:])
        for batch in batches
    ]
    results = [backward(*own) for own in zip(*rows, strict=True)]
    return tuple(
        torch._add_batch_dim(torch.stack(result), 0, _LEVEL)
        if isinstance(result[0], Tensor)
        else None
        for result in zip(*results, strict=True)
    )
