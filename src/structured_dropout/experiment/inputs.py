"""A user's files: their text, or one clear error."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

import pooch
from omegaconf import DictConfig

from structured_dropout.experiment.errors import UsageError

_log = logging.getLogger(__name__)

STDIN = Path("/dev/stdin")


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
    """The text of ``read_hashed``."""
    return read_hashed(path)[0]


def read_hashed(path: Path) -> tuple[str, str]:
    """The text of a UTF-8 file, without a byte order mark, its lines ended by line feeds alone; and
    the SHA-256 of what was read, for a pipe cannot be read again.

    Zero width spaces and byte order marks within it, which are part of the words that they stick
    to, are told of.

    Raises:
        UsageError: the file cannot be read, is not UTF-8, has a NUL byte, which no text has, or a
            carriage return alone, which may be meant to end a line or not.
    """
    try:
        # By its number: standard input may be a socket, which cannot be opened by name.
        with open(0 if path == STDIN else path, "rb", closefd=path != STDIN) as file:
            content = file.read()
        text = content.decode("utf-8-sig")
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
    text = text.replace("\r\n", "\n")
    if "\r" in text:
        line = text[: text.index("\r")].count("\n") + 1
        raise UsageError(
            f"{path}:{line} has a carriage return without a line feed: where it ends a line, as on "
            "old Macs, convert the file (tr '\\r' '\\n'), elsewhere remove it"
        )
    tell_glued(path, text, "\u200b\ufeff")
    return text, hashlib.sha256(content).hexdigest()


def tell_glued(path: Path, text: str, characters: str) -> None:
    """Warn of characters that do not show and are part of the words that they stick to."""
    if found := re.findall(f"[{characters}]", text):
        line = text[: text.index(found[0])].count("\n") + 1
        _log.warning(
            "%s:%d has a character that does not show (U+%04X), one of %d in the file: it counts "
            "as part of its word",
            path, line, ord(found[0]), len(found),
        )  # fmt: skip


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
