"""The state of a run on the disk, and the random generators in it."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import torch

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.files import atomic


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint; the one before survives unless this one is complete."""
    with atomic(path, "wb") as file:
        torch.save(state, file)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {str(error).splitlines()[0]}). "
            "Restore it, or delete the run folder to start over"
        ) from error
    return state


def random_state(masks: torch.Generator) -> dict[str, Any]:
    """All generators that a training draws from."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "masks": masks.get_state(),
    }


def set_random_state(state: dict[str, Any], masks: torch.Generator) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    masks.set_state(state["masks"])
