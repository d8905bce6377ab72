"""Runs kernels/cuda on the CPU, with a launcher that takes the place of a GPU's.

The very same sources are compiled by g++; the threads of a launch are fibers (runtime.cpp), and
each access to memory is checked (memory.cpp). A data race, a divergent barrier, a deadlock, an
access outside a tensor, a read of shared memory that nobody wrote: each is a ``LaunchError`` that
names the kernel's line.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import itertools
import os
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from structured_dropout.backends.cuda.launch import Grid, read_source

HERE = Path(__file__).parent
_FLAGS = [
    "-std=c++17",
    "-O2",
    "-gdwarf-4",
    "-g1",
    "-fPIC",
    "-U_FORTIFY_SOURCE",
    "-ffp-contract=off",
]
# Calls to the functions of memory.cpp before each access, volatile ones apart.
_CHECKED = ["-fsanitize=thread,alignment", "-fno-sanitize-recover=alignment"]
_CHECKED += [
    "--param",
    "tsan-distinguish-volatile=1",
    "--param",
    "tsan-instrument-func-entry-exit=0",
]
_UNKNOWN = ["-Wno-unknown-pragmas", "-Wno-attributes", "-Wno-tsan"]  # what only nvcc knows
_KINDS = {"f": torch.float32, "i": torch.int32, "l": torch.int64, "b": torch.bfloat16}

Dim3 = tuple[int, int, int]
Arguments = tuple[Tensor | int | float | None, ...]


class LaunchError(RuntimeError):
    """A kernel did what it must not do."""


class _Buffer(ctypes.Structure):
    _fields_ = [("host", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


class _Value(ctypes.Union):
    _fields_ = [
        ("tensor", ctypes.c_void_p),
        ("real", ctypes.c_float),
        ("integer", ctypes.c_int32),
    ]


class _Argument(ctypes.Structure):
    """As in kernels/cuda/launch.h."""

    _fields_ = [("kind", ctypes.c_char), ("bytes", ctypes.c_int64), ("value", _Value)]

    def given(self) -> Tensor | int | float | None:
        if self.kind == b"I":
            return self.value.integer
        if self.kind == b"F":
            return self.value.real
        dtype = _KINDS[self.kind.decode()]
        if not self.value.tensor:
            return None
        memory = (ctypes.c_char * self.bytes).from_address(self.value.tensor)
        return torch.frombuffer(memory, dtype=dtype) if self.bytes else torch.empty(0, dtype=dtype)


class _Launch(ctypes.Structure):
    """As in kernels/cuda/launch.h."""

    _fields_ = [
        ("function", ctypes.c_int64),
        ("cooperative", ctypes.c_bool),
        ("device", ctypes.c_int64),
        ("stream", ctypes.c_int64),
        ("grid", ctypes.c_int64 * 3),
        ("block", ctypes.c_int64 * 3),
        ("shared_bytes", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("arguments", ctypes.POINTER(_Argument)),
        ("error", ctypes.c_char * 1024),
    ]


_Entry = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.POINTER(_Launch))


class Line(NamedTuple):
    file: str
    line: int


class ShimLauncher:
    """A launcher for CPU tensors (``cuda_launch.Launcher``).

    Args:
        multiprocessors, shared_limit: of the device that it plays; small, so that small tests have
            several blocks. A multiprocessor takes one block of a cooperative launch.
        folder: where the kernels are instead of kernels/cuda.
    """

    def __init__(
        self,
        multiprocessors: int = 3,
        shared_limit: int = 48 << 10,
        folder: Path | None = None,
    ) -> None:
        self._multiprocessors, self._shared_limit = multiprocessors, shared_limit
        self._folder = folder
        self._seeds = itertools.count()  # each launch has an order of threads of its own
        self.without: Line | None = None  # a barrier that the kernels shall pass by
        self.launched: set[tuple[str, str, tuple[str, ...]]] = (
            set()
        )  # source, name and defines of each kernel so far
        self._compiled: list[tuple[str, str, tuple[str, ...]]] = []
        self._entry = _Entry(self._queue)
        self.address = ctypes.cast(self._entry, ctypes.c_void_p).value

    def compile(
        self,
        device: torch.device,
        source: str,
        name: str,
        defines: tuple[str, ...],
        cooperative: bool,
    ) -> int:
        self._compiled.append((source, name, defines))
        return len(self._compiled) - 1

    def blocks_at_once(self, device: torch.device, function: int, grid: Grid) -> int:
        return self._multiprocessors

    def stream(self, device: torch.device) -> int:
        return 0

    def _queue(self, pointer: ctypes._Pointer[_Launch]) -> bool:
        launch = pointer.contents
        source, name, defines = self._compiled[launch.function]
        try:
            self.launch(
                source,
                name,
                tuple(launch.grid),
                tuple(launch.block),
                launch.shared_bytes,
                tuple(launch.arguments[i].given() for i in range(launch.count)),
                launch.cooperative,
                defines,
            )
        except Exception as error:  # nothing may pass through C
            launch.error = f"{type(error).__name__}: {error}".encode()[:1023]
            return False
        return True

    def supports(self, device: torch.device) -> str | None:
        return None if device.type == "cpu" else "the tests run its kernels on the CPU"

    def multiprocessors(self, device: torch.device) -> int:
        return self._multiprocessors

    def shared_limit(self, device: torch.device) -> int:
        return self._shared_limit

    def multiplies_bfloat16(self, device: torch.device) -> bool:
        return True

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
        where = f"{source}: {name}"
        if not all(n >= 1 for n in (*grid, *block)) or block[0] * block[1] * block[2] > 1024:
            raise LaunchError(f"{where}: grid {grid} of blocks {block} is not possible")
        if grid[0] >= 2**31 or grid[1] >= 2**16 or grid[2] >= 2**16:
            raise LaunchError(f"{where}: grid {grid} is larger than a device takes")
        if shared_bytes > self._shared_limit:
            raise LaunchError(
                f"{where}: {shared_bytes} bytes of shared memory, "
                f"the device has {self._shared_limit}"
            )
        blocks = grid[0] * grid[1] * grid[2]
        if cooperative and blocks > self._multiprocessors:
            raise LaunchError(
                f"{where}: {blocks} blocks of a cooperative launch cannot all run at once"
            )
        library = _compile(read_source(source, self._folder), source, defines)
        kinds = _kinds(library, name)
        values = _checked(args, kinds, where)
        tensors = [value for value in args if isinstance(value, Tensor)]
        buffers = _buffers(tensors)
        self.launched.add((source, name, defines))
        error = library.shim_launch(
            ctypes.cast(getattr(library, f"shim_call_{name}"), ctypes.c_void_p),
            (ctypes.c_uint * 3)(*grid),
            (ctypes.c_uint * 3)(*block),
            shared_bytes,
            cooperative,
            (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values)),
            bytes(len(kind) == 2 for kind in kinds),
            len(values),
            (_Buffer * len(buffers))(*buffers),
            len(buffers),
            2 if any(kind[0] == "b" for kind in kinds) else 4,
            next(self._seeds),
            self.without and self.without.file.encode(),
            self.without.line if self.without else 0,
        )
        if error is not None:
            raise LaunchError(f"{where}: {_resolve(error.decode(), library._name)}")


def barriers(source: str, folder: Path | None = None) -> list[Line]:
    """The lines of a source, and of what it includes, that hold a barrier of a block."""
    found, file, line = [], source, 0
    for text in read_source(source, folder).splitlines():
        if marker := re.match(r'#line (\d+) "(.*)"', text):
            line, file = int(marker[1]) - 1, marker[2]
            continue
        line += 1
        if "__syncthreads" in text.split("//")[0]:
            found.append(Line(file, line))
    return found


def _checked(args: Arguments, kinds: list[str], where: str) -> list[ctypes._SimpleCData]:
    """The arguments as the kernel's parameters; on a device a wrong one would be read as whatever
    its bytes are."""
    if len(args) != len(kinds):
        raise TypeError(f"{where} takes {len(kinds)} arguments, not {len(args)}")
    values: list[ctypes._SimpleCData] = []
    for position, (arg, kind) in enumerate(zip(args, kinds, strict=True)):
        fits = {
            "i": isinstance(arg, int) and -(2**31) <= arg < 2**31,
            "f": isinstance(arg, float),
            "p": arg is None
            or (
                isinstance(arg, Tensor) and arg.dtype == _KINDS.get(kind[0]) and arg.is_contiguous()
            ),
        }["p" if len(kind) == 2 else kind]
        if not fits:
            given = (
                f"a {arg.dtype} tensor of strides {arg.stride()}"
                if isinstance(arg, Tensor)
                else repr(arg)
            )
            raise TypeError(
                f"{where}: argument {position} must fit a parameter of kind {kind}, it is {given}"
            )
        if len(kind) == 2:
            values.append(ctypes.c_void_p(None if arg is None else arg.data_ptr()))
        else:
            values.append(ctypes.c_int(arg) if kind == "i" else ctypes.c_float(arg))
    return values


def _buffers(tensors: list[Tensor]) -> list[tuple[int, int]]:
    """Address and size of what the tensors cover; those that overlap, or touch within one storage,
    make one."""
    spans = sorted(
        (t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors if t.numel()
    )
    merged: list[tuple[int, int]] = []
    for begin, end in spans:
        if merged and begin < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return [(begin, end - begin) for begin, end in merged]


def _kinds(library: ctypes.PyDLL, name: str) -> list[str]:
    function = getattr(library, f"shim_kinds_{name}")
    function.restype = ctypes.c_char_p
    return function().decode().split()


def _resolve(message: str, library: str) -> str:
    """Replaces the places in the library by the kernel's files and lines."""

    def line(place: re.Match[str]) -> str:
        frames = subprocess.check_output(
            ["addr2line", "-i", "-e", library, place[1]], text=True
        ).splitlines()
        lines = [Path(frame.split(" ")[0]).name for frame in frames]
        return next(
            (line for line in lines if not line.startswith("device.h")), lines[0]
        )  # where CUDA's word stands

    return re.sub(r"@([0-9a-f]+)", line, message)


