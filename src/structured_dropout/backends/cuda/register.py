"""Registration of Python functions as torch operators."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from structured_dropout.backends.operators.gradients import register_gradient

_library: Any = torch.library.Library("structured_dropout", "FRAGMENT")  # type: ignore[no-untyped-call]


def operator(
    schema: str,
    function: Callable[..., Any],
    shapes: Callable[..., Any],
    *,
    context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Any:
    """Register ``structured_dropout::<schema>``, on all devices. It runs with autocast off, which
    would give a kernel tensors of half the size where torch computes a part of the operator.

    Args:
        shapes: the same with empty tensors, for the compiler.
        context, backward: the gradient, as ``register_gradient`` takes it; None where it has none.

    Returns:
        The operator.
    """
    name = _library.define(schema)
    _library.impl(name, _without_autocast(function), "CompositeExplicitAutograd")
    torch.library.register_fake(f"structured_dropout::{name}", shapes, lib=_library)
    if context is not None and backward is not None:
        register_gradient(name, context, backward)
    return getattr(torch.ops.structured_dropout, name).default


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def run(*arguments: Any) -> Any:
        with torch._C._DisableAutocast():
            return function(*arguments)

    return run
