"""Train a model of the paper under a case of dropout, or use a trained one.

python run.py task=ptb_medium dropout=nr_rh_st
python run.py task=nmt_de_en mode=translate checkpoint=CHECKPOINT input=FILE
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import socket
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

import tasks  # noqa: F401  their schemas
from structured_dropout.experiment import ranks, settings, streams
from structured_dropout.experiment.composition import explained
from structured_dropout.experiment.errors import (
    Interrupted,
    StorageFailed,
    TrainingDiverged,
    UsageError,
)
from structured_dropout.experiment.finetuning import digest
from structured_dropout.experiment.folder import is_done
from structured_dropout.experiment.identity import default_dir

CONF = Path(__file__).resolve().parent / "conf"
_log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | str | None:
    """Train, or find it done.

    Returns the task's objective, for a sweeper that optimizes it; an ``error: ...`` of a run that
    does not end the sweep; None where nothing was trained.
    """
    # What a trained model gives goes to stdout alone.
    stream = sys.stdout if cfg.mode == "train" else sys.stderr
    level = logging.INFO if ranks.rank() == 0 else logging.WARNING
    handlers = [streams.LogHandler(stream)]
    logging.basicConfig(level=level, format="%(message)s", handlers=handlers, force=True)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    enter(HydraConfig.get().runtime.cwd)
    try:
        if cfg.only is not None and not sweep:
            raise UsageError("only= chooses among the runs of a sweep: add -m, or leave it out")
        if cfg.only is not None and f"{cfg.task.name}/{cfg.dropout.name}" not in cfg.only:
            return None
        settings.check(cfg)
        if ranks.size() > 1 and (sweep or cfg.mode != "train"):
            raise UsageError("torchrun is for one training: use python run.py for anything else")
        if cfg.mode != "train":
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it, as other filters
            settings.set_precision(cfg)
            hydra.utils.get_method(cfg.task.modes[cfg.mode])(cfg)
            return None
        folder = prepare(cfg)
        with ranks.joined(settings.device(cfg)):
            if ranks.from_first(lambda: is_done(folder, cfg)):
                _log.info("already done, nothing to run")
            else:
                hydra.utils.get_method(cfg.task.recipe)(cfg)
    except (UsageError, TrainingDiverged, StorageFailed) as error:
        if sweep:  # the other runs go on
            _log.error("error: %s", error)
            return f"error: {error}"
        sys.exit(f"error: {error}")
    except (Interrupted, KeyboardInterrupt) as stop:
        if cfg.mode == "train":
            without_reason = (
                "stopped; the same command goes on from the last checkpoint, if there is one"
            )
            _log.info("%s", str(stop) or without_reason)
        sys.exit(130)
    except Exception as error:
        if not sweep:
            raise
        _log.exception("error: %s", type(error).__name__)
        return f"error: {type(error).__name__}: {error}"
    summary = folder / "summary.json"
    _log.info("summary: %s", summary)
    objective: float | None = json.loads(summary.read_text())["metrics"].get(
        cfg.task.objective.metric
    )
    return objective


def enter(folder: str) -> None:
    """Work in the folder that the command was given in: a job on a node of Ray starts in another.

    Raises:
        UsageError: this machine does not have it.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be entered on {socket.gethostname()} ({error.strerror}): start the "
            "sweep in a folder that all its machines share"
        ) from error


def prepare(cfg: DictConfig) -> Path:
    """Settle the run's folder."""
    job = HydraConfig.get()
    if cfg.checkpoint is not None:
        cfg.checkpoint_sha256 = digest(Path(cfg.checkpoint))
    if cfg.run.dir is None:
        cfg.run.dir = str(default_dir(cfg))
    elif job.mode == RunMode.MULTIRUN:
        raise UsageError("run.dir names one folder, a sweep has many runs: leave it out under -m")
    if job.mode == RunMode.MULTIRUN and cfg.tracker.group is None:
        cfg.tracker.group = job.runtime.choices.get("experiment", cfg.task.name)
    alone = [] if cfg.only is None else ["only=null"]  # by itself no sweep passes it over
    cfg.run.command = shlex.join(["python", "run.py", *job.overrides.task, *alone])
    return Path(cfg.run.dir)


if __name__ == "__main__":
    # A scheduler's SIGTERM is like Ctrl-C, before the training too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and what it says becomes one line here
    try:
        with explained(sys.argv[1:], CONF):
            main()
    except UsageError as error:  # none of the runs can go on
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:  # between the runs of a sweep
        sys.exit(130)
