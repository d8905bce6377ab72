"""Compile C++ operators at first use, once a machine.

A build is made in a folder of its own and takes its final name when it is complete, so that a
killed build, or two at once, leave nothing half written; the name carries all that the binary
depends on, so that it is never stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from structured_dropout.backends.operators.sources import folder

_log = logging.getLogger(__name__)


def missing() -> str | None:
    """What a machine lacks to build a library and how to get it; None if nothing."""
    if _has_compiler(_compiler()):
        return None
    return f"there is no C++ compiler ({_compiler()}): install g++, or set CXX"


@dataclass(frozen=True)
class Library:
    """The C++ sources in a folder of kernels/, which register torch operators.

    Args:
        kind: the folder's name.
        flags: of the compiler.
        processor: what it must be, if only one kind can run the binary.
    """

    kind: str
    flags: tuple[str, ...]
    processor: str = ""

    def load(self) -> None:
        """Load it, built first if there is none.

        Raises:
            RuntimeError: it cannot be built; says why and what to do.
        """
        reason = missing() or _failure(self, _compiler())
        if reason is not None:
            raise RuntimeError(
                f"kernels/{self.kind} cannot be built: {reason}; or choose backend=dense"
            )

    def path(self, compiler: str) -> Path:
        cache = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache/torch_extensions"
        return Path(cache) / self.name / f"{self.fingerprint(compiler)}.so"

    @property
    def name(self) -> str:
        return f"structured_dropout_{self.kind}"

    @property
    def sources(self) -> list[Path]:
        files = folder(self.kind).iterdir()
        return sorted(path for path in files if path.suffix in (".cpp", ".h"))

    def fingerprint(self, compiler: str) -> str:
        parts = [
            torch.__version__,
            os.uname().machine,
            *self.flags,
            self.processor,
            subprocess.check_output([compiler, "--version"], text=True),
        ]
        digest = hashlib.sha256("\n".join(parts).encode())
        for source in self.sources:
            digest.update(source.read_bytes())
        return digest.hexdigest()[:16]


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


@cache
def _has_compiler(name: str) -> bool:
    return shutil.which(name) is not None


@cache  # a build that failed is not tried again
def _failure(library: Library, compiler: str) -> str | None:
    try:
        _build_and_load(library, library.path(compiler))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return str(error)
    return None


def _build_and_load(library: Library, path: Path) -> None:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others wait; who is killed leaves it unlocked
            if not path.exists():
                _build(library, path)
                return
    torch.ops.load_library(path)  # type: ignore[no-untyped-call]


def _build(library: Library, path: Path) -> None:
    """Load it, too."""
    _log.warning(
        "building kernels/%s into %s: once a machine, about a minute", library.kind, path.parent
    )
    # Imported here since it takes a second, which a finished build need not wait for.
    from torch.utils import cpp_extension

    with _scripts_on_path(), tempfile.TemporaryDirectory(dir=path.parent) as build:
        cpp_extension.load(
            library.name,
            [str(source) for source in library.sources if source.suffix == ".cpp"],
            extra_cflags=list(library.flags),
            build_directory=build,
            is_python_module=False,
        )
        os.replace(Path(build) / f"{library.name}.so", path)


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """ninja comes with the package, but not on the path of an environment that is not active."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), path))
    try:
        yield
    finally:
        os.environ["PATH"] = path
