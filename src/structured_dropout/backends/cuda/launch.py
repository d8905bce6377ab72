"""Compile kernels/cuda and say where they are queued: CuPy compiles, the operators (C++) launch.

The tests put a launcher in the place of the GPU's that runs the same sources on the CPU (``use``).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from structured_dropout.backends.cuda import build
from structured_dropout.backends.operators import sources
from structured_dropout.backends.operators.build import missing

_OLDEST = (7, 5)  # compute capability; what CUDA 13 compiles for
_BFLOAT16 = (8, 0)  # the first with tensor cores that multiply it
# Of a kernel's parameters, as kernels/cuda/launch.h names them.
_KINDS = {
    "float*": "f",
    "bfloat16*": "b",
    "int*": "i",
    "long long*": "l",
    "float": "F",
    "int": "I",
}


class Grid(NamedTuple):
    """Of a cooperative launch, whose blocks must all run at once since they wait for each other."""

    blocks: int
    threads: int  # of a block
    shared_bytes: int  # likewise


class Launcher(Hashable, Protocol):
    """What compiles and runs kernels, and knows the devices."""

    address: int  # of a C function that queues them (Launcher in kernels/cuda/launch.h)

    def supports(self, device: torch.device) -> str | None: ...

    def compile(
        self,
        device: torch.device,
        source: str,
        name: str,
        defines: tuple[str, ...],
        cooperative: bool,
    ) -> int: ...

    def blocks_at_once(self, device: torch.device, function: int, grid: Grid) -> int: ...

    def stream(self, device: torch.device) -> int: ...

    def multiprocessors(self, device: torch.device) -> int: ...

    def shared_limit(self, device: torch.device) -> int:
        """Bytes of shared memory that one block can have there."""

    def multiplies_bfloat16(self, device: torch.device) -> bool:
        """Whether the device has tensor cores that do."""


def supports(device: torch.device) -> str | None:
    """Why no kernel can run there and what to do about it; None if one can."""
    return _launcher.supports(device)


def queue(device: torch.device) -> tuple[int, int]:
    """Where operators queue their kernels now, as they take it: the launcher and its stream."""
    return _launcher.address, _launcher.stream(device)


def kernel(
    device: torch.device,
    source: str,
    name: str,
    defines: tuple[str, ...] = (),
    grid: Grid | None = None,
) -> int:
    """Compile a kernel; the number by which the operators know it.

    Args:
        source: file name in kernels/cuda.
        name: an ``extern "C" __global__`` function of it.
        defines: macros as NAME=VALUE; each combination is compiled once.
        grid: of a cooperative launch.

    Raises:
        RuntimeError: the source does not compile, or the grid is larger than what runs at once;
            names the kernel.
    """
    function, number = _kernel(_launcher, device, source, name, defines, grid is not None)
    if grid is not None:
        most = _launcher.blocks_at_once(device, function, grid)
        if grid.blocks > most:
            raise RuntimeError(
                f"kernel {name} of kernels/cuda/{source}: its {grid.blocks} blocks must run at "
                f"once, {device} runs {most} with {grid.shared_bytes} bytes of shared memory "
                "each: choose backend=compact"
            )
    return number


@lru_cache(maxsize=1024)
def _kernel(
    launcher: Launcher,
    device: torch.device,
    source: str,
    name: str,
    defines: tuple[str, ...],
    cooperative: bool,
) -> tuple[int, int]:
    function = launcher.compile(device, source, name, defines, cooperative)
    number: int = build.load().cuda_kernel(
        function, f"{name} of kernels/cuda/{source}", cooperative, parameters(source, name, defines)
    )
    return function, number


def current() -> Launcher:
    """What runs kernels now: plans are made for it."""
    return _launcher


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
def parameters(source: str, name: str, defines: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What a kernel takes, in order: each parameter's kind and name."""
    text = re.sub(r"//.*|__restrict__|\bconst\b", "", read_source(source))
    operand = "bfloat16" if "OPERAND=bfloat16" in defines else "float"
    text = re.sub(r"\bOPERAND\b", operand, text)
    bounds = r"(?:__launch_bounds__\([^()]*\)\s*)?"
    found = re.search(rf"__global__ void\s+{bounds}{name}\(([^)]*)\)", text)
    if found is None:
        raise ValueError(f"kernels/cuda/{source} has no kernel {name}")
    split = (re.fullmatch(r"\s*(.+?)\s*(\*?)\s*(\w+)\s*", p) for p in found[1].split(","))
    return tuple(f"{_KINDS[' '.join(p[1].split()) + p[2]]} {p[3]}" for p in split if p)


def compiler_options(defines: tuple[str, ...]) -> tuple[str, ...]:
    """NVRTC's, without the architecture."""
    return ("-std=c++17", *(f"-D{define}" for define in defines))


class CudaLauncher:
    """Runs the kernels on NVIDIA devices, by their driver; CuPy is imported with the first."""

    address = 0

    def supports(self, device: torch.device) -> str | None:
        if device.type != "cuda":
            return "its kernels run on NVIDIA GPUs"
        index = torch.cuda.current_device() if device.index is None else device.index
        return missing() or _unsupported(index)

    def compile(
        self,
        device: torch.device,
        source: str,
        name: str,
        defines: tuple[str, ...],
        cooperative: bool,
    ) -> int:
        """A kernel that may have all the shared memory of its blocks."""
        import cupy
        from cupy.cuda import compiler

        text, options = read_source(source), compiler_options(defines)
        with cupy.cuda.Device(device.index):
            kernel = cupy.RawKernel(text, name, options, enable_cooperative_groups=cooperative)
            try:
                kernel.compile()
            except compiler.CompileException as error:
                raise RuntimeError(
                    f"kernel {name} of kernels/cuda/{source} does not compile: "
                    f"{error.get_message()}"  # the message without the source
                ) from error
            kernel.max_dynamic_shared_size_bytes = (
                self.shared_limit(device) - kernel.shared_size_bytes
            )
            _compiled.append(kernel)
            function: int = kernel.kernel.ptr  # of the current device
        return function

    def blocks_at_once(self, device: torch.device, function: int, grid: Grid) -> int:
        import cupy
        from cupy.cuda import driver

        with cupy.cuda.Device(device.index):
            of_one: int = driver.occupancyMaxActiveBlocksPerMultiprocessor(
                function, grid.threads, grid.shared_bytes
            )
        return of_one * self.multiprocessors(device)

    def stream(self, device: torch.device) -> int:
        stream: int = torch._C._cuda_getCurrentRawStream(device.index)
        return stream

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


@cache
def _shared_limit(device: int) -> int:
    from cupy.cuda import Device

    return int(Device(device).attributes["MaxSharedMemoryPerBlockOptin"])


_compiled: list[Any] = []  # CuPy unloads a kernel with its object
_launcher: Launcher = CudaLauncher()
