"""What was run: the finished runs by configuration, and the benchmark's times by policy and machine."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

import tasks  # noqa: F401  their schemas
from structured_dropout.experiment.identity import identity

CONF = Path(__file__).resolve().parents[2] / "conf"
PHASES = ("fp", "bp", "wg", "iteration")
# What a run may change and still be a shorter training of the same recipe, or one on other data.
_SHORTER = ("train.epochs", "train.steps", "train.decay_after", "train.decay_every")

Differences = tuple[
    tuple[str, str], ...
]  # what is not the recipe's: (key, "value (recipe: value)")


class Run(NamedTuple):
    path: Path  # of summary.json
    summary: dict[str, Any]
    differences: Differences

    @property
    def metrics(self) -> dict[str, float]:
        return self.summary["metrics"]


class Group(NamedTuple):
    """The runs of one configuration, which differ in seed (and backend: all compute the same) alone."""

    task: str
    dropout: str
    differences: Differences
    runs: list[Run]

    @property
    def shortened(self) -> bool:
        """Whether it is the recipe, only shorter or on other data; false for the recipe itself."""
        return bool(self.differences) and all(
            key in _SHORTER or key.split(".")[0] == "data" for key, _ in self.differences
        )


class Timing(NamedTuple):
    """A policy's speed-ups on one machine, by the backend that skips (the baseline's is dense)."""

    task: str
    dropout: str
    machine: str
    backend: str
    path: Path
    vs_dense: dict[str, float]  # by phase
    vs_fused: float


def groups(folder: Path) -> list[Group]:
    """All finished runs under ``folder``, those of one configuration together."""
    found: dict[tuple[str, str, Differences], list[Run]] = defaultdict(list)
    for path in sorted(folder.rglob("summary.json")):
        summary = json.loads(path.read_text())
        if summary["status"] == "finished":
            run = Run(path, summary, _differences(path, summary))
            found[summary["task"], summary["dropout"], run.differences].append(run)
    return [
        Group(*key, sorted(runs, key=lambda run: run.summary["seed"]))
        for key, runs in sorted(found.items())
    ]


def timings(folder: Path) -> list[Timing]:
    """Of the tasks as they are (no overrides): a policy's last measurement on each machine.

    A policy that several backends were timed on counts with the fastest of those that skip.
    """
    found: dict[tuple[str, str, str], tuple[tuple[str, float], Timing]] = {}
    for path in sorted(folder.rglob("*.csv")):
        with open(path, newline="") as file:
            rows = [
                row
                for row in csv.DictReader(file)
                if row["part"] == "model" and not row["overrides"]
            ]
        measured: dict[tuple[str, ...], dict[str, dict[str, str]]] = defaultdict(dict)
        for row in rows:
            keys = (
                row["task"],
                row["dropout"],
                row["backend"],
                row["device"],
                row["threads"],
                row["date"],
            )
            measured[keys][row["phase"]] = row
        for (task, dropout, backend, device, threads, date), phases in measured.items():
            skips = backend not in ("dense", "fused")
            if not (backend == "dense" if dropout == baseline(task) else skips):
                continue
            iteration = phases["iteration"]
            machine = device if "NVIDIA" in device else f"{device}, {threads} threads"
            speedups = {phase: float(row["speedup_vs_dense"]) for phase, row in phases.items()}
            vs_fused = float(iteration["speedup_vs_fused"])
            timing = Timing(task, dropout, machine, backend, path, speedups, vs_fused)
            rank = (date, vs_fused)
            if (task, dropout, machine) not in found or rank > found[task, dropout, machine][0]:
                found[task, dropout, machine] = (rank, timing)
    return [timing for _, (_, timing) in sorted(found.items())]


@cache
def baseline(task: str) -> str:
    """The policy that a task's speed-ups are measured against."""
    return str(compose(f"task={task}").task.baseline)


@cache
def _recipe(task: str, dropout: str) -> dict[str, Any]:
    """The recipe's own configuration, as far as it decides what a run computes."""
    return _flat(identity(compose(f"task={task}", f"dropout={dropout}")))


def compose(*overrides: str) -> DictConfig:
    """The configuration that run.py would see for these overrides."""
    running = GlobalHydra.instance().hydra  # at the end of a sweep
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("config", list(overrides))
    finally:
        GlobalHydra.instance().hydra = running


def _differences(path: Path, summary: dict[str, Any]) -> Differences:
    ours = _flat(identity(OmegaConf.load(path.with_name("config.yaml"))))  # type: ignore[arg-type]
    recipe = _recipe(summary["task"], summary["dropout"])
    found = [
        (key, f"{ours.get(key, 'none')} (recipe: {recipe.get(key, 'none')})")
        for key in sorted(ours.keys() | recipe.keys())
        if ours.get(key) != recipe.get(key)
    ]
    if not summary["data"]["exact"]:
        found.append(("data", summary["data"].get("note", "partial or substitute")))
    return tuple(found)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys with dots, but for what does not change what a row is: the seed and the backend."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in ("seed", "backend.name"):
            leaves[f"{prefix}{key}"] = value
    return leaves
