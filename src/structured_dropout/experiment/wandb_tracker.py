"""Weights & Biases."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from structured_dropout.experiment.errors import UsageError

_log = logging.getLogger(__name__)

_PATIENCE = 300.0  # seconds that a finished run waits for its upload


class WandB:
    """A run of Weights & Biases; whatever it logs is also under the run folder's wandb/, for
    ``wandb sync``."""

    def __init__(
        self,
        tracker: DictConfig,
        mode: Any,
        config: dict[str, Any],
        name: str,
        run_id: str | None,
        folder: Path,
        job_type: str,
    ) -> None:
        import wandb

        self._run = wandb.init(
            project=tracker.project,
            entity=tracker.entity,
            group=tracker.group,
            job_type=job_type,
            name=name,
            id=run_id,
            resume="allow",
            dir=str(folder),
            config=config,
            mode=mode,
            # else the second job of a sweep goes on in the first one's run
            reinit="finish_previous",
            settings=wandb.Settings(console="off", finish_timeout=_PATIENCE),
        )

    def log(self, metrics: dict[str, float], step: int) -> None:
        self._run.log(metrics, step=step)

    def finish(self, summary: dict[str, Any]) -> None:
        if summary.get("metrics"):
            self._run.log({"table_row": _table_row(summary)})
        self._run.summary.update(summary)
        self._run.finish(exit_code=0 if summary["status"] in ("finished", "truncated") else 1)


def _table_row(summary: dict[str, Any]) -> Any:
    """What the run gives to the paper's tables."""
    import wandb

    keys = ("task", "dropout", "seed", "status", "epochs", "planned_epochs", "ms_per_iteration")
    row = {key: summary[key] for key in keys} | summary["metrics"]
    return wandb.Table(columns=list(row), data=[list(row.values())])


def open_wandb(
    tracker: DictConfig,
    config: dict[str, Any],
    name: str,
    run_id: str | None,
    folder: Path,
    job_type: str,
) -> WandB | None:
    """The run of this id, new or gone on with; None where Weights & Biases does not start at all.

    ``tracker.mode`` decides whether it is online, else ``WANDB_MODE``, else whether somebody is
    logged in. It is offline where it cannot be reached.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise UsageError(
            "tracker=wandb needs the package: pip install 'structured-dropout[wandb]'"
        ) from None
    wanted = tracker.mode or os.environ.get("WANDB_MODE")
    if not wanted:
        wanted = "online" if wandb.api.api_key else "offline"
    if wanted == "offline":
        _log.info("wandb: logging offline to %s", folder / "wandb")
    for mode in dict.fromkeys((wanted, "offline")):
        try:
            return WandB(tracker, mode, config, name, run_id, folder, job_type)
        except Exception as error:  # whatever the network brings
            _log.warning(
                "wandb: %s does not start, the run goes on: %s: %s",
                mode,
                type(error).__name__,
                error,
            )
            wandb.teardown()  # else the next attempt goes on in what this one left
    return None