@cache
def _compile(text: str, source: str, defines: tuple[str, ...]) -> ctypes.PyDLL:
    flags = [*_FLAGS, *_CHECKED, *_UNKNOWN, *(f"-D{define}" for define in defines)]
    parts = [text, *flags, *((HERE / name).read_text() for name in ("device.h", "runtime.h"))]
    library = _folder() / f"{Path(source).stem}-{_digest(*parts, str(_runtime()))}.so"
    with open(library.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests in another process may want the same
        if not library.exists():
            _build(library, text, flags)
    loaded = ctypes.PyDLL(
        str(library)
    )  # which keeps Python's lock: the fibers share one stack of states
    loaded.shim_launch.restype = ctypes.c_char_p
    return loaded


def _build(library: Path, text: str, flags: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        unit, compiled, linked = (
            str(Path(folder) / name) for name in ("kernel.cpp", "kernel.o", "kernel.so")
        )
        Path(unit).write_text(_unit(text))
        _run("g++", *flags, "-I", str(HERE), unit, "-o", compiled, "-c", cwd=folder)
        _run("g++", "-shared", compiled, str(_runtime()), "-o", linked, "-ldl")
        os.replace(linked, library)


def _unit(text: str) -> str:
    """The kernels and a way to call each by an array of arguments.

    All is in an unnamed namespace, so that no static of a template is merged with another one's:
    their section of shared memory allows that to none.
    """
    text = re.sub(
        r"extern __shared__ +(?:__align__\(\d+\) +)?(\w+) +(\w+) *\[ *\];",
        r"\1* const \2 = reinterpret_cast<\1*>(shim_dynamic_shared);",
        text,
    )
    names = re.findall(r"__global__\s+void\s+(?:__launch_bounds__\([^()]*\)\s*)?(\w+)\s*\(", text)
    calls = "\n".join(f"SHIM_KERNEL({name})" for name in names)
    return f'#include "device.h"\nnamespace {{\n{text}\n}}\n#line 1 "calls"\n{calls}\n'


@cache
def _runtime() -> Path:
    """The scheduler and the memory in one object file, without checks of their own accesses."""
    sources = [HERE / "runtime.cpp", HERE / "memory.cpp"]
    headers = [HERE / "runtime.h", HERE / "machine.h"]
    built = (
        _folder()
        / f"runtime-{_digest(*_FLAGS, *(path.read_text() for path in [*sources, *headers]))}.o"
    )
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            for path in sources:
                _run("g++", *_FLAGS, "-c", str(path), "-o", str(Path(folder) / f"{path.stem}.o"))
            objects = [str(Path(folder) / f"{path.stem}.o") for path in sources]
            _run("ld", "-r", *objects, "-o", str(Path(folder) / "all.o"))
            os.replace(Path(folder) / "all.o", built)
    return built


def _run(*command: str, cwd: str | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the kernels do not compile for the CPU:\n{done.stderr}")


def _folder() -> Path:
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    folder = Path(root) / "structured_dropout_cuda_shim"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
