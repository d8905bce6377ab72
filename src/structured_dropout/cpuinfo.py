"""What Linux says of the processor."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def cpuinfo(key: str) -> str:
    """Of the first processor in /proc/cpuinfo; empty where nothing is said."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
