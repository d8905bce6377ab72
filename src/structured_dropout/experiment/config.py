"""The keys that all tasks share; a task's ``config.py`` adds its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from structured_dropout.experiment.schema import at_least, one_of, positive


@dataclass
class Rates:
    """A rate, or a list with one for each layer; ``SiteDropout`` checks them."""

    nr: Any = MISSING
    rh: Any = MISSING
    output: Any = MISSING


@dataclass
class Objective:
    metric: str = MISSING
    direction: str = one_of("minimize", "maximize")


@dataclass
class Task:
    name: str = MISSING
    requires: dict[str, list[str]] = field(default_factory=dict)
    recipe: str = MISSING
    hashes: str = MISSING
    benchmark: str = MISSING
    rival: str | None = None
    parts: list[str] = field(default_factory=lambda: ["model"])
    max_speedup: str | None = None
    modes: dict[str, str] = field(default_factory=dict)
    dropouts: list[str] = MISSING
    data: list[str] = MISSING
    baseline: str = MISSING
    objective: Objective = field(default_factory=Objective)
    rates: Rates = field(default_factory=Rates)


@dataclass
class Train:
    epochs: int = positive()
    max_iterations: int | None = positive()
    threads: int | None = positive()
    checkpoint_minutes: float = positive()
    checkpoint_iterations: int | None = positive()


@dataclass
class Backend:
    name: str = MISSING


@dataclass
class Precision:
    name: str = one_of("fp32", "tf32", "bf16")


@dataclass
class Tracker:
    wandb: bool = False
    tensorboard: bool = False
    project: str | None = None
    entity: str | None = None
    group: str | None = None
    mode: str | None = one_of("online", "offline", "disabled", default=None)


@dataclass
class RunFolder:
    dir: str | None = MISSING
    extends: str | None = MISSING
    command: str | None = MISSING


@dataclass
class Config:
    mode: str = MISSING
    checkpoint: str | None = MISSING
    checkpoint_sha256: str | None = MISSING
    input: str | None = MISSING
    only: list[str] | None = MISSING
    seed: int = at_least(0)
    device: str = MISSING
    task: Task = field(default_factory=Task)
    data: Any = MISSING  # each has a schema of its own
    train: Train = field(default_factory=Train)
    dropout: dict[str, Any] = field(default_factory=dict)  # DropoutPolicy checks it
    backend: Backend = field(default_factory=Backend)
    precision: Precision = field(default_factory=Precision)
    tracker: Tracker = field(default_factory=Tracker)
    run: RunFolder = field(default_factory=RunFolder)


ConfigStore.instance().store("shared_schema", Config, package="_global_")
