"""The few shapes of Markdown that the reports are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def commands(lines: Iterable[str]) -> str:
    """Commands to copy."""
    return "\n".join(["```", *lines, "```"])
