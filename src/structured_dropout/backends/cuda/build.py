"""The operators of kernels/cuda: C++ for the host. CuPy compiles the kernels (launch.py)."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from structured_dropout.backends.operators.build import Library


@cache
def load() -> Any:
    """torch.ops.structured_dropout with the operators of kernels/cuda; built at the first use on a
    machine.

    Raises:
        RuntimeError: they cannot be built; says why and what to do.
    """
    Library("cuda", ("-O2", "-std=c++20")).load()
    return torch.ops.structured_dropout
