"""Gradients of torch operators, by the short way.

``torch.library.register_autograd`` does the same, but flattens and checks all arguments anew in
each call: overhead that a small LSTM layer feels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from structured_dropout.derivatives import differentiable_once, refuse_transforms

_library: Any = torch.library.Library("structured_dropout", "FRAGMENT")  # type: ignore[no-untyped-call]


def register_gradient(
    name: str, context: Callable[..., None], backward: Callable[..., Any]
) -> None:
    """Make the operator ``structured_dropout::<name>`` differentiable.

    Args:
        context: called with what is kept for the backward, the arguments and the output.
        backward: called with what was kept and the gradients of the output; returns those of the
            arguments: for a list of tensors a list, or None if none of them has a gradient.
            ``ctx.needs_input_grad`` counts the tensors of lists one by one.
    """
    op = getattr(torch.ops.structured_dropout, name).default

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *flat: Any) -> Any:
            ctx.lengths = flat[-1]
            arguments = _nested(ctx.lengths, flat)
            with torch._C._AutoDispatchBelowAutograd():
                output = op(*arguments)
            context(ctx, arguments, output)
            return output

        @staticmethod
        @differentiable_once
        def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
            return *_flat(_spread(backward(ctx, *gradients), ctx.lengths)), None

    def run(*arguments: Any) -> Any:
        refuse_transforms()
        lengths = [len(a) if _is_list(a) else None for a in arguments]
        return Function.apply(*_flat(arguments), lengths)  # type: ignore[no-untyped-call]

    _library.impl(name, run, "Autograd")


def _is_list(argument: Any) -> bool:
    return isinstance(argument, (list, tuple)) and all(
        isinstance(item, Tensor) or item is None for item in argument
    )


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


def _spread(gradients: Any, lengths: list[int | None]) -> list[Any]:
    """A None for each tensor of a list that has no gradients."""
    return [
        [None] * length if gradient is None and length is not None else gradient
        for gradient, length in zip(gradients, lengths, strict=True)
    ]
