"""Drawing masks from a generator of a module's own as torch would from its default one: the same
again where activation checkpointing repeats a forward, others in each worker."""

from __future__ import annotations

import multiprocessing
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_REMEMBERED = 1000  # forwards that wait for a backward which repeats them; 10 KB each


class OwnStream:
    """What a module keeps beside its generator."""

    def __init__(self) -> None:
        self._process = multiprocessing.current_process().name
        # States of torch's default generator and of the own one before each such forward.
        self._forwards: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=_REMEMBERED)

    @contextmanager
    def drawing(self, generator: torch.Generator | None) -> Iterator[None]:
        """Draw what one forward call needs inside this.

        Activation checkpointing (``torch.utils.checkpoint``) repeats a forward inside the backward,
        the last one first, and restores torch's default generators for it. This one is set back to
        the state that it had when they were in theirs.

        Raises:
            RuntimeError: a forward inside a backward that repeats none.
        """
        if generator is None:
            yield
            return
        self._leave_the_parents_stream(generator)
        if torch._C._current_graph_task_id() != -1:
            now = generator.get_state()
            generator.set_state(self._first_time())
            try:
                yield
            finally:
                generator.set_state(now)
            return
        if _may_be_repeated():
            self._forwards.append((torch.get_rng_state(), generator.get_state()))
        yield

    def _first_time(self) -> torch.Tensor:
        default = torch.get_rng_state()
        for i in reversed(range(len(self._forwards))):
            if torch.equal(self._forwards[i][0], default):
                state = self._forwards[i][1]
                del self._forwards[i]
                return state
        raise RuntimeError(
            "a forward inside a backward would drop other units than the first time: leave "
            "preserve_rng_state=True in torch.utils.checkpoint, or give the module no generator"
        )

    def _leave_the_parents_stream(self, generator: torch.Generator) -> None:
        """Workers inherit a generator in one state: each goes on with a stream of its own, the same
        again in another run."""
        name = multiprocessing.current_process().name
        if name != self._process:
            drawn = int(torch.randint(2**31, (), generator=generator, device="cpu"))
            generator.manual_seed(drawn << 32 | zlib.crc32(name.encode()))
            self._process = name


def _may_be_repeated() -> bool:
    """Whether checkpointing may be around: it hides saved tensors behind hooks, or runs without
    grad."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None or not torch.is_grad_enabled()
