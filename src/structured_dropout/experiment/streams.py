"""Standard input and output: what uses a trained model is a filter like others of Unix, and a
training needs nobody who reads what it says."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from structured_dropout.experiment.errors import StorageFailed
from structured_dropout.experiment.inputs import STDIN


def source(name: str) -> Path:
    """The file that ``input=`` names; ``-`` is standard input."""
    return STDIN if name == "-" else Path(name)


def write(text: str) -> None:
    """Print at once, in UTF-8, as files are read.

    Raises:
        StorageFailed: nothing more can be written there, as on a full disk.
    """
    try:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    except OSError as error:
        _silence(sys.stdout)
        raise StorageFailed(f"standard output cannot be written: {error.strerror}") from error


class LogHandler(logging.StreamHandler[TextIO]):
    """Logs to a stream as long as it can be written to, and says so where it no longer can."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        _silence(self.stream)
        if self.stream is not sys.stderr:
            print(
                f"standard output cannot be written ({error.strerror}): going on without",
                file=sys.stderr,
            )


def _silence(stream: TextIO) -> None:
    """Throw away what is written to a stream, and what is in its buffer: it would fail again when
    Python ends."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
