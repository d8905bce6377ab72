"""One model on several processes, as torchrun starts them: what they do together.

All hold the whole model, draw the same random numbers and evaluate the same; each computes some
rows of every batch. With one process each function here is the plain thing that it stands for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from structured_dropout.experiment.errors import UsageError
from structured_dropout.split import split

T = TypeVar("T")


def size() -> int:
    """How many processes train the model."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def rank() -> int:
    """Which of them this is, from 0 on: the first one writes, logs and tracks."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def own(device: torch.device) -> torch.device:
    """The device of this process among those of its kind.

    Raises:
        UsageError: there is no such GPU, there are fewer than processes, or all were given the same
            one.
    """
    if device.type == "cpu":
        return device
    gpus = torch.cuda.device_count()
    if size() == 1:
        if (device.index or 0) >= gpus:
            raise UsageError(f"device={device}: there are {gpus} GPUs here, numbered from 0")
        return torch.device("cuda", device.index or 0)
    if device.index is not None:
        raise UsageError(f"device={device} is one GPU for {size()} processes: device=cuda")
    local = int(os.environ["LOCAL_RANK"])
    if local >= gpus:
        raise UsageError(f"each process needs a GPU of its own: torchrun --nproc-per-node={gpus}")
    return torch.device("cuda", local)


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside, the device is the process's current one, and the processes can reach each other; one
    that fails leaves the others to torchrun."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size() == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield
    dist.barrier()  # until the first one has written its summary
    dist.destroy_process_group()


def from_first(function: Callable[[], T]) -> T:
    """What this returns in the first process, for all; what it raises there, all raise."""
    if size() == 1:
        return function()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = function()
        except Exception as error:
            box[1] = error
    dist.broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    result: T = box[0]
    return result


def highest(*numbers: int) -> list[int]:
    """Of each number the highest that a process has."""
    if size() == 1:
        return list(numbers)
    highest = torch.tensor(numbers)
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return highest.tolist()


class Share:
    """The rows of each batch that this process computes: every n-th one, so that a batch sorted by
    length is shared out evenly.

    A process for which no row is left computes the first one, which then counts for nothing.
    """

    def __init__(self) -> None:
        self._batch = 1
        self._weight = 1.0  # the share of the batch
        self._drawing = ExitStack()

    def begin(self, batch: int) -> slice:
        """The rows of a batch of so many; until ``end`` masks are drawn for the whole batch."""
        if size() == 1:
            return slice(None)
        self._batch = batch
        self._weight = len(range(batch)[rank() :: size()]) / batch
        rows = self._rows(batch)
        self._drawing.enter_context(split(batch, rows))
        return rows

    def end(self) -> None:
        self._drawing.close()

    def distribute(self, model: nn.Module, find_unused_parameters: bool) -> nn.Module:
        """The model, whose gradients are those of the whole batch's loss where each process has
        that of its rows, a mean over them."""
        if size() == 1:
            return model
        parallel = DistributedDataParallel(model, find_unused_parameters=find_unused_parameters)
        # A function without annotations: torch does not know those that are text.
        parallel.register_comm_hook(None, lambda _, bucket: self._weighted_sum(bucket))
        return parallel

    def total(self, loss: Tensor, units: int) -> tuple[Tensor, int]:
        """The mean loss a unit of the whole batch, and its units."""
        if size() == 1:
            return loss, units
        # Counted on the CPU, so that no process waits for its device.
        count = torch.tensor(units if self._weight else 0)
        total = loss.double() * count.item()
        dist.all_reduce(count)
        dist.all_reduce(total)
        return total / count.item(), int(count)

    def gather(self, state: Any) -> Any:
        """In the first process the whole batch's state, on the CPU: tensors, in tuples and lists,
        whose dimension 1 are the rows."""
        if size() == 1:
            return state
        parts: list[Any] | None = [None] * size() if rank() == 0 else None
        dist.gather_object(_each(Tensor.cpu, state), parts)
        return parts and _together(parts[: self._batch])

    def take(self, state: Any) -> Any:
        """This process's rows of the whole batch's state."""
        if size() == 1:
            return state
        return _each(lambda x: x[:, self._rows(x.shape[1])].contiguous(), state)

    def _rows(self, batch: int) -> slice:
        return slice(rank(), None, size()) if rank() < batch else slice(0, 1)

    def _weighted_sum(self, bucket: Any) -> Any:
        """The future of a bucket of gradients."""
        work = dist.all_reduce(bucket.buffer().mul_(self._weight), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])


def _each(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    if isinstance(state, Tensor):
        return function(state)
    if isinstance(state, list | tuple):
        return type(state)(_each(function, item) for item in state)
    if isinstance(state, dict):
        return {key: _each(function, value) for key, value in state.items()}
    return state


def _together(parts: list[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        layers, _, *others = first.shape
        whole = first.new_empty(layers, sum(part.shape[1] for part in parts), *others)
        for i, part in enumerate(parts):
            whole[:, i :: size()] = part
        return whole
    if isinstance(first, list | tuple):
        return type(first)(_together(list(items)) for items in zip(*parts, strict=True))
    if isinstance(first, dict):
        return {key: _together([part[key] for part in parts]) for key in first}
    return first
