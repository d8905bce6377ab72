"""Where the tests of the backends run: on the CPU, or on the GPU with TEST_DEVICE=cuda (make gpu).

On the CPU the CUDA kernels run too, through tests/cuda_shim.
"""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from cuda_shim import ShimLauncher

from structured_dropout.backends.cuda import launch as cuda_launch

DEVICE = torch.device(os.environ.get("TEST_DEVICE", "cpu"))
if DEVICE.type == "cuda":
    torch.backends.cudnn.allow_tf32 = False  # held against float64

_shim = ShimLauncher(multiprocessors=4, shared_limit=64 << 10)


def cuda_kernels() -> AbstractContextManager[None]:
    """Inside this the ``cuda`` backend runs on DEVICE."""
    return nullcontext() if DEVICE.type == "cuda" else cuda_launch.use(_shim)
