"""Registration of Python functions as torch operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from structured_dropout.backends.differentiable import differentiable

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
        context, backward: the gradient, as ``differentiable`` takes it; None where it has none.

    Returns:
        The operator.
    """
    name = _library.define(schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"structured_dropout::{name}", shapes, lib=_library)
    op = getattr(torch.ops.structured_dropout, name).default
    if context is not None and backward is not None:
        _library.impl(name, differentiable(op, context, backward), "Autograd")
    return op
