"""Compile and launch the kernels of kernels/cuda on torch tensors: CuPy's RawKernels, on torch's
current stream.

Nothing is copied and nothing waits for the device. The tests put a launcher in the place of CuPy's
that runs the same sources on the CPU (``use``).
"""

from __future__ import annotations

import math
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
_BFLOAT16 = (8, 0)  # the first with tensor cores that multiply it
_KINDS = {
    "float*": torch.float32,
    "bfloat16*": torch.bfloat16,
    "int*": torch.int32,
    "long long*": torch.int64,
    "float": float,
    "int": int,
}


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

    def multiplies_bfloat16(self, device: torch.device) -> bool: ...


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
        args: contiguous tensors of one device (float32 for ``float*``, bfloat16 for
            ``bfloat16*``, int32 for ``int*``, int64 for ``long long*``; None for a null pointer),
            ints (``int``) and floats (``float``).
        cooperative: all blocks must run at once, since they wait for each other.
        defines: macros as NAME=VALUE; each combination is compiled once.

    Raises:
        TypeError: an argument is not what the kernel's parameter takes; names both. A kernel would
            read whatever bytes are there.
        RuntimeError: the source does not compile, or a cooperative grid is larger than what runs at
            once; names the kernel.
    """
    _check(source, name, args, defines)
    _launcher.launch(source, name, grid, block, shared_bytes, args, cooperative, defines)


def multiprocessors(device: torch.device) -> int:
    """How many streaming multiprocessors the device has."""
    return _launcher.multiprocessors(device)


def shared_limit(device: torch.device) -> int:
    """Bytes of shared memory that one block can have there."""
    return _launcher.shared_limit(device)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has tensor cores that do."""
    return _launcher.multiplies_bfloat16(device)


def operand(dtype: torch.dtype) -> tuple[str, ...]:
    """The macro of a kernel that multiplies in this dtype."""
    return ("OPERAND=bfloat16",) if dtype == torch.bfloat16 else ()


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


@cache
def parameters(
    source: str, name: str, defines: tuple[str, ...] = ()
) -> tuple[tuple[str, Any], ...]:
    """What a kernel takes, in order: each parameter's name, and the dtype of its tensor, int or
    float."""
    text = re.sub(r"//.*|__restrict__|\bconst\b", "", read_source(source))
    operand = "bfloat16" if "OPERAND=bfloat16" in defines else "float"
    text = re.sub(r"\bOPERAND\b", operand, text)
    bounds = r"(?:__launch_bounds__\([^()]*\)\s*)?"
    found = re.search(rf"__global__ void\s+{bounds}{name}\(([^)]*)\)", text)
    if found is None:
        raise ValueError(f"kernels/cuda/{source} has no kernel {name}")
    split = (re.fullmatch(r"\s*(.+?)\s*(\*?)\s*(\w+)\s*", p) for p in found[1].split(","))
    return tuple((p[3], _KINDS[" ".join(p[1].split()) + p[2]]) for p in split if p)


def _check(source: str, name: str, args: Arguments, defines: tuple[str, ...]) -> None:
    expected = parameters(source, name, defines)
    if len(args) != len(expected):
        raise TypeError(f"kernel {name} takes {len(expected)} arguments, not {len(args)}")
    device = next(arg.device for arg in args if isinstance(arg, Tensor))
    for arg, (parameter, kind) in zip(args, expected, strict=True):
        if type(arg) is kind:  # a number
            fits = kind is float or -(2**31) <= arg < 2**31  # type: ignore[operator]
        elif isinstance(arg, Tensor):
            fits = arg.dtype is kind and arg.device == device and arg.is_contiguous()
        else:
            fits = arg is None and isinstance(kind, torch.dtype)
        if not fits:
            raise TypeError(
                f"kernel {name} of kernels/cuda/{source}: {parameter} must be "
                f"{_wanted(kind, device)}, it is {_given(arg)}"
            )


def _wanted(kind: Any, device: torch.device) -> str:
    if isinstance(kind, torch.dtype):
        return f"a contiguous {kind} tensor on {device}"
    return "a 32-bit int" if kind is int else "a float"


def _given(arg: Tensor | int | float | None) -> str:
    if isinstance(arg, Tensor):
        return f"a {arg.dtype} tensor on {arg.device} of strides {arg.stride()}"
    return repr(arg)


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
        with cupy.cuda.Device(device.index):
            kernel = _kernel(device.index, source, name, cooperative, defines)
            if cooperative:
                most = _blocks_at_once(kernel, device.index, block, shared_bytes)
                if math.prod(grid) > most:  # CuPy would launch fewer, with a warning
                    raise RuntimeError(
                        f"kernel {name} of kernels/cuda/{source}: its {math.prod(grid)} blocks "
                        f"must run at once, {torch.cuda.get_device_name(device)} runs {most} with "
                        f"{shared_bytes} bytes of shared memory each: choose backend=compact"
                    )
            stream = _stream(torch.cuda.current_stream(device))
            values = tuple(_parameter(arg) for arg in args)
            kernel.kernel(
                grid,
                block,
                values,
                shared_mem=shared_bytes,
                stream=stream,
                enable_cooperative_groups=cooperative,
            )

    def multiprocessors(self, device: torch.device) -> int:
        return torch.cuda.get_device_properties(device).multi_processor_count

    def shared_limit(self, device: torch.device) -> int:
        return _shared_limit(device.index)

    def multiplies_bfloat16(self, device: torch.device) -> bool:
        return torch.cuda.get_device_capability(device) >= _BFLOAT16


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
    device: int, source: str, name: str, cooperative: bool, defines: tuple[str, ...]
) -> Any:  # cupy.RawKernel
    """A kernel that is compiled for the current device, which is ``device``, and may have all the
    shared memory of its blocks."""
    import cupy
    from cupy.cuda import compiler

    text, options = read_source(source), compiler_options(defines)
    kernel = cupy.RawKernel(text, name, options, enable_cooperative_groups=cooperative)
    try:
        kernel.compile()
    except compiler.CompileException as error:
        raise RuntimeError(
            f"kernel {name} of kernels/cuda/{source} does not compile: "
            f"{error.get_message()}"  # the message without the source
        ) from error
    kernel.max_dynamic_shared_size_bytes = _shared_limit(device) - kernel.shared_size_bytes
    return kernel


@cache
def _blocks_at_once(kernel: Any, device: int, block: Dim3, shared_bytes: int) -> int:
    from cupy.cuda import driver

    of_one: int = driver.occupancyMaxActiveBlocksPerMultiprocessor(
        kernel.kernel.ptr, math.prod(block), shared_bytes
    )
    return of_one * torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _stream(stream: torch.cuda.Stream) -> Any:  # cupy.cuda.Stream; torch's are few, from a pool
    import cupy

    return cupy.cuda.Stream.from_external(stream)


_launcher: Launcher = CupyLauncher()
