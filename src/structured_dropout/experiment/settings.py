"""From the configuration to the core's types, or to one clear error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from structured_dropout import DropoutPolicy, SiteDropout, Zoneout, backends
from structured_dropout.experiment.errors import UsageError

_POLICY = [field.name for field in fields(DropoutPolicy)]
_CHECKED = (  # the others are names and paths
    *(
        "model",
        "train",
        "translate",
        "seed",
        "data.max_length",
        "data.vocabulary_size",
        "data.evaluate_on",
    ),
    "embeddings.frozen",
)
_SWITCHES = {"tied", "frozen"}
_REAL = {
    "lr",
    "momentum",
    "decay",
    "weight_decay",
    "clip",
    "init",
    "alpha",
    "beta",
    "embedding_dropout",
    "checkpoint_minutes",
}  # fmt: skip  all others count something
_MAY_BE_ZERO = {"decay_after", "seed", "embedding_dropout", "weight_decay", "alpha", "beta"}
_MAY_BE_NULL = {
    "max_iterations",
    "threads",
    "checkpoint_iterations",
    "vocabulary_size",
    "evaluate_on",
}
_FUNCTIONS = {"recipe", "trial", "bound", "translate", "tag"}
_ABSENT = object()
_LARGEST = 2**63 - 1  # what torch takes for a seed


def check(cfg: DictConfig) -> None:
    """Check what can be checked without data.

    Raises:
        UsageError: this task does not define this dropout or takes other data, a function that it
            names is not of this repository, its packages are not installed, or a quantity is
            impossible.
    """
    if cfg.dropout.name not in cfg.task.dropouts:
        raise UsageError(
            f"task={cfg.task.name} does not define dropout={cfg.dropout.name}: choose {', '.join(cfg.task.dropouts)}"
        )
    if cfg.data.name not in cfg.task.data:
        raise UsageError(
            f"data={cfg.data.name} is not for task={cfg.task.name}: choose {', '.join(cfg.task.data)}"
        )
    try:
        OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0]) from error
    _check_functions(cfg.task)
    _check_packages(cfg.task)
    for name, value in _leaves(cfg, *_CHECKED):
        _check_value(name, value)
    for name, value in _leaves(cfg, "data", "run.dir"):
        if name not in _CHECKED and not isinstance(value, str | None):
            raise UsageError(
                f"{name} must be text, not {value!r}: to mean a name, quote it: {name}='\"{value}\"'"
            )


def _check_value(name: str, value: object) -> None:
    key = name.split(".")[-1]
    if key in _SWITCHES:
        if not isinstance(value, bool | None):  # YAML's no and off are text to Hydra
            raise UsageError(f"{name} must be true or false, not {value!r}")
        return
    if value is None and key in _MAY_BE_NULL:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{name} must be a number, not {value!r}")
    if key not in _REAL and not isinstance(value, int):
        raise UsageError(f"{name} must be a whole number, not {value}")
    if value < 0 or (value == 0 and key not in _MAY_BE_ZERO):
        raise UsageError(
            f"{name} must be {'0 or more' if key in _MAY_BE_ZERO else 'positive'}, not {value}"
        )
    if value > _LARGEST and key not in _REAL:
        raise UsageError(f"{name} must be at most {_LARGEST}, not {value}")
    if key.endswith("dropout") and value >= 1:
        raise UsageError(f"{name} is a dropout rate: it must be below 1, not {value}")


def _check_functions(task: DictConfig) -> None:
    """A configuration is no program: what it names to call is a task's own."""
    for key in _FUNCTIONS & task.keys():
        if not str(task[key]).startswith("tasks."):
            raise UsageError(
                f"task.{key}={task[key]} is no function of a task here: its name begins with tasks."
            )


def _check_packages(task: DictConfig) -> None:
    for extra, modules in task.get("requires", {}).items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            raise UsageError(
                f"task={task.name} needs {' and '.join(missing)}: pip install 'structured-dropout[{extra}]'"
            )


def policy(cfg: DictConfig, layers: int) -> DropoutPolicy:
    """The dropout policy that ``cfg.dropout`` describes; a key that is absent or null drops
    nothing.

    Raises:
        UsageError: an impossible case, rate, redrawing or sampling; names the key.
    """
    dropout: dict[str, Any] = OmegaConf.to_container(cfg.dropout, resolve=True)  # type: ignore[assignment]
    parts: dict[str, Any] = {}
    for name, value in dropout.items():
        if name == "name" or value is None:
            continue
        try:
            if name not in _POLICY:
                raise ValueError(f"there is no such part of a policy: choose {', '.join(_POLICY)}")
            if name == "weight":
                parts[name] = DropoutPolicy(weight=value).weight
            elif name == "zoneout":
                parts[name] = Zoneout(**value)
            else:
                parts[name] = site = SiteDropout(**value)
                site.check_layers(layers if name != "output" else 1)
        except (TypeError, ValueError) as error:
            raise UsageError(f"dropout.{name}: {error}") from error
    return DropoutPolicy(**parts)


def backend(cfg: DictConfig, policy: DropoutPolicy) -> str:
    """The name of the backend to run, ``auto`` decided.

    Raises:
        UsageError: the backend cannot run this policy on this device.
    """
    try:
        return backends.resolve(cfg.backend.name, policy, device(cfg), torch.float32)
    except RuntimeError as error:
        raise UsageError(str(error)) from error


def device(cfg: DictConfig) -> torch.device:
    """The device to train on.

    Raises:
        UsageError: there is no such device here.
    """
    name = cfg.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise UsageError(f"device={name} is no device: choose auto, cpu or cuda") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device={name} cannot be trained on: choose auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device={name}: torch sees no GPU here; use device=cpu or device=auto")
    return device


def _leaves(cfg: DictConfig, *names: str) -> Iterator[tuple[str, object]]:
    for name in names:
        node = OmegaConf.select(cfg, name, default=_ABSENT)
        if isinstance(node, DictConfig):
            yield from _leaves(cfg, *(f"{name}.{key!s}" for key in node))
        elif node is not _ABSENT:
            yield name, node
