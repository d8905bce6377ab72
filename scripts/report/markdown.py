"""The few shapes of Markdown that the reports are made of."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 100


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def commands(lines: Iterable[str]) -> str:
    """Commands to copy, each on as many lines as it needs."""
    return "\n".join(["```", *(" \\\n    ".join(_wrapped(line)) for line in lines), "```"])


def _wrapped(command: str) -> list[str]:
    return textwrap.wrap(command, WIDTH - 4, break_long_words=False, break_on_hyphens=False)
