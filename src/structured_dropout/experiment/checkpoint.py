"""The state of a run on the disk, and the random generators in it."""

from __future__ import annotations

import logging
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import torch

from structured_dropout.experiment.errors import Damaged, UsageError
from structured_dropout.experiment.files import atomic

_log = logging.getLogger(__name__)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint, and keep the one before; that survives unless this one is complete."""
    with atomic(path, "wb", previous(path)) as file:
        torch.save(state, file)


def previous(path: Path) -> Path:
    """Where the checkpoint before this one is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only.

    Raises:
        Damaged: the file is not what was written.
        UsageError: it cannot be read, or holds something else, which could run code.
    """
    try:
        _check_sums(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{path} is no checkpoint of a run here: it holds more than tensors and plain values"
        ) from error
    except Exception as error:  # whatever damaged bytes bring
        reason, *_ = str(error).splitlines() or [""]
        raise Damaged(f"{path} is damaged ({type(error).__name__}: {reason})") from error
    if not isinstance(state, dict):
        raise UsageError(
            f"{path} is no checkpoint of a run here: it holds a {type(state).__name__}"
        )
    return state


def load_last(path: Path) -> dict[str, Any]:
    """The checkpoint of that name, or the one before where it is damaged.

    Raises:
        Damaged: neither is what was written.
        UsageError: it cannot be read, or holds something else.
    """
    before = previous(path)
    if not path.exists():  # killed between the two renames of a save
        return load(before)
    try:
        return load(path)
    except Damaged as error:
        if not before.exists():
            raise
        state, aside = load(before), path.with_name(path.name + ".damaged")
        os.replace(path, aside)  # else the next save would make it the previous one
        _log.warning("%s: it is now %s; going on from %s", error, aside.name, before)
        return state


def _check_sums(path: Path) -> None:
    """torch writes a checksum of each tensor, but does not look at it: altered weights would load
    without a word."""
    with zipfile.ZipFile(path) as archive:
        if altered := archive.testzip():
            raise ValueError(f"the checksum of {altered} is wrong")


def random_state(masks: torch.Generator, device: torch.device) -> dict[str, Any]:
    """All generators that a training on this device draws from."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "masks": masks.get_state(),
    }


def set_random_state(state: dict[str, Any], masks: torch.Generator, device: torch.device) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    masks.set_state(state["masks"])
