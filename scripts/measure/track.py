"""A benchmark's times, given to a tracker."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from structured_dropout.experiment.tracking import open_tracker


def track(rows: list[dict[str, Any]], tracker: DictConfig, folder: Path) -> None:
    """Log a run of job type ``bench``, with a summary key for each row."""
    tasks = " ".join(dict.fromkeys(row["task"] for row in rows))
    config = {"overrides": sys.argv[1:]}
    run = open_tracker(tracker, config, f"bench {tasks}", None, folder, job_type="bench")
    keys = ("task", "part", "overrides", "dropout", "backend", "precision", "phase")
    by_name = {" ".join(row[key] for key in keys if row[key]): row for row in rows}
    run.finish(by_name | {"status": "finished"})
