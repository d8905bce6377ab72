"""The files of a run: config.yaml, metrics.csv, summary.json, checkpoint.pt and the one before."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import Damaged, UsageError
from structured_dropout.experiment.files import atomic
from structured_dropout.experiment.identity import changed, data_hashes, signature
from structured_dropout.experiment.inputs import sha256

_log = logging.getLogger(__name__)

_DONE = ("finished", "truncated")
_STATUSES = (*_DONE, "interrupted", "failed")


class RunFolder:
    """A run's folder, held by one process at a time.

    Raises:
        UsageError: it cannot be made, another process holds it, or it belongs to a run of another
            configuration.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.path = Path(cfg.run.dir)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "w")  # noqa: SIM115  held until close()
        except OSError as error:
            raise UsageError(f"run.dir={self.path} cannot be written: {error.strerror}") from error
        try:
            self._take()
            self._claim(cfg)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._lock.close()

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        checkpoint.save(self.path / "checkpoint.pt", state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or the one before it where that is damaged; None if there was none
        yet.

        Raises:
            UsageError: there was one, but none can be read.
        """
        path = self.path / "checkpoint.pt"
        if not path.exists() and not checkpoint.previous(path).exists():
            if (self.path / "metrics.csv").exists():
                raise UsageError(
                    f"{path} is missing, but this run had one: restore it, or delete the run "
                    "folder to start over"
                )
            return None
        try:
            return checkpoint.load_last(path)
        except Damaged as error:
            raise UsageError(
                f"{error}. Restore it, or delete the run folder to start over"
            ) from error

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        with atomic(self.path / "metrics.csv") as file:
            file.write(_table(rows))

    def restore_metrics(self, rows: list[dict[str, float]]) -> None:
        """Write the rows that a checkpoint knows of; says so where the file does not agree."""
        path = self.path / "metrics.csv"
        there = path.read_text(errors="replace").splitlines() or [""] if path.exists() else []
        known = _table(rows).splitlines()
        common = min(len(there), len(known))
        # A killed process may have left the last row unwritten (the first one with the header), but
        # no other.
        if there[:common] != known[:common] or len(known) - common > (1 if there else 2):
            _log.warning("%s is damaged: written anew from the checkpoint", path)
        self.write_metrics(rows)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary, with a checksum of the metrics beside it."""
        metrics = self.path / "metrics.csv"
        with atomic(self.path / "summary.json") as file:
            json.dump(
                {**summary, "metrics_sha256": sha256(metrics) if metrics.exists() else None},
                file,
                indent=2,
            )
            file.write("\n")

    def _take(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"{self.path} is in use by another process: wait for it, or choose another run.dir"
            ) from None
        except OSError as error:
            raise UsageError(
                f"{self.path} cannot be locked ({error.strerror}): choose a run.dir on a local disk"
            ) from error

    def _claim(self, cfg: DictConfig) -> None:
        _check_configuration(self.path, cfg)
        path = self.path / "config.yaml"
        if not path.exists():
            with atomic(path) as file:
                file.write(OmegaConf.to_yaml(cfg, resolve=True))


def is_done(path: Path, cfg: DictConfig) -> bool:
    """Whether the run of this folder came to its planned end and need not be repeated.

    Raises:
        UsageError: it is a run of another configuration or of other data, its summary cannot be
            read, or the metrics beside it are not those that it was written with.
    """
    _check_configuration(path, cfg)
    summary, metrics = path / "summary.json", path / "metrics.csv"
    if not summary.exists():
        return False
    try:
        content = json.loads(summary.read_text())
        status, checksum = content["status"], content.get("metrics_sha256")
        then = data_hashes(content.get("data", {}))
        if status not in _STATUSES:
            raise ValueError(f"status {status!r}")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{summary} is damaged ({error}): delete it to go on from the checkpoint"
        ) from error
    if status not in _DONE:
        return False
    if checksum and (not metrics.exists() or sha256(metrics) != checksum):
        raise UsageError(
            f"{metrics} is damaged: restore it, or delete {summary.name} to have both written anew "
            "from the checkpoint"
        )
    check_data(path, then, hydra.utils.get_method(cfg.task.hashes)(cfg))
    return True


def check_data(folder: Path, then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """That the data are those that the run of this folder began with, whose configuration only
    names them.

    Raises:
        UsageError: some have another hash.
    """
    if others := changed(then, now):
        raise UsageError(
            f"the data are not those that this run began with ({', '.join(others)}): restore "
            f"them, or delete {folder}"
        )


def _check_configuration(folder: Path, cfg: DictConfig) -> None:
    """That a folder that has a configuration has this one."""
    path = folder / "config.yaml"
    if not path.exists():
        return
    try:
        there = signature(OmegaConf.load(path))  # type: ignore[arg-type]
    except Exception as error:  # whatever damaged bytes bring
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}): restore it, or delete it to trust the "
            "checkpoint's"
        ) from error
    if there != signature(cfg):
        raise UsageError(f"{folder} holds a run of another configuration: choose another run.dir")


def _table(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
