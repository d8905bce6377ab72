"""All that only a machine with an NVIDIA GPU can show: the kernels are right there, and how fast
they are.

    python scripts/gpu.py --out FOLDER [--budget SECONDS] [--only STEP,STEP]

For a machine that may have no network, with the Python that runs this file. The steps, in their
order: a smoke test at real sizes; the translator's decoder by graphs; ceilings
(scripts/ceilings.py); benchmarks of ptb_medium and ptb_large in fp32, TF32 and bf16, which also
tell where skipping a layer's input alone pays; compute-sanitizer; all tests of the backends; and a
training of ptb_medium with what is left of the budget. What they print and measure lies in FOLDER,
and in one FOLDER/gpu.tar.gz at the end.

What a step needs and the machine has not is an error before any runs. A step that fails does not
end the others, but the first CUDA error does: behind it nothing can be trusted. The end tells how
each went.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from structured_dropout.backends.cuda import build

ROOT = Path(__file__).resolve().parents[1]
DEVICE = os.environ.get("TEST_DEVICE", "cuda")  # else the tests' stand-in for a GPU
CUDA_ERROR = re.compile(
    r"CUDA error|CUDA_ERROR_|cudaError|CUDADriverError|illegal memory access|LaunchError"
)
TESTS = ("torch", "cupy", "pytest", "numpy")
MODELS = (*TESTS, "hydra", "omegaconf", "rich")
BENCHMARKS = ("ptb_medium", "ptb_large")


class Step(NamedTuple):
    """A command, the seconds it may take (None: all that are left), and what it needs: modules, or
    the names of programs and of environment variables that hold a folder."""

    command: list[str]
    limit: float | None
    needs: tuple[str, ...]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where all results land")
    parser.add_argument("--budget", type=float, default=540, help="seconds in all")
    parser.add_argument("--only", help="the steps to run, with commas; all by default")
    options = parser.parse_args(arguments)
    out = options.out.resolve()
    chosen = steps(out)
    if options.only is not None:
        wanted = options.only.split(",")
        if unknown := set(wanted) - set(chosen):
            sys.exit(f"error: no step {', '.join(sorted(unknown))}: there are {', '.join(chosen)}")
        chosen = {name: step for name, step in chosen.items() if name in wanted}
    if lacking := sorted({need for step in chosen.values() for need in step.needs if lacks(need)}):
        sys.exit(f"error: not here: {', '.join(lacking)}; bring it, or leave steps out with --only")
    if DEVICE == "cuda" and not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU here: nvidia-smi tells whether there is a driver")
    try:
        build.load()  # in no step's time
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    out.mkdir(parents=True, exist_ok=True)
    sys.exit(run_all(chosen, out, time.monotonic() + options.budget))


def steps(out: Path) -> dict[str, Step]:
    """All steps by name, in their order."""
    pytest = [sys.executable, "-m", "pytest", "-q"]
    on = [f"device={DEVICE}"]
    script = [sys.executable, "scripts/benchmark.py", *on, "backend=cuda"]
    graphs = "tests/library/test_graphs.py"
    ceilings = [sys.executable, "scripts/ceilings.py", *on, f"output={out / 'ceilings.json'}"]
    result = {
        "smoke": Step([*pytest, "-x", "tests/cuda/test_real_sizes.py", graphs], 120, TESTS),
        "decoder": Step([*pytest, "tests/tasks/nmt/test_graphs.py"], 60, (*MODELS, "onmt")),
        "ceilings": Step(ceilings, 60, ("torch", "cupy", "numpy")),
    }
    for task in BENCHMARKS:
        row = [f"task={task}", "precision=fp32,tf32,bf16", f"output={out / f'{task}.csv'}"]
        result[task] = Step([*script, *row], 300, MODELS)
    for tool in ("memcheck", "racecheck", "synccheck"):
        sanitizer = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1"]
        tests = [*pytest, "tests/library/test_backends.py", "-k", "cuda and nr_rh_st"]
        command = [*sanitizer, "--target-processes", "all", *tests]
        result[tool] = Step(command, 180, (*TESTS, "compute-sanitizer"))
    result["tests"] = Step([*pytest, "tests/library/test_backends.py"], 300, TESTS)
    training = [sys.executable, "run.py", "task=ptb_medium", "dropout=nr_rh_st", "backend=cuda"]
    training += [*on, f"run.dir={out / 'ptb_medium_nr_rh_st'}"]
    result["training"] = Step(training, None, (*MODELS, "STRUCTURED_DROPOUT_DATA"))
    return result


def lacks(need: str) -> bool:
    if need == "cupy" and DEVICE != "cuda":
        return False
    if need.isupper():
        return not Path(os.environ.get(need, "")).is_dir() or need not in os.environ
    return find_spec(need) is None if "-" not in need else shutil.which(need) is None


def run_all(chosen: dict[str, Step], out: Path, deadline: float) -> int:
    """Run the steps until the deadline, pack what they left. Returns 0 if all that ended passed."""
    told: dict[str, str] = {}
    for name, step in chosen.items():
        left = deadline - time.monotonic()
        if any(how == "CUDA error" for how in told.values()):
            told[name] = "not run: after a CUDA error nothing can be trusted"
        elif left < 5:
            told[name] = "not run: out of time"
        else:
            limit = left if step.limit is None else min(step.limit, left)
            told[name] = run(name, step.command, limit, out / f"{name}.log")
        report = "".join(f"{step}: {how}\n" for step, how in told.items())
        (out / "report.txt").write_text(report)
    if all(told.get(task) == "passed" for task in BENCHMARKS):
        won = faster([out / f"{task}.csv" for task in BENCHMARKS])
        measured = {torch.cuda.get_device_name(): won}  # for backends/cuda/measured.json
        (out / "measured.json").write_text(json.dumps(measured) + "\n")
    with tarfile.open(out / "gpu.tar.gz", "w:gz") as tar:
        for path in sorted(out.iterdir()):
            if path.name != "gpu.tar.gz":
                tar.add(path, path.name, filter=without_weights)
    print(f"\n{report}all in {out / 'gpu.tar.gz'}")
    return int(any(how in ("failed", "CUDA error") for how in told.values()))


def without_weights(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if entry.name.endswith(".pt") else entry


def faster(csv_files: list[Path]) -> list[str]:
    """The precisions in which ``cuda`` was faster than ``fused`` in all these benchmarks where
    inputs alone are dropped."""
    speedups = defaultdict(list)
    for csv_file in csv_files:
        with csv_file.open() as file:
            for row in csv.DictReader(file):
                if (row["dropout"], row["backend"], row["phase"]) == ("nr_st", "cuda", "iteration"):
                    speedups[row["precision"]].append(float(row["speedup_vs_fused"]))
    return [precision for precision, found in speedups.items() if min(found) > 1]


def run(name: str, command: list[str], limit: float, log: Path) -> str:
    """Run a step; what it prints goes to the log, too. Returns how it ended."""
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    path = os.pathsep.join(
        [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    environment = {**os.environ, "TEST_DEVICE": DEVICE, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        os.killpg(process.pid, signal.SIGINT)  # a training then saves what it has
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    broken = False
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            print(line, end="", flush=True)
            file.write(line)
            broken |= CUDA_ERROR.search(line) is not None
    code = process.wait()
    timer.cancel()
    if code != 0 and broken:
        return "CUDA error"
    if late.is_set():
        return "out of time"
    return "passed" if code == 0 else "failed"


if __name__ == "__main__":
    main(sys.argv[1:])
