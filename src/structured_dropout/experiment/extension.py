"""A training that goes on where one of fewer epochs ended: ``run.extends=``.

No recipe's schedule depends on the number of epochs, so that this is bit for bit the training that
had as many from the start, and has its identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.identity import identity


def extended(cfg: DictConfig) -> dict[str, Any]:
    """The checkpoint ``cfg.run.extends`` as one of the run of ``cfg``.

    Raises:
        UsageError: the file is missing, damaged or no run's; its run differs in more than fewer
            epochs.
    """
    path = Path(cfg.run.extends)
    if not path.exists():
        raise UsageError(f"run.extends={path} does not exist")
    state = checkpoint.load(path)
    if "config" not in state:
        raise UsageError(f"run.extends={path} is not of a training here")
    here, there = identity(cfg), state["config"]
    differ = [
        key
        for key in here | there
        if _without_epochs(here.get(key)) != _without_epochs(there.get(key))
    ]
    if differ:
        raise UsageError(
            f"run.extends={path} is of another configuration, which differs in "
            f"{', '.join(differ)}: only train.epochs may"
        )
    if state["position"]["epoch"] > cfg.train.epochs:
        raise UsageError(
            f"run.extends={path} has come to epoch {state['position']['epoch']}: raise train.epochs"
        )
    return state | {"config": here}


def _without_epochs(section: Any) -> Any:
    """What a section says but for ``epochs``, which is train's."""
    if not isinstance(section, dict):
        return section
    return {key: value for key, value in section.items() if key != "epochs"}
