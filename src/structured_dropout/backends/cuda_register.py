"""Registration of Python functions as torch operators, by the short way.

``torch.library.custom_op`` with ``register_autograd`` does the same, but flattens and checks all arguments anew in each
call: an LSTM layer's forward then takes twice as long on the host, longer than a GPU needs for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from structured_dropout.derivatives import first_only

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
        context, backward: the gradient, as in ``torch.library.register_autograd``; arguments that are lists of tensors
            have lists of gradients. None where it has none.

    Returns:
        The operator.
    """
    name = _library.define(schema)
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"structured_dropout::{name}", shapes, lib=_library)
    op = getattr(torch.ops.structured_dropout, name).default
    if context is not None and backward is not None:
        _library.impl(name, _differentiable(op, context, backward), "Autograd")
    return op


def _differentiable(op: Any, context: Callable[..., None], backward: Callable[..., Any]) -> Callable[..., Any]:
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, lengths: list[int | None], *flat: Any) -> Any:
            arguments = _nested(lengths, flat)
            with torch._C._AutoDispatchBelowAutograd():
                output = op(*arguments)
            context(ctx, arguments, output)
            return output

        @staticmethod
        @first_only
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            return None, *_flat(backward(ctx, *gradients))

    def run(*arguments: Any) -> Any:
        lengths = [len(a) if _is_list(a) else None for a in arguments]
        return Function.apply(lengths, *_flat(arguments))  # type: ignore[no-untyped-call]

    return run


def _is_list(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and all(isinstance(item, Tensor) or item is None for item in argument)


def _flat(arguments: Any) -> list[Any]:
    """autograd.Function knows the tensors among its arguments, not those in lists."""
    flat: list[Any] = []
    for argument in arguments:
        flat.extend(argument) if _is_list(argument) else flat.append(argument)
    return flat


def _nested(lengths: list[int | None], flat: tuple[Any, ...]) -> list[Any]:
    arguments, i = [], 0
    for length in lengths:
        arguments.append(flat[i] if length is None else list(flat[i : i + length]))
        i += 1 if length is None else length
    return arguments
