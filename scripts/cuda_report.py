"""What the compiler makes of the CUDA kernels: registers, shared memory and spills, for each
architecture.

    python scripts/cuda_report.py

It takes the compiler that CuPy uses (NVRTC, ``pip install nvidia-cuda-nvrtc``) and no GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from structured_dropout.backends.cuda.launch import compiler_options, read_source

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")
# Each source with the macros that backends/cuda/ compile it with; the tests hold them against
# what is launched.
_TILES = tuple(f"ROWS={rows}" for rows in (4, 8, 12, 16, 20))
_IN_BFLOAT16 = "OPERAND=bfloat16"
VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "ceilings.cu": [()],
    "layout.cu": [(), (_IN_BFLOAT16,)],
    "masked.cu": [(), (_IN_BFLOAT16,)],
    "products.cu": [(), *((tile,) for tile in _TILES)],
    "lstm.cu": [
        *((tile, threads) for tile in _TILES for threads in ("THREADS=128", "THREADS=256")),
        *((f"ROWS={rows}", "THREADS=256", _IN_BFLOAT16) for rows in (8, 16, 24, 32)),
    ],
}


class Usage(NamedTuple):
    """Of one kernel: registers a thread, bytes of static shared memory a block, and of spills a
    thread."""

    kernel: str
    registers: int
    shared: int
    spills: int


def compile_kernels(source: str, architecture: str, defines: tuple[str, ...] = ()) -> list[Usage]:
    """Compile a file of kernels/cuda for an architecture.

    Raises:
        RuntimeError: NVRTC is not installed, or the source does not compile.
    """
    options = [*compiler_options(defines), f"-arch={architecture}", "--ptxas-options=-v"]
    log = _compile(read_source(source), source, options)
    return [
        Usage(name, int(registers), int(shared or 0), int(stored) + int(loaded))
        for name, stored, loaded, registers, shared in re.findall(
            r"Function properties for (\w+)\s.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
            r".*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?",
            log,
            re.DOTALL,
        )
    ]


def why_not() -> str | None:
    """Why nothing can be compiled here, None if it can."""
    return None if _library() else "NVRTC is not installed: pip install nvidia-cuda-nvrtc"


def _library() -> Path | None:
    """The NVRTC of NVIDIA's wheels, which torch's and CuPy's CUDA builds use too."""
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    return next(
        (path for folder in folders for path in Path(folder).glob("*/lib/libnvrtc.so.*")), None
    )


@cache
def _nvrtc() -> ctypes.CDLL:
    library = _library()
    if library is None:
        raise RuntimeError(why_not())
    return ctypes.CDLL(str(library))


def _compile(text: str, name: str, options: list[str]) -> str:
    """The compiler's log."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), name.encode(), 0, None, None)
    try:
        flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), flags)
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode()
    if failed:
        raise RuntimeError(
            f"kernels/cuda/{name} does not compile with {' '.join(options)}:\n{text}"
        )
    return text


def main() -> None:
    table = Table(
        "source", "macros", "kernel", *(f"{a}: registers, shared, spills" for a in ARCHITECTURES)
    )
    for source, variants in VARIANTS.items():
        for defines in variants:
            usages = [
                compile_kernels(source, architecture, defines) for architecture in ARCHITECTURES
            ]
            for kernel in zip(*usages, strict=True):
                numbers = (f"{u.registers}, {u.shared}, {u.spills}" for u in kernel)
                table.add_row(source, " ".join(defines), kernel[0].kernel, *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
