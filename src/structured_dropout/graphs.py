"""A training step as one CUDA graph, with other structured masks at each replay.

A replay launches all kernels of a step at once, on the same memory. What the device draws (random
masks, torch's own dropout) is new each time by itself. Structured masks are drawn on the CPU: a
replay draws them as the step would, and sends them to where the graph reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

if TYPE_CHECKING:
    from structured_dropout.masks import UnitMask

Draw = Callable[[], "UnitMask"]  # on the CPU
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WARM_UP = 3  # calls before the capture, as torch advises


class Graphed(Generic[Arguments, Result]):
    """A function that does the same as ``step``, as one CUDA graph.

    The first calls are the step's own; the next one captures it. From then on a call copies its
    arguments to where the graph reads them, draws the structured masks, from the same generators in
    the same order as the step would, and replays the graph.

    Args:
        step: takes and returns tensors, also in tuples and lists, and None. It must not wait for
            the device. All else that it reads is what it was at the capture: a learning rate, too.

    Raises:
        ValueError: arguments of other shapes than at the capture.
        RuntimeError: the step cannot be captured.
    """

    def __init__(self, step: Callable[Arguments, Result]) -> None:
        self._step = step
        self._calls = 0
        self._masks = StaticMasks()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Any] = []
        self._result: Any = None

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if self._calls < _WARM_UP:
            self._calls += 1
            return self._warm_up(*args, **kwargs)
        leaves, structure = tree_flatten((args, kwargs))
        if self._graph is None:
            self._inputs = tree_map_only(Tensor, torch.clone, leaves)
            self._masks.redraw()
            self._capture(*tree_unflatten(self._inputs, structure))
        else:
            self._masks.redraw()
            self._receive(leaves)
        assert self._graph is not None
        self._graph.replay()
        result: Result = tree_map_only(Tensor, torch.clone, self._result)
        return result

    def _warm_up(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """On a stream of its own, as a capture is."""
        outer = torch.cuda.current_stream()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(outer)
        with torch.cuda.stream(stream), self._masks.recorded():
            result = self._step(*args, **kwargs)
        outer.wait_stream(stream)
        return result

    def _capture(self, args: Any, kwargs: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), self._masks.handed_out():
            self._result = self._step(*args, **kwargs)

    def _receive(self, leaves: list[Any]) -> None:
        if len(leaves) != len(self._inputs):
            raise ValueError(f"the graph has {len(self._inputs)} arguments, not {len(leaves)}")
        for there, here in zip(self._inputs, leaves, strict=True):
            if isinstance(there, Tensor):
                if not isinstance(here, Tensor) or here.shape != there.shape:
                    raise ValueError(
                        f"the graph was captured with an argument of {list(there.shape)}, this is "
                        f"{list(here.shape) if isinstance(here, Tensor) else here}"
                    )
                there.copy_(here)


class StaticMasks:
    """The structured masks of a step, in the order in which it draws them, in memory that stays."""

    def __init__(self) -> None:
        self._draws: list[Draw] = []
        self._masks: list[UnitMask] = []
        self._numbers = torch.empty(0, dtype=torch.int32)  # of all masks, on their device
        self._sizes: list[int] = []  # of each mask's part

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Remember what is drawn inside."""
        self._draws, masks = [], []

        def record(draw: Draw, device: torch.device) -> UnitMask:
            self._draws.append(draw)
            masks.append(draw().to(device))
            return masks[-1]

        with _drawing_by(record):
            yield
        if masks:
            self._lay_out(masks)

    @contextmanager
    def handed_out(self) -> Iterator[None]:
        """Inside, what would be drawn is what ``redraw`` drew last."""
        masks = iter(self._masks)

        def next_mask(draw: Draw, device: torch.device) -> UnitMask:
            mask = next(masks, None)
            if mask is None:
                raise RuntimeError("the step draws more masks than before")
            return mask

        with _drawing_by(next_mask):
            yield
        if next(masks, None) is not None:
            raise RuntimeError("the step draws fewer masks than before")

    def redraw(self) -> None:
        """Draw all anew, and send them in one copy that nothing waits for."""
        on_gpu = self._numbers.is_cuda
        numbers = torch.zeros(len(self._numbers), dtype=torch.int32, pin_memory=on_gpu)
        for draw, part in zip(self._draws, torch.split(numbers, self._sizes), strict=True):
            mask = draw()
            drawn = torch.cat((mask.offsets.view(torch.int32), mask.indices))
            part[: len(drawn)] = drawn
        self._numbers.copy_(numbers, non_blocking=True)

    def _lay_out(self, masks: list[UnitMask]) -> None:
        """Make room for the most that each can keep."""
        self._sizes = [
            2 * len(mask.offsets) + (mask.draws * mask.units + 1) // 2 * 2 for mask in masks
        ]
        self._numbers = masks[0].indices.new_zeros(sum(self._sizes))
        self._masks = [
            mask.laid_out(part, torch.empty_like(mask.offsets, device="meta"))
            for mask, part in zip(masks, torch.split(self._numbers, self._sizes), strict=True)
        ]


def _draw_now(draw: Draw, device: torch.device) -> UnitMask:
    return draw().to(device)


_drawing: Callable[[Draw, torch.device], UnitMask] = _draw_now


@contextmanager
def _drawing_by(function: Callable[[Draw, torch.device], UnitMask]) -> Iterator[None]:
    global _drawing
    outer, _drawing = _drawing, function
    try:
        yield
    finally:
        _drawing = outer


def drawn(draw: Draw, device: torch.device) -> UnitMask:
    """What ``draw`` gives, on ``device``; in a graph's capture, where each replay will have it."""
    if _drawing is not _draw_now and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "a graph cannot repeat a forward inside its backward: leave out activation "
            "checkpointing, or the graph"
        )
    return _drawing(draw, device)
