"""What a schema is written with, and the check of a configuration against it.

A schema is a dataclass that a YAML file's defaults list names (Hydra's structured configs). Hydra
checks types while it composes; ranges, and keys that were added by force (``+key=``), are checked
here. The values stand in the YAML file, so that every field of a schema begins as ``MISSING``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from structured_dropout.experiment.errors import UsageError

_LARGEST = 2**63 - 1  # torch's integers end there


def positive() -> Any:
    """A field whose value is above 0."""
    return _checked(lambda value: value > 0, "must be positive")


def at_least(least: int) -> Any:
    """A field whose value is not below ``least``."""
    return _checked(lambda value: value >= least, f"must be {least} or more")


def rate() -> Any:
    """A field whose value is 0 or more and below 1."""
    return _checked(lambda value: 0 <= value < 1, "must be in [0, 1)")


def one_of(*choices: str, default: str | None = MISSING) -> Any:
    """A field whose value is one of these."""
    words = f"must be one of {', '.join(choices)}"
    return _checked(lambda value: value in choices, words, default)


def check(cfg: DictConfig) -> None:
    """Hold a composed configuration against its schemas.

    Raises:
        UsageError: a key is in no schema, has no value, or a value that is out of range or leads
            nowhere; names the key.
    """
    for schema, node, prefix in _typed(cfg):
        for key in map(str, node):
            if key not in {known.name for known in fields(schema)}:
                raise UsageError(
                    f"there is no key {prefix}{key}{did_you_mean(prefix + key, keys(cfg))}"
                )
    try:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    for schema, node, prefix in _typed(cfg):
        for known in fields(schema):
            _check_value(prefix + known.name, node[known.name], known.metadata)


def keys(cfg: DictConfig, prefix: str = "") -> Iterator[str]:
    """The keys of a configuration that a schema knows, those of its sections with dots."""
    schema = OmegaConf.get_type(cfg)
    known = {key.name for key in fields(schema)} if is_dataclass(schema) else None
    for key in map(str, cfg):
        if known is None or key in known:
            yield prefix + key
            node = cfg._get_node(key)
            if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
                yield from keys(node, f"{prefix}{key}.")


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """A question to put after an error about ``key``; empty where no key resembles it."""
    names = list(known)
    close = get_close_matches(key, names, 1)
    if not close:  # right but for the section that it belongs to
        last = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
        close = [last[found] for found in get_close_matches(key.rsplit(".", 1)[-1], last, 1)]
    return f": did you mean {close[0]}?" if close else ""


def _checked(holds: Callable[[Any], bool], words: str, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"holds": holds, "words": words})


def _typed(cfg: DictConfig, prefix: str = "") -> Iterator[tuple[type, DictConfig, str]]:
    """The sections that have a schema: it, the section, and what its keys' names begin with."""
    schema = OmegaConf.get_type(cfg)
    if is_dataclass(schema):
        yield schema, cfg, prefix
    for key in map(str, cfg):
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_missing() and not node._is_none():
            yield from _typed(node, f"{prefix}{key}.")


def _check_value(name: str, value: object, metadata: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{name} must be a finite number, not {value}")
    if isinstance(value, int) and value > _LARGEST:
        raise UsageError(f"{name} must be at most {_LARGEST}, not {value}")
    if value is not None and metadata and not metadata["holds"](value):
        raise UsageError(f"{name} {metadata['words']}, not {value}")
