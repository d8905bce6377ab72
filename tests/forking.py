"""Programs in processes of their own, without the seconds that their imports take.

This file, run as a script, imports once what the programs of this repository import. It then forks
a process for each program, which does what ``python PROGRAM ARGUMENT ...`` does.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "hydra",
    "rich.live",
    "structured_dropout.experiment.run",
    "tasks.ptb.train",
    "tasks.ner.train",
    "tasks.nmt.train",
    "torch._dynamo",  # an optimizer needs it
)


class Program:
    """A program that runs, used as a ``subprocess.Popen``; its output lies in two files."""

    def __init__(self, forks: "Forks", pid: int, output: tuple[Path, Path]) -> None:
        self.pid = pid
        self.returncode: int | None = None  # negative: the signal that killed it
        self._forks, self._output = forks, output

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.ask(pid=self.pid)
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def result(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end."""
        code = self.wait()
        stdout, stderr = (path.read_text() for path in self._output)
        return subprocess.CompletedProcess(self.pid, code, stdout, stderr)


class Forks:
    """Starts programs.

    Args:
        folder: where their output goes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._started = folder, 0
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )

    def start(
        self,
        *command: object,
        cwd: Path = ROOT,
        input: str = "",
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """
        Args:
            command: the program's path, from the root, and its arguments.
            env: variables that it has besides those of this process.
        """
        self._started += 1
        files = [self._folder / f"{self._started}.{name}" for name in ("in", "out", "err")]
        files[0].write_text(input)
        pid = self.ask(
            command=[str(ROOT / str(command[0])), *map(str, command[1:])],
            cwd=str(cwd),
            files=[str(path) for path in files],
            env={**os.environ, **(env or {})},
        )
        return Program(self, pid, (files[1], files[2]))

    def run(self, *command: object, **options) -> subprocess.CompletedProcess[str]:
        """As ``start``, to the end."""
        return self.start(*command, **options).result()

    def ask(self, **job) -> int | None:
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()


def serve() -> None:
    """Answer each line, a JSON object: the pid of a program to start, or the exit code of a pid,
    null while it runs."""
    for line in sys.stdin:
        job = json.loads(line)
        if "pid" in job:
            ended, status = os.waitpid(job["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        elif (answer := os.fork()) == 0:
            become(**job)
            return
        print(json.dumps(answer), flush=True)


def become(command: list[str], cwd: str, files: list[str], env: dict[str, str]) -> None:
    for stream, path in enumerate(files):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if stream else os.O_RDONLY
        os.dup2(os.open(path, flags, 0o600), stream)
    sys.stdin = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    for module in IMPORTED:
        with suppress(ImportError):  # an extra that is not installed
            __import__(module)
    serve()
