"""All that only a machine with an NVIDIA GPU can show: the kernels are right there, and how fast
they are.

    make gpu

Runs the tests of the backends on the GPU (under compute-sanitizer too, where it is installed), the
benchmark of each task in fp32 and in TF32, and short trainings, all with the Python that runs this
file. What they measure lands in results/gpu/<card>/. A step that fails does not end the others; the
end says which failed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {  # the modules that a task needs beyond hydra
    "ptb_medium": [],
    "ptb_large": [],
    "ptb_awd": [],
    "nmt_de_en": ["onmt", "sacrebleu"],
    "nmt_multi30k": ["onmt", "sacrebleu"],
    "ner_conll03": ["torchcrf", "seqeval"],
}
TRAININGS = {
    "nr_random": "fused",
    "nr_st": "cuda",
    "nr_rh_st": "cuda",
}  # ptb_small, by dropout and backend


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("error: torch sees no GPU here: nvidia-smi tells whether there is a driver")
    card = re.sub(r"\W+", "_", torch.cuda.get_device_name())
    results = ROOT / "results" / "gpu" / card
    results.mkdir(parents=True, exist_ok=True)
    failed = [name for name, command in steps(results).items() if not passes(name, command)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def steps(results: Path) -> dict[str, list[str]]:
    """The commands by name, without those whose packages are not installed."""
    pytest = [sys.executable, "-m", "pytest", "-q"]
    commands = {
        "tests": [
            *pytest,
            "tests/library/test_backends.py",
            *(["tests/library/test_fuzz.py"] if has("hypothesis") else []),
        ]
    }
    if shutil.which("compute-sanitizer"):
        for tool in ("memcheck", "racecheck", "synccheck"):
            sanitizer = [
                "compute-sanitizer",
                "--tool",
                tool,
                "--error-exitcode",
                "1",
                "--target-processes",
                "all",
            ]
            commands[tool] = [
                *sanitizer,
                *pytest,
                "tests/library/test_backends.py",
                "-k",
                "cuda and nr_rh_st",
            ]
    else:
        print("not run: compute-sanitizer, which is not installed")
    if not has("hydra"):
        print("not run: benchmarks and trainings, which need hydra: pip install -e '.[cuda]'")
        return commands
    for task, modules in BENCHMARKS.items():
        if missing := [module for module in modules if not has(module)]:
            print(f"not run: {task}, without {', '.join(missing)}")
            continue
        for precision, tf32 in (("fp32", "false"), ("tf32", "true")):
            commands[f"{task} {precision}"] = [
                *(
                    sys.executable,
                    "scripts/benchmark.py",
                    f"task={task}",
                    "device=cuda",
                    "backend=cuda",
                ),
                *(f"tf32={tf32}", f"output={results / f'{task}_{precision}.csv'}"),
            ]
    for dropout, backend in TRAININGS.items():
        commands[f"training {dropout}"] = [
            *(
                sys.executable,
                "run.py",
                "task=ptb_small",
                f"dropout={dropout}",
                f"backend={backend}",
                "device=cuda",
            ),
            *("train.epochs=2", f"run.dir={results / 'ptb_small' / dropout}"),
        ]
    return commands


def has(module: str) -> bool:
    return find_spec(module) is not None


def passes(name: str, command: list[str]) -> bool:
    print(f"\n== {name}: {' '.join(command)}", flush=True)
    environment = {**os.environ, "TEST_DEVICE": "cuda", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    return subprocess.run(command, cwd=ROOT, env=environment).returncode == 0


if __name__ == "__main__":
    main()
