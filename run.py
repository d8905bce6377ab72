"""Train a model of the paper under a case of dropout: python run.py task=ptb_medium
dropout=nr_rh_st

With ``mode=`` a trained model is used instead: python run.py task=nmt_de_en mode=translate
checkpoint=... src=...
"""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from structured_dropout.experiment import settings
from structured_dropout.experiment.errors import (
    Interrupted,
    StorageFailed,
    TrainingDiverged,
    UsageError,
)
from structured_dropout.experiment.folder import is_done
from structured_dropout.experiment.identity import default_dir

_log = logging.getLogger(__name__)

MODES = ("translate", "tag")  # besides train


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> str:
    """Train, or find it done. Returns the path of the summary, or in a sweep an ``error: ...``."""
    output = (
        sys.stdout if cfg.mode == "train" else sys.stderr
    )  # what a model gives goes to stdout alone
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=output, force=True)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        if cfg.only is not None and not sweep:
            raise UsageError("only= chooses among the runs of a sweep: add -m, or leave it out")
        if cfg.only is not None and f"{cfg.task.name}/{cfg.dropout.name}" not in cfg.only:
            return ""
        settings.check(cfg)
        if cfg.mode != "train":
            hydra.utils.get_method(task_function(cfg))(cfg)
            return ""
        check_added_keys()
        folder = prepare(cfg)
        if is_done(folder, cfg):
            _log.info("already done, nothing to run")
        else:
            hydra.utils.get_method(cfg.task.recipe)(cfg)
    except (UsageError, TrainingDiverged, StorageFailed) as error:
        if sweep:  # the other runs go on
            _log.error("error: %s", error)
            return f"error: {error}"
        sys.exit(f"error: {error}")
    except (Interrupted, KeyboardInterrupt) as stop:
        _log.info(
            "%s",
            str(stop)
            or "stopped; the last checkpoint, if there is one, is where the same command goes on",
        )
        sys.exit(130)
    except Exception as error:
        if not sweep:
            raise
        _log.exception("error: %s", type(error).__name__)
        return f"error: {type(error).__name__}: {error}"
    _log.info("summary: %s", folder / "summary.json")
    return str(folder / "summary.json")


def task_function(cfg: DictConfig) -> str:
    """The name of what the task does in this mode."""
    if cfg.mode not in MODES or cfg.mode not in cfg.task:
        can = ["train", *(mode for mode in MODES if mode in cfg.task)]
        raise UsageError(f"task={cfg.task.name} has no mode={cfg.mode}: choose {', '.join(can)}")
    return str(cfg.task[cfg.mode])


def check_added_keys() -> None:
    """Refuse what Hydra proposes for a misspelt key, a ``+`` before it: the training would not read it."""
    for override in HydraConfig.get().overrides.task:
        key = override.split("=")[0]
        if key.startswith("+") and "." in key and not key.lstrip("+").startswith("dropout."):
            raise UsageError(
                f"{override}: nothing reads a key that is added, but for dropout's; correct its name"
            )


def prepare(cfg: DictConfig) -> Path:
    """Settle the run's folder."""
    job = HydraConfig.get()
    if cfg.run.dir is None:
        cfg.run.dir = str(default_dir(cfg))
    elif job.mode == RunMode.MULTIRUN:
        raise UsageError("run.dir names one folder, a sweep has many runs: leave it out under -m")
    if job.mode == RunMode.MULTIRUN and cfg.tracker.get("group", "") is None:
        cfg.tracker.group = job.runtime.choices.get("experiment", cfg.task.name)
    cfg.run.command = shlex.join(["python", "run.py", *job.overrides.task])
    return Path(cfg.run.dir)


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a scheduler's is like Ctrl-C, before the training too
    main()
