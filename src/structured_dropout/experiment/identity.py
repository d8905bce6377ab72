"""Which run is this? The same configuration always has the same folder, so that it resumes or is skipped."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Where and how a run is watched, stored and executed does not change what it computes.
_IRRELEVANT = (
    "run",
    "mode",
    "only",
    "tracker",
    "device",
    "data.dir",
    "train.threads",
    "train.checkpoint_minutes",
    "train.checkpoint_iterations",
)


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of the configuration that decides what a run computes."""
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for path in _IRRELEVANT:
        *parents, key = path.split(".")
        node = config
        for parent in parents:
            node = node.get(parent, {})
        node.pop(key, None)
    config["task"] = (
        cfg.task.name
    )  # the rest of it names functions, or is where other keys take their values from
    return _without_nulls(config)


def _without_nulls(config: dict[str, Any]) -> dict[str, Any]:
    """A key that is null says the same as no key, so that new optional keys leave old runs their names."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value is not None
    }


def signature(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name the run."""
    return hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:8]


def default_dir(cfg: DictConfig) -> Path:
    """results/runs/<task>/<dropout>/seed<seed>-<signature>, without a time stamp."""
    return Path("results/runs", cfg.task.name, cfg.dropout.name, f"seed{cfg.seed}-{signature(cfg)}")
