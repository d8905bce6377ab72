"""A user's files: their text, or one clear error."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pooch
from omegaconf import DictConfig

from structured_dropout.experiment.errors import UsageError

STDIN = Path("/dev/stdin")


def data_folder(data: DictConfig) -> Path:
    """Where the public data sets are: ``data.dir``, or the user's cache folder.

    Raises:
        UsageError: there is no such folder.
    """
    if data.dir is not None and not Path(data.dir).is_dir():
        raise UsageError(f"data.dir={data.dir} does not exist")
    return Path(data.dir or pooch.os_cache("structured-dropout"))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, or has a NUL byte, which no text has.
    """
    try:
        # By its number: standard input may be a socket, which cannot be opened by name.
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as file:
            text = file.read().decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{path}:{line} is not UTF-8: byte {error.object[error.start]:#04x}"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UsageError(f"{path}:{line} has a NUL byte: the file is damaged, or no text")
    return text


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
