"""What a reader needs to trust a number: the commit, the machine, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from structured_dropout.cpuinfo import cpuinfo
from structured_dropout.experiment import ranks

_PACKAGES = (
    "torch",
    "numpy",
    "hydra-core",
    "omegaconf",
    "OpenNMT-py",
    "pytorch-crf",
    "seqeval",
    "sacrebleu",
    "cupy-cuda13x",
)


def commit() -> str:
    """The checkout's commit, with ``+changes`` where tracked code differs from it; ``unknown``
    outside a checkout."""
    root = Path(__file__).resolve().parents[3]

    def git(*args: str) -> str:
        return subprocess.run(
            ("git", *args), cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:  # installed inside another repository
            return "unknown"
        # New results are no change to the code that makes them.
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
        return git("rev-parse", "HEAD") + ("+changes" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(device: torch.device) -> dict[str, str | int]:
    """The processor, the threads torch uses, the GPU if it is one, and the processes if several
    train one model."""
    facts: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "simd": _simd(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    if ranks.size() > 1:
        facts["processes"] = ranks.size()
    return facts


def versions() -> dict[str, str]:
    """Python's version and those of the packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    """With family and model where a virtual machine's name has no number: they tell which it is."""
    name = cpuinfo("model name") or platform.processor() or platform.machine()
    family = cpuinfo("cpu family")
    if not family or any(character.isdigit() for character in name):
        return name
    return f"{name} (family {family}, model {cpuinfo('model')})"


def _simd() -> str:
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{capability} AMX" if "amx_bf16" in cpuinfo("flags").split() else capability
