"""Times of training iterations, with all contenders in turn in one process."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any, NamedTuple

import hydra
import torch
from omegaconf import DictConfig
from rich.console import Console

from scripts.compose import compose
from scripts.measure.memory import peak_megabytes
from structured_dropout.experiment import provenance, settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.phases import measure

WARM_UP = 2  # rounds
# Seconds of a turn, at least: iterations of a few milliseconds then find their data in the cache,
# as in training.
TURN = 0.2
PHASES = ("fp", "bp", "wg", "iteration")
NN_LSTM = "nn.LSTM"  # stands for a backend where the task's rival runs


class Contender(NamedTuple):
    """What takes part in a race: a policy, what computes it, and in which precision."""

    dropout: str
    backend: str
    precision: str


Iteration = Callable[[], object]
Times = dict[str, list[float]]  # milliseconds by phase, one a round


def race(
    overrides: list[str],
    dropouts: list[str],
    backends: list[str],
    precisions: list[str],
    rounds: int,
    part: str = "model",
) -> list[dict[str, Any]]:
    """Time every policy on every backend in every precision, and the baselines of each precision.

    The baselines are the task's baseline policy under ``dense`` and under ``fused``; ``fused`` in
    fp32 always takes part. Where the task has a rival, a model of torch's own modules, it runs in
    each precision under the baseline's dropout, as the backend ``nn.LSTM``.

    Args:
        overrides: of ``run.py``, without dropout, backend and precision.
        rounds: turns of each contender that count, after the warm-up.
        part: what of the model runs; ``model`` is the whole training iteration.

    Returns:
        A row for each contender's phases, with the columns of the benchmark's file.

    Raises:
        UsageError: the task has no such part, or a contender cannot run here.
    """
    base = composed(overrides)
    if part not in base.task.parts:
        parts = ", ".join(base.task.parts)
        raise UsageError(f"part={part}: what task={base.task.name} can time is {parts}")
    device = settings.device(base)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    configs = {}
    for precision in dict.fromkeys((*precisions, "fp32")):
        for backend in ("dense", "fused") if precision in precisions else ("fused",):
            contender = Contender(base.task.baseline, backend, precision)
            configs[contender] = composed(overrides, contender)
    if base.task.rival is not None and part == "model":
        for precision in precisions:
            fused = Contender(base.task.baseline, "fused", precision)
            rival = [*overrides, f"task.benchmark={base.task.rival}"]
            configs[fused._replace(backend=NN_LSTM)] = composed(rival, fused)
    for choice in itertools.product(dropouts, backends, precisions):
        cfg = composed(overrides, Contender(*choice))
        policy = settings.policy(cfg, layers=cfg.model.layers)
        contender = Contender(*choice)._replace(backend=settings.backend(cfg, policy))
        configs[contender] = cfg
    iterations = {contender: build(cfg, part) for contender, cfg in configs.items()}
    peak = {
        contender: peak_megabytes(partial(build, cfg, part), device)
        for contender, cfg in configs.items()
    }
    times = take_turns(iterations, device, rounds)

    common = {
        "task": base.task.name,
        "part": part,
        "threads": torch.get_num_threads(),
        "device": _device(device),
        "commit": provenance.commit(),
        "date": date.today().isoformat(),
        "overrides": " ".join(word for word in overrides if not word.startswith("task=")),
    }
    return [
        {
            **common,
            **contender._asdict(),
            "phase": phase,
            **spread(milliseconds),
            **_speedups(times, base.task.baseline, contender, phase),
            "peak_mb": round(peak[contender]),
            "max_speedup": max_speedup(configs[contender], part),
        }
        for contender, phases in times.items()
        for phase, milliseconds in phases.items()
    ]


def composed(overrides: list[str], contender: Contender | None = None) -> DictConfig:
    """The checked configuration of a contender; without one, of the task as it is."""
    chosen = [] if contender is None else [f"{k}={v}" for k, v in contender._asdict().items()]
    cfg = compose(*overrides, *(word for word in chosen if word != "precision=fp32"))
    settings.check(cfg)
    return cfg


def build(cfg: DictConfig, part: str) -> Iteration:
    """The task's training iteration, or a part of it."""
    settings.set_threads(cfg)
    settings.set_precision(cfg)
    torch.manual_seed(cfg.seed)
    benchmark = hydra.utils.get_method(cfg.task.benchmark)
    iteration: Iteration = benchmark(cfg) if part == "model" else benchmark(cfg, part)
    return iteration


