"""From the configuration to the core's types, or to one clear error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from structured_dropout import DropoutPolicy, SiteDropout, Zoneout, backends
from structured_dropout.experiment import ranks, schema
from structured_dropout.experiment.errors import UsageError
from structured_dropout.graphs import Graphed
from structured_dropout.precision import autocasts_lstm

P = ParamSpec("P")
T = TypeVar("T")
_PARTS = [part.name for part in fields(DropoutPolicy)]


def check(cfg: DictConfig) -> None:
    """Check what can be checked without data.

    Raises:
        UsageError: a key is unknown or impossible, this task does not define this dropout or takes
            other data, a function that it names is not of this repository, or its packages are not
            installed.
    """
    task = cfg.task
    if cfg.dropout.name not in task.dropouts:
        raise UsageError(
            f"task={task.name} does not define dropout={cfg.dropout.name}: "
            f"choose {', '.join(task.dropouts)}"
        )
    if cfg.data.name not in task.data:
        raise UsageError(
            f"data={cfg.data.name} is not for task={task.name}: choose {', '.join(task.data)}"
        )
    schema.check(cfg)
    _check_mode(cfg)
    _check_functions(task)
    _check_packages(task)


def _check_mode(cfg: DictConfig) -> None:
    if cfg.mode not in ("train", *cfg.task.modes):
        can = ", ".join(("train", *cfg.task.modes))
        raise UsageError(f"task={cfg.task.name} has no mode={cfg.mode}: choose {can}")
    for key in ("input", "reference"):
        if cfg.mode == "train" and cfg.get(key) is not None:
            raise UsageError(f"{key}= is for using a trained model: a training does not read it")


def _check_functions(task: DictConfig) -> None:
    """A configuration is no program: what it names to call is a task's own."""
    keys = ("recipe", "hashes", "benchmark", "rival", "max_speedup")
    functions = {f"task.{key}": task[key] for key in keys}
    functions |= {f"task.modes.{mode}": function for mode, function in task.modes.items()}
    for key, function in functions.items():
        if function is not None and not function.startswith("tasks."):
            raise UsageError(
                f"{key}={function} is no function of a task here: its name begins with tasks."
            )


def _check_packages(task: DictConfig) -> None:
    for extra, modules in task.requires.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            raise UsageError(
                f"task={task.name} needs {' and '.join(missing)}: "
                f"pip install 'structured-dropout[{extra}]'"
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
            if name not in _PARTS:
                raise ValueError(f"there is no such part of a policy: choose {', '.join(_PARTS)}")
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
    """The name of the backend to run, ``auto`` decided; the process is then in ``cfg.precision``,
    which ``auto`` looks at.

    Raises:
        UsageError: the backend cannot run this policy on this device in this precision, or a model
            cannot be evaluated in it there.
    """
    set_precision(cfg)
    try:
        return backends.resolve(cfg.backend.name, policy, device(cfg), dtype(cfg))
    except RuntimeError as error:
        raise UsageError(str(error)) from error


def _check_precision(cfg: DictConfig) -> None:
    precision, where = cfg.precision.name, device(cfg)
    on_cpu = where.type == "cpu"
    if precision == "tf32" and (on_cpu or torch.cuda.get_device_capability(where) < (8, 0)):
        raise UsageError(
            "precision=tf32: TF32 is a GPU's, of compute capability 8.0 or later, and this is "
            f"{'a CPU' if on_cpu else torch.cuda.get_device_name(where)}: choose precision=fp32"
        )
    if precision == "bf16" and on_cpu and not autocasts_lstm():
        raise UsageError(
            "precision=bf16: torch's LSTM, which evaluates a model, does not run in bfloat16 "
            "on this processor: choose precision=fp32"
        )


def dtype(cfg: DictConfig) -> torch.dtype:
    """What the products are computed in."""
    return torch.bfloat16 if cfg.precision.name == "bf16" else torch.float32


def set_threads(cfg: DictConfig) -> None:
    """The number of the CPU's threads that compute, in all of this process: ``train.threads``, or
    torch's choice; one beside a GPU: waking others takes longer than what is left to the CPU."""
    threads = cfg.train.threads or (1 if device(cfg).type == "cuda" else None)
    if threads is not None:
        torch.set_num_threads(threads)


def set_precision(cfg: DictConfig) -> None:
    """Let a GPU multiply float32 in TF32 if ``precision`` says so, in all of this process.

    Raises:
        UsageError: this device does not compute in that precision.
    """
    _check_precision(cfg)
    allow_tf32(cfg.precision.name == "tf32")


def allow_tf32(allowed: bool) -> None:
    """The same without a configuration. torch's defaults differ: cuDNN may, a product may not.

    Where cuDNN's ``fp32_precision`` was set, torch.export fails in this process (2.13).
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def autocast(cfg: DictConfig) -> torch.autocast:
    """The context that a model computes in, in training and afterwards; it does nothing but in
    bf16.

    A backward pass belongs after it, as torch advises.
    """
    return torch.autocast(device(cfg).type, torch.bfloat16, enabled=cfg.precision.name == "bf16")


def cuda_graph(cfg: DictConfig) -> bool:
    """``train.cuda_graph``, where one process trains on a GPU."""
    return cfg.train.cuda_graph and device(cfg).type == "cuda" and ranks.size() == 1


def graphed(cfg: DictConfig, step: Callable[P, T]) -> Callable[P, T]:
    """A training step by CUDA graphs, if ``cuda_graph``."""
    return Graphed(step) if cuda_graph(cfg) else step


def device(cfg: DictConfig) -> torch.device:
    """The device to train on, in each of several processes its own.

    Raises:
        UsageError: there is no such device here, or there are fewer than processes.
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
    return ranks.own(device)
