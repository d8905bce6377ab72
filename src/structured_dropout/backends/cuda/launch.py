"""Compile and launch the kernels of kernels/cuda on torch tensors: CuPy's RawKernels, on torch's
current stream.

Nothing is copied and nothing waits for the device. The tests put a launcher in the place of CuPy's
that runs the same sources on the CPU (``use``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy
import torch
from torch import Tensor

from structured_dropout.backends.operators import sources

Dim3 = tuple[int, int, int]
Arguments = tuple[Tensor | int | float | None, ...]

_OLDEST = (7, 5)  # compute capability; what CUDA 13 compiles for
_SHARED_WITHOUT_ASKING = 48 << 10  # bytes a block may have on any device


class Launcher(Protocol):
    """What runs kernels; the functions of this module pass their arguments on to one."""

    def supports(self, device: torch.device) -> str | None: ...

    def launch(
        self,
        source: str,
        name: str,
        grid: Dim3,
        block: Dim3,
        shared_bytes: int,
        args: Arguments,
        cooperative: bool = False,
        defines: tuple[str, ...] = (),
    ) -> None: ...

    def multiprocessors(self, device: torch.device) -> int: ...

    def shared_limit(self, device: torch.device) -> int: ...


def supports(device: torch.device) -> str | None:
    """Why no kernel can run there and what to do about it; None if one can."""
    return _launcher.supports(device)


def launch(
    source: str,
    name: str,
    grid: Dim3,
    block: Dim3,
    shared_bytes: int,
    args: Arguments,
    cooperative: bool = False,
    defines: tuple[str, ...] = (),
) -> None:
    """Queue a kernel on the current stream of its tensors' device.

    Args:
        source: file name in kernels/cuda.
        name: an ``extern "C" __global__`` function of it.
        shared_bytes: dynamic shared memory of a block.
        args: contiguous tensors of one device (float32 for ``float*``, int32 for ``int*``, int64
            for ``long long*``; None for a null pointer), ints (``int``) and floats (``float``).
        cooperative: all blocks must run at once, since they wait for each other.
        defines: macros as NAME=VALUE; each combination is compiled once.

    Raises:
        RuntimeError: the source does not compile; names it and the kernel.
    """
    _launcher.launch(source, name, grid, block, shared_bytes, args, cooperative, defines)


def multiprocessors(device: torch.device) -> int:
    """How many streaming multiprocessors the device has."""
    return _launcher.multiprocessors(device)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that one block can have there."""
    return _launcher.shared_limit(device)


@contextmanager
def use(launcher: Launcher) -> Iterator[None]:
    """Let another launcher run the kernels inside this context."""
    global _launcher
    outer, _launcher = _launcher, launcher
    try:
        yield
    finally:
        _launcher = outer


def read_source(source: str, folder: Path | None = None) -> str:
    """A kernel's source with the files that it includes in their places.

    CuPy names its compiled kernels after the text that it is given: a change in a file that it only
    includes would go unnoticed.
    """
    seen: set[str] = set()

    def inlined(name: str) -> str:
        if name in seen:
            return ""
        seen.add(name)
        lines = [f'#line 1 "{name}"']
        text = ((folder or sources.folder("cuda")) / name).read_text()
        for number, line in enumerate(text.splitlines(), 1):
            include = re.fullmatch(r'#include "(.+)"', line)
            if include:
                lines += [inlined(include[1]), f'#line {number + 1} "{name}"']
            elif line != "#pragma once":
                lines.append(line)
            else:
                lines.append("")
        return "\n".join(lines)

    return inlined(source)


def compiler_options(defines: tuple[str, ...]) -> tuple[str, ...]:
    """NVRTC's, without the architecture."""
    return ("-std=c++17", *(f"-D{define}" for define in defines))


class CupyLauncher:
    """Runs the kernels on NVIDIA devices; CuPy is imported with the first of them."""

    def supports(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "its kernels run on NVIDIA GPUs"
        return _unsupported(torch.cuda.current_device() if device.index is None else device.index)

    def launch(
        self,
        source: str,
        name: str,
        grid: Dim3,
        block: Dim3,
        shared_bytes: int,
        args: Arguments,
        cooperative: bool = False,
        defines: tuple[str, ...] = (),
    ) -> None:
        import cupy

        device = next(arg.device for arg in args if isinstance(arg, Tensor))
        stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(device))
        with cupy.cuda.Device(device.index), stream:
            kernel = self._kernel(source, name, shared_bytes, cooperative, defines)
            kernel(grid, block, tuple(_parameter(arg) for arg in args), shared_mem=shared_bytes)

    def multiprocessors(self, device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).multi_processor_count

    def shared_limit(self, device: torch.device) -> int:
        return _shared_limit(device.index)

    def _kernel(
        self, source: str, name: str, shared_bytes: int, cooperative: bool, defines: tuple[str, ...]
    ) -> Any:  # cupy.RawKernel
        from cupy.cuda import compiler

        kernel = _kernel(source, name, cooperative, defines)
        try:
            kernel.compile()  # for the current device, if it was not yet
        except compiler.CompileException as error:
            text = error.get_message()  # the message without the source
            raise RuntimeError(
                f"kernel {name} of kernels/cuda/{source} does not compile: {text}"
            ) from error
        if shared_bytes > _SHARED_WITHOUT_ASKING:
            kernel.max_dynamic_shared_size_bytes = shared_bytes
        return kernel


@cache
def _unsupported(device: int) -> str | None:
    if find_spec("cupy") is None:
        return "CuPy is not installed: pip install '.[cuda]'"
    import cupy

    if not cupy.cuda.is_available():
        return (
            "CuPy finds no driver for its CUDA: see nvidia-smi, and install the cupy-cuda package "
            "that fits it"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        name, (major, minor) = torch.cuda.get_device_name(device), capability
        return f"its kernels need compute capability 7.5 or later, {name} has {major}.{minor}"
    return None


def _parameter(arg: Tensor | int | float | None) -> Any:  # a number of the parameter's size
    if isinstance(arg, Tensor):
        return numpy.uintp(arg.data_ptr())
    if arg is None:
        return numpy.uintp(0)
    return numpy.int32(arg) if isinstance(arg, int) else numpy.float32(arg)


@cache
def _shared_limit(device: int) -> int:
    from cupy.cuda import Device

    return int(Device(device).attributes["MaxSharedMemoryPerBlockOptin"])


@cache
def _kernel(
    source: str, name: str, cooperative: bool, defines: tuple[str, ...]
) -> Any:  # cupy.RawKernel
    import cupy

    return cupy.RawKernel(
        read_source(source), name, compiler_options(defines), enable_cooperative_groups=cooperative
    )


_launcher: Launcher = CupyLauncher()
