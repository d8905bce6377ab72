"""A training step as a CUDA graph, with other structured masks at each replay.

A replay launches all kernels of a step at once, on the same memory. What the device draws (random
masks, torch's own dropout) is new each time by itself. Structured masks are drawn on the CPU: a
replay draws them as the step would, and sends them to where the graph reads them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Generic, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from structured_dropout import capture
from structured_dropout.masks import UnitMask

Draw = Callable[[], UnitMask]  # on the CPU
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_WARM_UP = 3  # calls before the capture, as torch advises
_MANY = 256  # combinations of arguments; the AWD-LSTM has about half as many
_TOO_MANY = (
    f"a Graphed step was called with more than {_MANY} combinations of arguments, and each is "
    "captured when it has come often enough: a number that changes belongs into a tensor"
)


class Graphed(Generic[Arguments, Result]):
    """A function that does the same as ``step``, by CUDA graphs: one for each combination of its
    arguments' shapes.

    The first calls with a combination are the step's own, the next one captures it. From then on a
    call copies its arguments to where the graph reads them, draws the structured masks, from the
    same generators in the same order as the step would, and replays the graph. What it returns has
    no gradient. All graphs share the memory in which they compute, so that gradients which a call
    leaves behind are gone after the next one.

    Args:
        step: takes and returns tensors on the GPU, also in tuples and lists, and None. It must not
            wait for the device. Numbers and texts among its arguments are part of the combination.
            All else that it reads is what it was at the capture: a learning rate, whether a module
            is in training. Optimizers with a state need ``capturable=True``.

    Raises:
        TypeError: an argument that a graph cannot read.
        RuntimeError: the step cannot be captured.
    """

    def __init__(self, step: Callable[Arguments, Result]) -> None:
        self._step = step
        self._graphs: dict[Any, _Graph[Result]] = {}
        self._pool: Any = None  # the memory of all graphs, since only one runs at a time

    def __call__(self, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        leaves, structure = tree_flatten((args, dict(sorted(kwargs.items()))))
        combination = structure, tuple(_kind(leaf) for leaf in leaves)
        device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), None)
        with torch.cuda.device(device):  # whose stream is captured
            if combination not in self._graphs:
                if len(self._graphs) == _MANY:
                    warnings.warn(_TOO_MANY, stacklevel=2)
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._graphs[combination] = _Graph(self._step, structure, self._pool)
            return self._graphs[combination](leaves)


class _Graph(Generic[Result]):
    """A step for one combination of arguments, which come flattened."""

    def __init__(self, step: Callable[..., Result], structure: TreeSpec, pool: Any) -> None:
        self._step, self._structure, self._pool = step, structure, pool
        self._calls = 0
        self._masks = StaticMasks()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Any] = []
        self._result: Any = None

    def __call__(self, leaves: list[Any]) -> Result:
        if self._calls < _WARM_UP:
            result = self._warm_up(leaves)
            self._calls += 1
            return result
        self._masks.redraw()
        if self._graph is None:
            self._inputs = _copies(leaves)
            self._graph = self._captured()
        else:
            for there, here in zip(self._inputs, leaves, strict=True):
                if isinstance(there, Tensor):
                    there.copy_(here.detach())
        self._graph.replay()
        returned: Result = _copies(self._result)
        return returned

    def _warm_up(self, leaves: list[Any]) -> Result:
        """On the stream that will be captured."""
        outer, stream = torch.cuda.current_stream(), _stream(torch.cuda.current_device())
        stream.wait_stream(outer)
        try:
            with torch.cuda.stream(stream), self._masks.recorded():
                return self._run(leaves)
        finally:
            outer.wait_stream(stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), _stream(torch.cuda.current_device())
        options = {"pool": self._pool, "stream": stream}
        with torch.cuda.graph(graph, **options), self._masks.handed_out():
            self._result = self._run(self._inputs)
        return graph

    def _run(self, leaves: list[Any]) -> Result:
        args, kwargs = tree_unflatten(leaves, self._structure)
        return self._step(*args, **kwargs)


class StaticMasks:
    """The structured masks of a step, in the order in which it draws them, in memory that stays."""

    def __init__(self) -> None:
        self._draws: list[Draw] = []
        self._masks: list[UnitMask] = []
        self._numbers = torch.empty(0, dtype=torch.int32, device="cpu")  # of all masks
        self._sizes: list[int] = []  # of each mask's part
        self._constants: dict[Any, Any] = {}  # what else the graph reads

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Remember what is drawn inside."""
        self._draws, masks = [], []
        self._constants.clear()

        def record(draw: Draw, device: torch.device) -> UnitMask:
            self._draws.append(draw)
            masks.append(draw().to(device))
            return masks[-1]

        with capture.inside(record, self._constants):
            yield
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

        with capture.inside(next_mask, self._constants):
            yield
        if next(masks, None) is not None:
            raise RuntimeError("the step draws fewer masks than before")

    def redraw(self) -> None:
        """Draw all anew, and send them in one copy that nothing waits for."""
        numbers = torch.zeros(
            len(self._numbers), dtype=torch.int32, device="cpu", pin_memory=self._numbers.is_cuda
        )
        for draw, part in zip(self._draws, torch.split(numbers, self._sizes), strict=True):
            drawn = draw().numbers
            part[: len(drawn)] = drawn
        self._numbers.copy_(numbers, non_blocking=True)

    def _lay_out(self, masks: list[UnitMask]) -> None:
        """Make room for the most that each can keep."""
        self._sizes = [
            2 * len(mask.offsets) + (mask.draws * mask.units + 1) // 2 * 2 for mask in masks
        ]
        device = masks[0].indices.device if masks else "cpu"
        self._numbers = torch.zeros(sum(self._sizes), dtype=torch.int32, device=device)
        self._masks = [
            mask.laid_out(part, torch.empty_like(mask.offsets, device="meta"))
            for mask, part in zip(masks, torch.split(self._numbers, self._sizes), strict=True)
        ]


def _copies(tree: Any) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), tree)


def _kind(leaf: Any) -> Any:
    """What of an argument a graph cannot change."""
    if isinstance(leaf, Tensor) and leaf.is_cuda:
        return leaf.dtype, leaf.shape, leaf.device
    if leaf is None or isinstance(leaf, bool | int | float | str):
        return type(leaf), leaf
    what = f"a tensor on {leaf.device}" if isinstance(leaf, Tensor) else type(leaf).__name__
    raise TypeError(
        f"a graph reads tensors on the GPU, and keeps numbers, texts and None: not {what}"
    )


@cache
def _stream(device: int) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
