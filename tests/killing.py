"""Trainings in processes of their own, which die where a test wants them to.

What a training imports takes seconds. So this file, run as a script, imports it once and forks a
process for each training, which then does what ``python run.py`` does.
"""

import io
import json
import os
import runpy
import signal
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

    def __call__(self, folder: Path, *overrides: str, kill: tuple[str, int] | None = None) -> Ended:
        """Train in ``folder``.

        Args:
            kill: die of SIGKILL right before the n-th event of this kind, counted from 1.
        """
        command = [*overrides, f"run.dir={folder}", "train.threads=1"]
        job = {"command": command, "log": str(self._log), "kill": kill}
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
        if (child := os.fork()) == 0:
            train(**json.loads(line))
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


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