def max_speedup(cfg: DictConfig, part: str) -> float | str:
    """All multiplications over those that dropout leaves, where the task counts them."""
    if cfg.task.max_speedup is None:
        return ""
    allowed: float = hydra.utils.get_method(cfg.task.max_speedup)(cfg, part)
    return round(allowed, 3)


def take_turns(
    iterations: dict[Contender, Iteration], device: torch.device, rounds: int
) -> dict[Contender, Times]:
    """Give every contender its turn in each round.

    Returns:
        The time of one iteration, the mean of a turn, for each round after the warm-up.
    """
    synchronize: Callable[[], None] = lambda: None  # noqa: E731
    if device.type == "cuda":
        synchronize = torch.cuda.synchronize
    times: dict[Contender, Times] = {c: {phase: [] for phase in PHASES} for c in iterations}
    repeats = dict.fromkeys(iterations, 1)
    with Console(highlight=False).status("warming up") as status:
        for contender, iterate in iterations.items():
            settings.allow_tf32(contender.precision == "tf32")
            for _ in range(5):  # a CUDA graph is captured after three
                iterate()
        for turn in range(WARM_UP + rounds):
            for contender, iterate in iterations.items():
                status.update(f"round {turn - WARM_UP + 1}/{rounds}: {' '.join(contender)}")
                settings.allow_tf32(contender.precision == "tf32")
                synchronize()
                start = time.perf_counter()
                with measure(device) as clock:
                    for _ in range(repeats[contender]):
                        iterate()
                synchronize()
                whole = time.perf_counter() - start
                seconds = {str(phase): value for phase, value in clock.seconds.items()}
                seconds["iteration"] = whole
                if turn >= WARM_UP:
                    for phase, value in seconds.items():
                        times[contender][phase].append(value * 1e3 / repeats[contender])
                else:
                    repeats[contender] = math.ceil(TURN * repeats[contender] / seconds["iteration"])
    # torch's LSTM and a CUDA graph cannot be timed inside.
    return {
        contender: {phase: spent for phase, spent in phases.items() if all(spent)}
        for contender, phases in times.items()
    }


def _speedups(
    times: dict[Contender, Times], policy: str, contender: Contender, phase: str
) -> dict[str, float | str]:
    """Over the baselines; ``fused`` is timed as a whole only."""

    def over(backend: str, precision: str) -> float:
        baseline = times[Contender(policy, backend, precision)]
        return paired_speedup(baseline[phase], times[contender][phase])

    whole = phase == "iteration"
    dense = Contender(policy, "dense", contender.precision) in times
    return {
        "speedup_vs_dense": over("dense", contender.precision) if dense else "",
        "speedup_vs_fused": over("fused", contender.precision) if whole else "",
        "speedup_vs_fused_fp32": over("fused", "fp32") if whole else "",
    }


def paired_speedup(baseline: list[float], milliseconds: list[float]) -> float:
    """The median of the ratios of each round, which a machine that slows down hardly moves."""
    return round(statistics.median(b / x for b, x in zip(baseline, milliseconds, strict=True)), 3)


def spread(milliseconds: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    p25, median, p75 = (
        statistics.quantiles(milliseconds, n=4) if len(milliseconds) > 1 else milliseconds * 3
    )
    return {"median_ms": round(median, 2), "p25_ms": round(p25, 2), "p75_ms": round(p75, 2)}


def _device(device: torch.device) -> str:
    machine = provenance.machine(device)
    return str(machine.get("gpu", f"{machine['cpu']} {machine['simd']}"))
