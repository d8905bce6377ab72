"""The files of a run: config.yaml, metrics.csv, summary.json, checkpoint.pt."""

from __future__ import annotations

import csv
import fcntl
import json
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from structured_dropout.experiment import checkpoint
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.files import atomic
from structured_dropout.experiment.identity import signature


class RunFolder:
    """A run's folder, held by one process at a time.

    Raises:
        UsageError: another process holds it, or it belongs to a run of another configuration.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.path = Path(cfg.run.dir)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115  held until close()
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(
                f"{self.path} is in use by another process: wait for it, or choose another run.dir"
            ) from None
        self._claim(cfg)

    def close(self) -> None:
        self._lock.close()

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        checkpoint.save(self.path / "checkpoint.pt", state)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint; None if there is none."""
        path = self.path / "checkpoint.pt"
        return checkpoint.load(path) if path.exists() else None

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        with atomic(self.path / "metrics.csv") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def write_summary(self, summary: dict[str, Any]) -> None:
        with atomic(self.path / "summary.json") as file:
            json.dump(summary, file, indent=2)
            file.write("\n")

    def _claim(self, cfg: DictConfig) -> None:
        path = self.path / "config.yaml"
        if not path.exists():
            with atomic(path) as file:
                file.write(OmegaConf.to_yaml(cfg, resolve=True))
            return
        there = OmegaConf.load(path)
        if not isinstance(there, DictConfig) or signature(there) != signature(cfg):
            raise UsageError(f"{self.path} holds a run of another configuration: choose another run.dir")


def is_done(path: Path) -> bool:
    """Whether the run of this folder came to its planned end and need not be repeated.

    Raises:
        UsageError: its summary cannot be read.
    """
    summary = path / "summary.json"
    if not summary.exists():
        return False
    try:
        return json.loads(summary.read_text())["status"] in ("finished", "truncated")
    except (ValueError, KeyError) as error:
        raise UsageError(f"{summary} is damaged ({error}): delete it to go on from the checkpoint") from error
