"""The backends by name, and the choice among them."""

from __future__ import annotations

import logging
from functools import cache

import torch

from structured_dropout.backends.base import Backend
from structured_dropout.backends.compact import CompactBackend
from structured_dropout.backends.cpu.backend import CpuBackend
from structured_dropout.backends.cuda import payoff
from structured_dropout.backends.cuda.backend import CudaBackend
from structured_dropout.backends.dense import DenseBackend
from structured_dropout.backends.fused import FusedBackend
from structured_dropout.policy import DropoutPolicy

_BACKENDS: dict[str, Backend] = {
    "dense": DenseBackend(),
    "fused": FusedBackend(),
    "compact": CompactBackend(),
    "cpu": CpuBackend(),
    "cuda": CudaBackend(),
}
_log = logging.getLogger(__name__)


def resolve(name: str, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> str:
    """The backend that runs there: ``name`` itself, or what ``auto`` picks for this policy.

    Nothing is built: that happens at the first call of the backend.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the named backend cannot run there; says why and what to do.
    """
    if name == "auto":
        return _auto(policy, device, dtype, payoff.precision(dtype))
    reason = get(name).supports(policy, device, dtype)
    if reason is not None:
        able = [n for n, b in _BACKENDS.items() if b.supports(policy, device, dtype) is None]
        raise RuntimeError(
            f"backend {name} cannot run this on {device.type}: {reason}; choose {' or '.join(able)}"
        )
    return name


def check(name: str, policy: DropoutPolicy, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what can run neither on ``device`` nor where the model may still be moved: from the
    CPU to a GPU, if there is one, and from the meta device to either.

    Raises: as ``resolve``.
    """
    if device.type == "meta":
        device = torch.device("cpu")
    try:
        resolve(name, policy, device, dtype)
    except RuntimeError:
        movable = device.type == "cpu" and torch.cuda.is_available()
        if not movable or get(name).supports(policy, torch.device("cuda"), dtype) is not None:
            raise


def names() -> list[str]:
    """All backends, whether or not they run here."""
    return list(_BACKENDS)


def get(name: str) -> Backend:
    """The backend of this name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose auto, {', '.join(_BACKENDS)}")
    return _BACKENDS[name]


@cache  # so that each choice is logged once
def _auto(policy: DropoutPolicy, device: torch.device, dtype: torch.dtype, precision: str) -> str:
    # Where nothing can be skipped, torch's own LSTM is what to run. Gathering costs a CPU more than
    # it saves: compact runs only where it is asked for.
    skipping = {"cpu": ["cpu"], "cuda": ["cuda"]}.get(device.type, []) if policy.skips else []
    for name in (*skipping, "fused", "dense"):
        reason = _BACKENDS[name].supports(policy, device, dtype)
        if reason is None and name == "cuda":
            reason = payoff.why_not(policy, device, precision)
        if reason is None:
            _log.info("backend auto: %s", name)
            return name
        _log.warning("backend auto: not %s: %s", name, reason)
    raise AssertionError("dense runs everywhere")
