"""Which run is this? The same configuration has the same folder: it resumes or is skipped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

# Where and how a run is watched, stored and executed, or its model used later, does not change
# what it computes.
_IRRELEVANT = (
    "run",
    "mode",
    "only",
    "evaluate",
    "generate",
    "tracker",
    "checkpoint",  # its hash counts
    "device",
    "data.dir",
    "train.threads",
    "train.checkpoint_minutes",
    "train.checkpoint_iterations",
    "train.cuda_graph",
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
    if config.get("precision") == {"name": "fp32"}:  # older runs do not name it
        del config["precision"]
    # The rest of the task names functions, or is where other keys take their values from.
    config["task"] = cfg.task.name
    canonical: dict[str, Any] = _canonical(config)
    return canonical


def _canonical(value: Any) -> Any:
    """One way to say it: 5.0 is 5, and a key that is null is no key.

    So new optional keys, and a schema that makes a number a float, leave old runs their names.
    """
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def signature(cfg: DictConfig) -> str:
    """Eight hexadecimal digits that name the run."""
    return hashlib.sha256(json.dumps(identity(cfg), sort_keys=True).encode()).hexdigest()[:8]


def default_dir(cfg: DictConfig) -> Path:
    """results/runs/<task>/<dropout>/seed<seed>-<signature>, without a time stamp."""
    return Path("results/runs", cfg.task.name, cfg.dropout.name, f"seed{cfg.seed}-{signature(cfg)}")


def data_hashes(data: Mapping[str, Any]) -> dict[str, str]:
    """The hashes in what a run says of its data: those under ``hashes``, and the ``sha256`` of what
    is named apart, such as word vectors."""
    apart = {
        name: part["sha256"]
        for name, part in data.items()
        if isinstance(part, Mapping) and "sha256" in part
    }
    return {**data.get("hashes", {}), **apart}


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of data that have another hash now. What only one of the two has cannot be
    compared."""
    return [name for name, digest in now.items() if then.get(name, digest) != digest]
