"""Measure what skipping saves: phase by phase, a whole training iteration, and memory.

    python scripts/benchmark.py task=ptb_medium dropout=nr_st,nr_rh_st
    output=results/benchmarks/ptb_medium.csv

Every contender and both baselines (the task's baseline policy under ``dense`` and under ``fused``,
torch's own LSTM) run in one process, in turn, round after round, so that a machine that slows down
slows all of them; a turn is at least 0.2 s of iterations. A speed-up is the median of the ratios of
each round. Overrides are run.py's; commas sweep, and each combination of the keys other than
dropout and backend is a race of its own, as is each part of a model (``task.parts``). Further keys:
output=FILE rounds=N part=PART tracker=TRACKER, and tf32=true: on a GPU products run in TF32, in
fp32 without it; for all contenders, and the column ``device`` says which.
"""

from __future__ import annotations

import csv
import itertools
import math
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import tasks  # noqa: E402, F401  their schemas
from structured_dropout.experiment import provenance, settings  # noqa: E402
from structured_dropout.experiment.errors import UsageError  # noqa: E402
from structured_dropout.experiment.tracking import open_tracker  # noqa: E402
from structured_dropout.phases import measure  # noqa: E402

WARM_UP = 2  # rounds
TURN = 0.2  # seconds at least: iterations of a few milliseconds then find their data in the cache, as in training
COLUMNS = (
    "task", "part", "dropout", "backend", "phase", "median_ms", "p25_ms", "p75_ms", "speedup_vs_dense",
    "speedup_vs_fused", "peak_mb", "threads", "device", "commit", "date", "overrides",
)  # fmt: skip


class Contender(NamedTuple):
    dropout: str
    backend: str


Times = dict[str, list[float]]  # milliseconds a round, by phase


def main(arguments: list[str]) -> None:
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if stray := [argument for argument in arguments if "=" not in argument]:
        raise UsageError(f"{' '.join(stray)} is no key=value; --help says which there are")
    options = dict(argument.split("=", 1) for argument in arguments)
    output, rounds = options.pop("output", None), options.pop("rounds", "15")
    if not rounds.isdecimal() or int(rounds) == 0:
        raise UsageError(f"rounds={rounds} must be a whole number above 0")
    dropouts = options.pop("dropout", "nr_st,nr_rh_st").split(",")
    backends = options.pop("backend", "auto").split(",")
    parts, tracker = options.pop("part", None), options.pop("tracker", "console")
    tf32 = options.pop("tf32", "false").lower()
    if tf32 not in ("true", "false"):
        raise UsageError(f"tf32={tf32} must be true or false")
    rows = []
    for values in itertools.product(*(_choices(value) for value in options.values())):
        overrides = [f"{key}={value}" for key, value in zip(options, values, strict=True)]
        for part in parts.split(",") if parts else compose(overrides).task.parts:
            rows += race(overrides, dropouts, backends, int(rounds), part, tf32 == "true")
    show(rows)
    track(rows, compose([f"tracker={tracker}"]).tracker, Path(output).parent if output else Path())
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        with open(output, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"written: {output}")


def track(rows: list[dict[str, Any]], tracker: DictConfig, folder: Path) -> None:
    """Give the times to the tracker: a run of job type ``bench``, a summary key for each row."""
    name = " ".join(dict.fromkeys(row["task"] for row in rows))
    run = open_tracker(
        tracker, {"overrides": sys.argv[1:]}, f"bench {name}", None, folder, job_type="bench"
    )
    keys = ("task", "part", "overrides", "dropout", "backend", "phase")
    run.finish(
        {" ".join(row[key] for key in keys if row[key]): row for row in rows}
        | {"status": "finished"}
    )


def race(
    overrides: list[str],
    dropouts: list[str],
    backends: list[str],
    rounds: int,
    part: str = "model",
    tf32: bool = False,
) -> list[dict[str, Any]]:
    """Time all contenders under these overrides; a row for each one's phases."""
    base = compose(overrides)
    dense, fused = Contender(base.task.baseline, "dense"), Contender(base.task.baseline, "fused")
    configs = {contender: compose(overrides, contender) for contender in (dense, fused)}
    for dropout, backend in itertools.product(dropouts, backends):
        cfg = compose(overrides, Contender(dropout, backend))
        policy = settings.policy(cfg, layers=cfg.model.layers)
        configs[Contender(dropout, settings.backend(cfg, policy))] = cfg
    _set_precision(tf32)
    peak = {contender: peak_megabytes(cfg, part) for contender, cfg in configs.items()}
    trials = {contender: build(cfg, part) for contender, cfg in configs.items()}
    times = take_turns(trials, settings.device(base), rounds)
    allowed = {contender: allowed_speedup(cfg, part) for contender, cfg in configs.items()}

    common = {
        "task": base.task.name,
        "part": part,
        "threads": torch.get_num_threads(),
        "device": _device(settings.device(base), tf32),
        "commit": provenance.commit(),
        "date": date.today().isoformat(),
        "overrides": " ".join(
            override for override in overrides if not override.startswith("task=")
        ),
    }
    return [
        {
            **common,
            **contender._asdict(),
            "phase": phase,
            **_spread(milliseconds),
            "speedup_vs_dense": _speedup(times[dense][phase], milliseconds),
            "speedup_vs_fused": _speedup(times[fused][phase], milliseconds)
            if phase == "iteration"
            else "",
            "peak_mb": round(peak[contender]),
            "dropout_allows": allowed[contender],
        }
        for contender, phases in times.items()
        for phase, milliseconds in phases.items()
        if phase == "iteration"
        or contender.backend != "fused"  # torch's LSTM cannot be timed inside
    ]


