"""What reaches into the capture of a CUDA graph (graphs.py): masks that are drawn on the CPU, and
tensors that only a cache holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor


class Movable(Protocol):
    """A mask, to this module."""

    def to(self, device: torch.device) -> Self: ...


Mask = TypeVar("Mask", bound=Movable)
Replace = Callable[[Callable[[], Any], torch.device], Any]

_replace: Replace | None = None
_keep: list[Tensor] | None = None


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


def kept(tensor: Tensor) -> Tensor:
    """The same tensor, which others may free: a graph that is captured keeps it as long as it
    lives."""
    if _keep is not None:
        _keep.append(tensor)
    return tensor


@contextmanager
def inside(replace: Replace, keep: list[Tensor] | None) -> Iterator[None]:
    """Inside, ``replace`` stands for what is drawn, and ``keep`` gets what must be kept."""
    global _replace, _keep
    outer = _replace, _keep
    _replace, _keep = replace, keep
    try:
        yield
    finally:
        _replace, _keep = outer
