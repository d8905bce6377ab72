"""Registration of Python functions as torch operators."""

from __future__ import annotations

from collections.abc import Callable
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
    """Register ``structured_dropout::<schema>``, on all devices.

    Args:
        shapes: the same with empty tensors, for the compiler.
        context, backward: the gradient, as ``register_gradient`` takes it; None where it has none.

    Returns:
        The operator.
    """
    name = _library.define(schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"structured_dropout::{name}", shapes, lib=_library)
    if context is not None and backward is not None:
        register_gradient(name, context, backward)
    return getattr(torch.ops.structured_dropout, name).default
