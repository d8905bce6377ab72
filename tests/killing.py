"""Trainings that die where a test wants them to.

This file, run as a script, counts the events of a training, and kills it before one of them.
"""

import io
import json
import os
import runpy
import signal
import socket
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from forking import Forks

ROOT = Path(__file__).parents[1]
EVENTS = (
    "iteration",
    "write",
    "rename",
)  # a recorded loss, a piece of a checkpoint's file, a file's last step


class Ended(NamedTuple):
    code: int  # negative: the signal that killed it
    output: str
    events: dict[str, int]  # how many of each there were; none of a killed one


class Trainings:
    """Runs trainings one after the other."""

    def __init__(self, forks: Forks) -> None:
        self._forks = forks

    def __call__(
        self,
        folder: Path,
        *overrides: str,
        kill: tuple[str, int] | None = None,
        ranks: int = 1,
    ) -> Ended:
        """Train in ``folder``.

        Args:
            kill: die of SIGKILL right before the n-th event of this kind, counted from 1.
            ranks: processes that train together, as torchrun would start them; the last one dies,
                and what the first one says is returned.
        """
        command = [*overrides, f"run.dir={folder}", "train.threads=1"]
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        started = [
            self._forks.start(
                "tests/killing.py",
                json.dumps(kill if rank == ranks - 1 else None),
                *command,
                env=torchrun(rank, ranks, port) if ranks > 1 else None,
            )
            for rank in range(ranks)
        ]
        first, *_ = [program.result() for program in started]
        *output, last = first.stdout.splitlines() or [""]
        events = {}
        if last.startswith("events: "):
            events = json.loads(last.removeprefix("events: "))
        else:
            output.append(last)
        return Ended(first.returncode, "\n".join([*output, first.stderr]), events)


def torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun says to each process that it starts."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
    }


def train(kill: str, *overrides: str) -> None:
    counts = count_events(json.loads(kill))
    sys.argv = ["run.py", *overrides]
    sys.path[0] = str(ROOT)
    runpy.run_path("run.py", run_name="__main__")
    print("events:", json.dumps(counts))


def count_events(kill: tuple[str, int] | None) -> dict[str, int]:
    """Count the events of this process, and kill it before the one to die of."""
    from structured_dropout.experiment import files
    from structured_dropout.experiment.run import Run

    counts = Counter(dict.fromkeys(EVENTS, 0))

    def happens(event: str) -> None:
        counts[event] += 1
        if kill is not None and [event, counts[event]] == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(event, function):
        def call(*args, **kwargs):
            happens(event)
            return function(*args, **kwargs)

        return call

    class Unbuffered(io.FileIO):
        """Each write is a piece on the disk, and none waits for the next."""

        write = before("write", io.FileIO.write)

    def open_(path, mode, **options):
        return Unbuffered(path, mode) if "b" in mode else open(path, mode, **options)

    Run.record = before("iteration", Run.record)
    os.replace = before("rename", os.replace)
    files.open = open_
    return counts


if __name__ == "__main__":
    train(*sys.argv[1:])
