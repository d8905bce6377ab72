"""Trainings in processes of their own, which die where a test wants them to.

What a training imports takes seconds. So this file, run as a script, imports it once and forks a
process for each training, which then does what ``python run.py`` does.
"""

import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

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
    """Runs trainings one after the other.

    Args:
        log: where the output of the current one goes.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

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
        job = {"command": command, "log": str(self._log), "kill": kill, "ranks": ranks}
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        *output, last = self._log.read_text().splitlines() or [""]
        if last.startswith("events: "):
            return Ended(code, "\n".join(output), json.loads(last.removeprefix("events: ")))
        return Ended(code, "\n".join([*output, last]), {})

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Fork a training for each line, a JSON object; answer with its exit code."""
    for line in sys.stdin:
        job = json.loads(line)
        ranks = job.pop("ranks")
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        children = []
        for rank in range(ranks):
            if (child := os.fork()) == 0:
                if ranks > 1:
                    os.environ.update(torchrun(rank, ranks, port))
                last = rank == ranks - 1
                log = job["log"] if rank == 0 else f"{job['log']}.{rank}"
                train(job["command"], log, job["kill"] if last else None)
                return
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(codes[0], flush=True)


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


def train(command: list[str], log: str, kill: tuple[str, int] | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    counts = count_events(kill)
    sys.argv = ["run.py", *command]
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
    sys.path.insert(0, str(ROOT))
    for module in (
        "tasks.ptb.train",
        "tasks.ner.train",
        "tasks.nmt.train",
        "torch._dynamo",
    ):  # an optimizer needs the last
        with suppress(ImportError):  # an extra that is not installed
            __import__(module)
    serve()
