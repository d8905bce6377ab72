"""Compile the C++ kernels at first use, once a machine.

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
from functools import cache
from pathlib import Path

import torch

from structured_dropout.backends.operators.sources import folder

_NAME = "structured_dropout_cpu"
# STRUCTURED_DROPOUT_GENERIC=1 compiles bfloat16 without the processor's instructions for it: slow,
# and the same code on every machine, for tests.
_GENERIC = os.environ.get("STRUCTURED_DROPOUT_GENERIC") == "1"
_log = logging.getLogger(__name__)


def missing() -> str | None:
    """What a machine lacks to build the kernels and how to get it; None if nothing."""
    if _has_compiler(_compiler()):
        return None
    return f"there is no C++ compiler ({_compiler()}): install g++, or set CXX"


def takes_bfloat16() -> bool:
    """Whether bfloat16 is worth its while here: the processor multiplies in it."""
    return _GENERIC or "avx512_bf16" in _processor().split()


def load() -> None:
    """Load the library that registers the operators of kernels/cpu, built first if there is none.

    Raises:
        RuntimeError: it cannot be built; says why and what to do.
    """
    reason = missing() or _failure(_compiler())
    if reason is not None:
        raise RuntimeError(f"the CPU kernels cannot be built: {reason}; or choose backend=dense")


def _compiler() -> str:
    return os.environ.get("CXX", "c++")


@cache
def _has_compiler(name: str) -> bool:
    return shutil.which(name) is not None


@cache  # a build that failed is not tried again
def _failure(compiler: str) -> str | None:
    try:
        _build_and_load(compiler)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return str(error)
    return None


def _build_and_load(compiler: str) -> None:
    library = _library(compiler)
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with open(library.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # others wait; who is killed leaves it unlocked
            if not library.exists():
                _build(library)
                return
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]


def _library(compiler: str) -> Path:
    cache = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    return Path(cache) / _NAME / f"{_fingerprint(compiler, _sources())}.so"


def _sources() -> list[Path]:
    return sorted(folder("cpu").iterdir())


def _build(library: Path) -> None:
    """Load it, too."""
    _log.info("building the CPU kernels into %s: once a machine, about a minute", library.parent)
    # Imported here since it takes a second, which a finished build need not wait for.
    from torch.utils import cpp_extension

    with _scripts_on_path(), tempfile.TemporaryDirectory(dir=library.parent) as build:
        cpp_extension.load(
            _NAME,
            [str(source) for source in _sources() if source.suffix == ".cpp"],
            extra_cflags=_flags(),
            build_directory=build,
            is_python_module=False,
        )
        os.replace(Path(build) / f"{_NAME}.so", library)


def _fingerprint(compiler: str, sources: list[Path]) -> str:
    """-march=native: a binary is good for one kind of processor only."""
    parts = [
        torch.__version__,
        *_flags(),
        _processor(),
        subprocess.check_output([compiler, "--version"], text=True),
    ]
    digest = hashlib.sha256("\n".join(parts).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))), os.uname().machine
    )


def _flags() -> list[str]:
    # A sandbox may hide from Linux's list what the compiler finds in the processor itself.
    tiles = "amx_bf16" in _processor().split() and not _GENERIC
    return [
        "-O3",
        "-march=native",
        "-std=c++20",
        # for at::parallel_for's header; not linked, so that torch's own runtime is the only one
        "-fopenmp",
        *([] if tiles else ["-U__AMX_BF16__"]),
        *(["-U__AVX512BF16__"] if _GENERIC else []),
        *os.environ.get("STRUCTURED_DROPOUT_CXXFLAGS", "").split(),
    ]


@contextmanager
def _scripts_on_path() -> Iterator[None]:
    """ninja comes with the package, but not on the path of an environment that is not active."""
    path = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), path))
    try:
        yield
    finally:
        os.environ["PATH"] = path
