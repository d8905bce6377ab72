"""Standard input and output of what uses a trained model, which is a filter like others of Unix."""

from __future__ import annotations

import os
import sys
from pathlib import Path

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
        # What is still in the buffer would fail again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StorageFailed(f"standard output cannot be written: {error.strerror}") from error
