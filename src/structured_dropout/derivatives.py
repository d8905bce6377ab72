"""Second derivatives: an error where they would be silently wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward that raises where autograd would differentiate its result (``create_graph=True``).

    ``torch.autograd.function.once_differentiable`` does so only where the incoming gradient is
    itself differentiated; that of a loss is not, and whatever the backward computes from the saved
    tensors would count as a constant.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this has no second derivatives: leave out create_graph=True, or choose what torch differentiates "
                "twice (the fused backend, torch.nn.functional.cross_entropy)"
            )
        return backward(ctx, *gradients)

    return checked