def compose(overrides: list[str], contender: Contender | None = None) -> DictConfig:
    chosen = [f"{key}={value}" for key, value in contender._asdict().items()] if contender else []
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", [*overrides, *chosen])
    settings.check(cfg)
    return cfg


def build(cfg: DictConfig, part: str) -> Callable[[], object]:
    """The task's training iteration, or a part of it."""
    if cfg.train.threads is not None:
        torch.set_num_threads(cfg.train.threads)
    torch.manual_seed(cfg.seed)
    iteration = hydra.utils.get_method(cfg.task.benchmark)
    return iteration(cfg) if part == "model" else iteration(cfg, part)


def allowed_speedup(cfg: DictConfig, part: str) -> float | str:
    """All multiplications over those that dropout leaves, where the task counts them."""
    if cfg.task.max_speedup is None:
        return ""
    return round(hydra.utils.get_method(cfg.task.max_speedup)(cfg, part), 3)


def take_turns(
    trials: dict[Contender, Callable[[], object]], device: torch.device, rounds: int
) -> dict[Contender, Times]:
    """Let every trial have its turn in each round; times of an iteration, the mean of a turn, after the warm-up."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times: dict[Contender, Times] = {
        c: {phase: [] for phase in ("fp", "bp", "wg", "iteration")} for c in trials
    }
    iterations = dict.fromkeys(trials, 1)  # of a turn
    console = Console(highlight=False)
    with console.status("warming up") as status:
        for turn in range(WARM_UP + rounds):
            for contender, trial in trials.items():
                status.update(
                    f"round {turn - WARM_UP + 1}/{rounds}: {contender.dropout} {contender.backend}"
                )
                synchronize()
                start = time.perf_counter()
                with measure(device) as clock:
                    for _ in range(iterations[contender]):
                        trial()
                synchronize()
                seconds = {**clock.seconds, "iteration": time.perf_counter() - start}
                if turn >= WARM_UP:
                    for phase, value in seconds.items():
                        times[contender][phase].append(value * 1e3 / iterations[contender])
                else:
                    iterations[contender] = math.ceil(
                        TURN * iterations[contender] / seconds["iteration"]
                    )
    return times


def peak_megabytes(cfg: DictConfig, part: str) -> float:
    """Peak memory of a process that runs this one contender; of the GPU where it trains on one."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measure_peak, args=(cfg, part, there))
    process.start()
    there.close()
    try:
        peak: float = here.recv()
    except EOFError:
        raise UsageError(
            f"the process that measures memory died with exit code {process.exitcode}"
        ) from None
    finally:
        process.join()
    return peak


def _measure_peak(cfg: DictConfig, part: str, pipe: Any) -> None:
    trial = build(cfg, part)
    for _ in range(3):
        trial()
    if settings.device(cfg).type == "cuda":
        pipe.send(torch.cuda.max_memory_allocated() / 2**20)
    else:
        pipe.send(_peak_resident_kilobytes() / 2**10)


def _peak_resident_kilobytes() -> int:
    """Of this process alone: on Linux getrusage also counts what its parent had when it was forked."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def show(rows: list[dict[str, Any]]) -> None:
    columns = (
        "task",
        "overrides",
        "part",
        "dropout",
        "backend",
        "phase",
        "median_ms",
        "p25_ms",
        "p75_ms",
    )
    numbers = ("speedup_vs_dense", "speedup_vs_fused", "dropout_allows", "peak_mb")
    table = Table(*(column.replace("_", " ") for column in (*columns, *numbers)))
    for row in rows:
        table.add_row(
            *(str(row[column]) for column in (*columns, *numbers)),
            end_section=row["phase"] == "iteration",
        )
    console = Console()
    console.width = max(console.width, 150)
    console.print(table)


def _choices(value: str) -> list[str]:
    return [value] if value[:1] in "[{" else value.split(",")


def _spread(milliseconds: list[float]) -> dict[str, float]:
    p25, median, p75 = (
        statistics.quantiles(milliseconds, n=4) if len(milliseconds) > 1 else milliseconds * 3
    )
    return {"median_ms": round(median, 2), "p25_ms": round(p25, 2), "p75_ms": round(p75, 2)}


def _speedup(baseline: list[float], milliseconds: list[float]) -> float:
    return round(statistics.median(b / x for b, x in zip(baseline, milliseconds, strict=True)), 3)


def _set_precision(tf32: bool) -> None:
    """torch's default differs: cuDNN's LSTM may use TF32, a product may not."""
    for library in (
        torch.backends.cuda.matmul,
        torch.backends.cudnn.rnn,
        torch.backends.cudnn.conv,
    ):
        library.fp32_precision = "tf32" if tf32 else "ieee"


def _device(device: torch.device, tf32: bool) -> str:
    machine = provenance.machine(device)
    if "gpu" in machine:
        return f"{machine['gpu']} {'TF32' if tf32 else 'fp32'}"
    return f"{machine['cpu']} {machine['simd']}"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UsageError as error:
        sys.exit(f"error: {error}")
