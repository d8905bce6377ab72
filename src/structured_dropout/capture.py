"""What reaches into the capture of a CUDA graph (graphs.py): masks that are drawn on the CPU, and
constants that only a cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar

import torch


class Movable(Protocol):
    """A mask, to this module."""

    def to(self, device: torch.device) -> Self: ...


Mask = TypeVar("Mask", bound=Movable)
Constant = TypeVar("Constant")
Replace = Callable[[Callable[[], Any], torch.device], Any]

_replace: Replace | None = None
_constants: dict[Any, Any] | None = None


def drawn(draw: Callable[[], Mask], device: torch.device) -> Mask:
    """What ``draw`` gives, on ``device``; in a capture, where each replay will have it.

    Raises:
        RuntimeError: a forward that activation checkpointing repeats, inside a capture.
    """
    if _replace is None:
        return draw().to(device)
    if torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "a graph cannot repeat a forward inside its backward: leave out activation "
            "checkpointing, or the graph"
        )
    mask: Mask = _replace(draw, device)
    return mask


def constant(make: Callable[..., Constant], *arguments: Any) -> Constant:
    """What ``make``, which has a cache, gives for these arguments. A graph keeps it from its
    warm-up on, as long as it lives: its capture could not make it anew."""
    if _constants is None:
        return make(*arguments)
    key = make, arguments
    if key not in _constants:
        _constants[key] = make(*arguments)
    found: Constant = _constants[key]
    return found


@contextmanager
def inside(replace: Replace, constants: dict[Any, Any]) -> Iterator[None]:
    """Inside, ``replace`` stands for what is drawn, and ``constants`` are kept and found."""
    global _replace, _constants
    outer = _replace, _constants
    _replace, _constants = replace, constants
    try:
        yield
    finally:
        _replace, _constants = outer
