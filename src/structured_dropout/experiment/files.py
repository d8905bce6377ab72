"""Files that are either whole or absent, whatever kills the process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from structured_dropout.experiment.errors import StorageFailed


@contextmanager
def atomic(path: Path, mode: str = "w", previous: Path | None = None) -> Iterator[IO]:  # type: ignore[type-arg]
    """Open a file for writing that takes its name only once it is complete and on the disk.

    Args:
        previous: what the file of that name until then is kept as; None: it is not.

    Raises:
        StorageFailed: the disk is full, or the file cannot be written for another reason.
    """
    aside = path.with_name(path.name + ".part")
    try:
        with open(
            aside,
            mode,
            encoding=None if "b" in mode else "utf-8",
            newline=None if "b" in mode else "",
        ) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            os.replace(path, previous)  # killed here, the run goes on from the previous one
        os.replace(aside, path)
        _sync_folder(path.parent)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        # torch.save hides the OSError of a full disk behind a RuntimeError.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise StorageFailed(
            f"{path} cannot be written ({cause.strerror}); the one before is intact: "
            "make room, then run the same command again"
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
