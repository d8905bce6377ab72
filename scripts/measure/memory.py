"""The memory that a training iteration needs."""

from __future__ import annotations

import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from structured_dropout.experiment.errors import UsageError


def peak_megabytes(build: Callable[[], Callable[[], object]], device: torch.device) -> float:
    """Measure a training iteration: what it takes of a GPU's memory, else what a process takes
    that runs nothing else.

    Args:
        build: makes the iteration, in that process; it must be picklable.
        device: where it trains.

    Raises:
        UsageError: that process died, most likely for want of memory.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _run(build)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(build, there))
    process.start()
    there.close()
    try:
        peak: float = here.recv()
    except EOFError:
        process.join()
        raise UsageError(
            f"the process that measures memory died with exit code {process.exitcode}"
        ) from None
    process.join()
    return peak


def _measure(build: Callable[[], Callable[[], object]], pipe: Connection) -> None:
    _run(build)
    pipe.send(_peak_resident_kilobytes() / 2**10)


def _run(build: Callable[[], Callable[[], object]]) -> None:
    iterate = build()
    for _ in range(5):  # a CUDA graph is captured after three
        iterate()


def _peak_resident_kilobytes() -> int:
    """Of this process alone: Linux's getrusage also counts what its parent had when it forked."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
