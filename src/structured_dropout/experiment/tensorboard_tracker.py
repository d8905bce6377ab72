"""TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from structured_dropout.experiment.errors import UsageError


class TensorBoard:
    """A run's folder of TensorBoard's events.

    A run that resumes goes on in it; what a process before it logged from there on is purged.

    Args:
        config: shown as a text.

    Raises:
        UsageError: the package is not installed.
    """

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "tracker=tensorboard needs the package: "
                "pip install 'structured-dropout[tensorboard]'"
            ) from None
        self._open = SummaryWriter
        self._writer: SummaryWriter | None = None
        self._config = config
        self._folder = str(folder)

    def log(self, metrics: dict[str, float], step: int) -> None:
        writer = self._writer = self._writer or self._open(self._folder, purge_step=step)
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def finish(self, summary: dict[str, Any]) -> None:
        """Log the metrics of the summary as ``final/NAME``; it and the configuration as texts."""
        writer = self._writer or self._open(self._folder)
        for name, value in summary.get("metrics", {}).items():
            writer.add_scalar(f"final/{name}", value, summary["iterations"])
        for name, content in (("config", self._config), ("summary", summary)):
            lines = json.dumps(content, indent=2).splitlines()
            writer.add_text(name, "\n".join(f"    {line}" for line in lines))  # in Markdown, code
        writer.close()
