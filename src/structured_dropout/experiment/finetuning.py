"""A training that starts from the weights of another: ``checkpoint=`` in ``mode=train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import sha256


def digest(path: Path) -> str:
    """The hash of a checkpoint, by which a run knows what it started from.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return sha256(path)
    except OSError as error:
        raise UsageError(f"checkpoint={path} cannot be read: {error.strerror}") from error


def load_weights(cfg: DictConfig, kept: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    """Put the weights of ``cfg.checkpoint`` into the new model: those of its best epoch where it
    has them.

    Args:
        kept: what the new run keeps, with its ``model``.
        data: what its summary will say of the data.

    Returns:
        What the summary says of the checkpoint: its file, hash and run.

    Raises:
        UsageError: the file is missing, damaged or no run's; its model has other shapes, or its
            numbers mean other words.
    """
    path = Path(cfg.checkpoint)
    state = checkpoint.load(path)
    there = state.get("kept", {})
    if "model" not in there:
        raise UsageError(f"checkpoint={path} is not of a training here")
    _check_words(path, state, kept, data)
    weights = there.get("best", {}).get("weights") or there["model"]
    _check_shapes(path, weights, kept["model"].state_dict())
    kept["model"].load_state_dict(weights)
    config = state["config"]
    return {
        "file": str(path),
        "sha256": cfg.checkpoint_sha256,
        "run": {key: config[key] for key in ("task", "seed")}
        | {"dropout": config["dropout"]["name"], "epochs": state["position"]["epoch"]},
    }


def _check_words(
    path: Path, state: dict[str, Any], kept: dict[str, Any], data: dict[str, Any]
) -> None:
    """That the numbers of words mean the same to both; of a checkpoint without a vocabulary that is
    known only where the data are the same."""
    words = state["kept"].get("vocabulary")
    if words is not None and "vocabulary" in kept:
        fits = words == kept["vocabulary"].state_dict()
    else:
        fits = state.get("data") == data
    if not fits:
        raise UsageError(
            f"checkpoint={path} is of other data, whose vocabulary is not that of "
            f"data={data['name']}: choose the data that it was trained on"
        )


def _check_shapes(path: Path, weights: dict[str, Any], model: dict[str, Any]) -> None:
    there = {name: list(weight.shape) for name, weight in weights.items()}
    here = {name: list(weight.shape) for name, weight in model.items()}
    wrong = [name for name in there | here if there.get(name) != here.get(name)]
    if wrong:
        raise UsageError(
            f"checkpoint={path} does not fit this model: {wrong[0]} is "
            f"{there.get(wrong[0], 'missing')} there and {here.get(wrong[0], 'missing')} here, "
            f"{len(wrong)} of {len(here)} weights differ: set task and model.* as they were there"
        )
