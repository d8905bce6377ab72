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
    """Measure a training iteration in a process of its own, which runs nothing else.

    Args:
        build: makes the iteration, over there; it must be picklable.
        device: where it trains; of a GPU its own memory counts, else the process's.

    Raises:
        UsageError: that process died, most likely for want of memory.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure, args=(build, device, there))
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


def _measure(
    build: Callable[[], Callable[[], object]], device: torch.device, pipe: Connection
) -> None:
    iterate = build()
    for _ in range(3):
        iterate()
    if device.type == "cuda":
        pipe.send(torch.cuda.max_memory_allocated() / 2**20)
    else:
        pipe.send(_peak_resident_kilobytes() / 2**10)


def _peak_resident_kilobytes() -> int:
    """Of this process alone: Linux's getrusage also counts what its parent had when it forked."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
