"""How long a sweep will take, before it begins."""

from __future__ import annotations

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from scripts.compose import ROOT, compose
from scripts.report.benchmarks import Timing, on_one_machine, timings
from scripts.report.hours import epoch_iterations
from scripts.report.runs import Group, groups
from scripts.report.speed import latest
from structured_dropout.experiment import settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.folder import is_done
from structured_dropout.experiment.identity import default_dir

LONG = 1.0  # hours, of what is worth a word
# Overrides that make an iteration another than the one that was timed.
_OTHER_ITERATION = ("model.", "train.batch=", "train.bptt=", "data=", "dropout.")
_Timed = dict[tuple[str, str, str], Timing]


def forecast(config: DictConfig) -> str | None:
    """Say how many hours the runs of a sweep take that are still to be done.

    Args:
        config: of the sweep, as Hydra gives it to a callback.

    Returns:
        A line; None where no run was ever timed, or all are short.
    """
    timed = {
        (t.task, t.dropout, t.precision): t
        for t in latest(on_one_machine(timings(ROOT / "results/benchmarks")))
        if t.trains
    }
    only = config.get("only")
    found = [job for job in jobs(config) if not only or pair(job, config) in only]
    pairs = {f"{task}/{dropout}" for task, dropout, _ in timed}
    worth_a_look = [job for job in found if pair(job, config) in pairs]
    if not worth_a_look:
        return None
    ran = groups(ROOT / "results/runs")
    known, unknown = [], len(found) - len(worth_a_look)
    for overrides in worth_a_look:
        cfg = compose(*overrides)
        if _is_done(cfg):
            continue
        hours = _hours(cfg, overrides, timed, ran)
        if hours is None:
            unknown += 1
        else:
            known.append(hours)
    if sum(known) < LONG:
        return None
    more = f"; {unknown} more were never timed" if unknown else ""
    machine = next(iter(timed.values())).machine
    return f"{len(known)} runs to do: about {sum(known):.1f} hours on {machine}{more}"


def jobs(config: DictConfig) -> list[list[str]]:
    """The overrides of each job; none where the sweeper chooses them as it goes."""
    params = config.hydra.sweeper.get("params") or {}
    words = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create()
    try:
        overrides = parser.parse_overrides([*words, *config.hydra.overrides.task])
        (batch,) = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    except HydraException:
        return []
    return batch


def pair(overrides: list[str], config: DictConfig) -> str:
    """Task and dropout of a job, as ``only`` names them, without composing it."""
    chosen = dict(override.split("=", 1) for override in overrides if "=" in override)
    task, dropout = chosen.get("task", config.task.name), chosen.get("dropout", config.dropout.name)
    return f"{task}/{dropout}"


def _is_done(cfg: DictConfig) -> bool:
    """Whether a job has nothing to train, or will say itself why it cannot."""
    try:
        settings.check(cfg)
        return is_done(default_dir(cfg), cfg)
    except UsageError:
        return True


def _hours(cfg: DictConfig, overrides: list[str], timed: _Timed, ran: list[Group]) -> float | None:
    precision = cfg.get("precision") or {}
    timing = timed.get((cfg.task.name, cfg.dropout.name, precision.get("name") or "fp32"))
    iterations = epoch_iterations(cfg, ran)
    other = any(override.startswith(_OTHER_ITERATION) for override in overrides)
    if timing is None or iterations is None or other:
        return None
    total = min(cfg.train.epochs * iterations, cfg.train.max_iterations or float("inf"))
    return float(total * timing.ms["iteration"] / 3.6e6)
