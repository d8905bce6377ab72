"""The runs that finished, those of one configuration together."""

from __future__ import annotations

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from scripts.compose import compose
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.identity import identity

# What a run may change and still be a shorter training of the same recipe.
_SHORTER = ("train.epochs", "train.steps", "train.decay_after", "train.decay_every")
# What does not change what a row is, or has a column of its own.
_APART = ("seed", "backend.name", "precision", "precision.name")

_RATE = re.compile(r"dropout\.(\w+\.p|weight)")

# What is not the recipe's: (key, "value (recipe: value)").
Differences = tuple[tuple[str, str], ...]


class Result(NamedTuple):
    """What a finished run left: its summary, and what of its configuration is not the recipe's."""

    path: Path  # of summary.json
    summary: dict[str, Any]
    config: dict[str, Any]  # that decides what a run computes; keys with dots
    differences: Differences

    @property
    def metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = self.summary["metrics"]
        return metrics

    @property
    def precision(self) -> str:
        """``fp32`` for runs from before there was another."""
        return self.summary.get("precision") or "fp32"


class Group(NamedTuple):
    """The results of one configuration, one a seed, by seed."""

    task: str
    dropout: str
    precision: str
    differences: Differences
    results: list[Result]

    @property
    def shortened(self) -> bool:
        """Whether it is the recipe, only shorter or on other data; false for the recipe itself."""
        return bool(self.differences) and all(
            key in _SHORTER or key.split(".")[0] == "data" for key, _ in self.differences
        )

    @property
    def seeds(self) -> list[int]:
        return [result.summary["seed"] for result in self.results]

    @property
    def epochs(self) -> int:
        return int(self.results[0].summary["epochs"])

    @property
    def notes(self) -> list[str]:
        return [f"{key}: {value}" for key, value in self.differences]

    @property
    def config(self) -> dict[str, Any]:
        """What decides what its runs compute, but for the seed; keys with dots."""
        return self.results[0].config

    @property
    def rates(self) -> str:
        """The rates of what is dropped, one where all sites share it; empty where nothing is."""
        rates = [self.config[key] for key in self.config if _RATE.fullmatch(key)]
        return ", ".join(dict.fromkeys(_shown(rate) for rate in rates))

    def values(self, metric: str) -> list[float]:
        """The metric by seed."""
        return [result.metrics[metric] for result in self.results]

    def mean(self, metric: str) -> float:
        return statistics.mean(self.values(metric))


def groups(folder: Path) -> list[Group]:
    """Read all finished runs under ``folder``, those of one configuration together.

    Backends compute the same, so that a seed counts once, whatever it ran on: the first of its
    folders by name stands for it.

    Raises:
        UsageError: a summary or configuration is damaged; names it.
    """
    found: dict[tuple[str, str, str, Differences], dict[int, Result]] = defaultdict(dict)
    for result in results(folder):
        summary = result.summary
        key = (summary["task"], summary["dropout"], result.precision, result.differences)
        found[key].setdefault(summary["seed"], result)
    return [
        Group(*key, [by_seed[seed] for seed in sorted(by_seed)])
        for key, by_seed in sorted(found.items(), key=lambda item: item[0])
    ]


def results(folder: Path) -> Iterator[Result]:
    """Each finished run under ``folder``, by path.

    Raises:
        UsageError: a summary or configuration is damaged; names it.
    """
    for path in sorted(folder.rglob("summary.json")):
        try:
            summary = json.loads(path.read_text())
            if summary["status"] == "finished":
                config = flat(identity(OmegaConf.load(path.with_name("config.yaml"))))  # type: ignore[arg-type]
                yield Result(path, summary, config, _differences(config, summary))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} is damaged ({type(error).__name__}: {error}): "
                "restore it, or delete its folder"
            ) from error


def longest(found: list[Group], policies: Sequence[str]) -> list[Group]:
    """The longest training that the first of these policies of a task, its baseline, and another
    one went through, with all that went through it, in order; empty where there is none.

    It is the recipe's or a shorter one, for all of them the same, in one precision: of equally long
    ones float32.
    """
    own = [g for g in found if g.shortened or not g.differences]
    for group in sorted(own, key=lambda group: (-group.epochs, group.precision != "fp32")):
        kind = group.differences, group.precision
        alike = {g.dropout: g for g in own if (g.differences, g.precision) == kind}
        common = [alike[policy] for policy in policies if policy in alike]
        if policies[0] in alike and len(common) > 1:
            return common
    return []


@cache
def recipe(task: str) -> DictConfig:
    """A task's configuration as it is."""
    return compose(f"task={task}")


def baseline(task: str) -> str:
    """The policy that a task's speed-ups are measured against."""
    return str(recipe(task).task.baseline)


@cache
def _identity(task: str, dropout: str) -> dict[str, Any]:
    return flat(identity(compose(f"task={task}", f"dropout={dropout}")))


def _differences(ours: dict[str, Any], summary: dict[str, Any]) -> Differences:
    planned = _identity(summary["task"], summary["dropout"])
    found = [
        (key, f"{_shown(ours.get(key))} (recipe: {_shown(planned.get(key))})")
        for key in sorted(ours.keys() | planned.keys())
        if ours.get(key) != planned.get(key)
    ]
    if not summary["data"]["exact"]:
        found.append(("data", summary["data"].get("note", "partial or substitute")))
    return tuple(found)


def _shown(value: object) -> str:
    """As people write it: 5.0 is 5."""
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys with dots, but for those that have a column or do not change what a row is."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= flat(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" not in _APART:
            leaves[f"{prefix}{key}"] = value
    return leaves
