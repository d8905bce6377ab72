"""The operators of kernels/cpu, compiled for the processor of this machine."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch

from structured_dropout.backends.operators.build import Library
from structured_dropout.cpuinfo import cpuinfo

# STRUCTURED_DROPOUT_GENERIC=1 compiles bfloat16 without the processor's instructions for it: slow,
# and the same code on every machine, for tests.
_GENERIC = os.environ.get("STRUCTURED_DROPOUT_GENERIC") == "1"


def takes_bfloat16() -> bool:
    """Whether bfloat16 is worth its while here: the processor multiplies in it."""
    return _GENERIC or "avx512_bf16" in _processor().split()


def has_tiles() -> bool:
    """Whether products of bfloat16 take the processor's tiles (AMX)."""
    # A sandbox may hide from Linux's list what the compiler finds in the processor itself.
    return "amx_bf16" in _processor().split() and not _GENERIC


@cache
def load() -> Any:
    """torch.ops.structured_dropout with the operators of kernels/cpu; built at the first use on a
    machine.

    Raises:
        RuntimeError: they cannot be built; says why and what to do.
    """
    library().load()
    return torch.ops.structured_dropout


def library() -> Library:
    flags = [
        "-O3",
        "-march=native",
        "-std=c++20",
        # for at::parallel_for's header; not linked, so that torch's own runtime is the only one
        "-fopenmp",
        *([] if has_tiles() else ["-U__AMX_BF16__"]),
        *(["-U__AVX512BF16__"] if _GENERIC else []),
        *os.environ.get("STRUCTURED_DROPOUT_CXXFLAGS", "").split(),
    ]
    return Library("cpu", tuple(flags), _processor())


def _processor() -> str:
    """The instructions that it has; on ARM Linux calls them features."""
    return cpuinfo("flags") or cpuinfo("Features")
