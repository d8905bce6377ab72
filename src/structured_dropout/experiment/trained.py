"""A trained model, opened by who uses it: its weights, its words, and what it was trained on."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError

_log = logging.getLogger(__name__)
_MEANING = {
    "checkpoint": "the checkpoint.pt in the folder of a training",
    "input": "a text file, or - for standard input",
}


@dataclass(frozen=True)
class Trained:
    """What a checkpoint has of a model.

    Args:
        weights: of the best epoch where the recipe tests that one, else the last.
        vocabulary: the ``state_dict`` of the recipe's.
        config: of the training, without its null keys.
        hashes: of the training's data.
    """

    weights: dict[str, Any]
    vocabulary: Any
    config: DictConfig
    hashes: dict[str, str]

    def data(self, cfg: DictConfig) -> DictConfig:
        """What the model was trained on; public sets lie where ``cfg`` says."""
        _log.info("on the test split of data=%s, as after the training", self.config.data.name)
        return OmegaConf.create({"dir": cfg.data.get("dir"), **self.config.data})

    def check_test(self, **found: str) -> None:
        """That files of the test split, by their key in ``hashes``, are those of the training.

        Raises:
            UsageError: one is not.
        """
        for name, digest in found.items():
            if digest != self.hashes.get(name):
                raise UsageError(
                    f"the data's {name} is not what the model was tested on after its training: "
                    "restore it, or name a file to evaluate on with input="
                )


def require(cfg: DictConfig, *keys: str) -> None:
    """That keys which a mode needs have a value.

    Raises:
        UsageError: one has none.
    """
    if missing := [key for key in keys if cfg[key] is None]:
        needs = "; ".join(f"{key}=, {_MEANING[key]}" for key in missing)
        raise UsageError(f"mode={cfg.mode} needs {needs}")


def load(cfg: DictConfig, kind: str, weight: str) -> Trained:
    """Open ``checkpoint``, of a model of some kind, which is known by the name of a weight.

    Raises:
        UsageError: the file is missing, damaged, of another kind of model, from before the end of
            the first epoch, or from before checkpoints kept vocabularies.
    """
    path = Path(cfg.checkpoint)
    if not path.exists():
        raise UsageError(f"checkpoint={path} does not exist")
    state = checkpoint.load(path)
    kept = state.get("kept", {})
    if weight not in kept.get("model", {}):
        raise UsageError(f"checkpoint={path} is not of a {kind}")
    if "vocabulary" not in kept:
        raise UsageError(
            f"checkpoint={path} has no vocabulary, for an older version wrote it: train anew"
        )
    weights = kept["best"]["weights"] if "best" in kept else kept["model"]
    if not weights:
        raise UsageError(f"checkpoint={path} is from the first epoch: train on to its end")
    config = OmegaConf.create(state["config"])
    if (precision := config.get("precision", {"name": "fp32"})["name"]) != cfg.precision.name:
        _log.info("precision=%s, in the training %s", cfg.precision.name, precision)
    hashes = state.get("data", {}).get("hashes", {})
    return Trained(weights, kept["vocabulary"], config, hashes)
