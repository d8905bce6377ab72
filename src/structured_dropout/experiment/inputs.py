"""A user's files: their text, or one clear error."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pooch
from omegaconf import DictConfig

from structured_dropout.experiment.errors import UsageError


def data_folder(data: DictConfig) -> Path:
    """Where the public data sets are: ``data.dir``, or the user's cache folder.

    Raises:
        UsageError: there is no such folder.
    """
    if data.dir is not None and not Path(data.dir).is_dir():
        raise UsageError(f"data.dir={data.dir} does not exist")
    return data_path(data)


def data_path(data: DictConfig) -> Path:
    """The same folder, whether it is there or not."""
    return Path(data.dir or pooch.os_cache("structured-dropout"))


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, or has a NUL byte, which no text has.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
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
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes_of(paths: Mapping[str, Path]) -> dict[str, str]:
    """The hashes of those of these files that are here."""
    return {name: sha256(path) for name, path in paths.items() if path.is_file()}


def check_sha256(path: Path, digest: str, advice: str) -> None:
    """That a file of a public data set is as published.

    Args:
        advice: a sentence on what to do where it is not.

    Raises:
        UsageError: it is another.
    """
    if (found := sha256(path)) != digest:
        raise UsageError(
            f"{path} is not the published file: SHA-256 {found[:16]}... "
            f"instead of {digest[:16]}.... {advice}"
        )
