"""Tables 1-3 of the paper, filled with what was run.

Ours stand beside the paper's (``paper.yaml``). A row holds the finished runs of one configuration,
one a seed; only the recipe's own configuration, on the complete data, makes a row of the paper. The
same recipe trained shorter, on other data or in another precision makes a marked row of its own;
other settings are other experiments and make none.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from scripts.compose import ROOT
from scripts.report.benchmarks import PHASES, Timing, recipes
from scripts.report.runs import Group, baseline

NAMES = ("table1", "table2", "table3")
POLICIES = ("nr_random", "nr_st", "nr_rh_st")  # the paper's order
ABSENT = "—"


class Row(NamedTuple):
    """One policy of one task, as one configuration gave it, on one machine."""

    model: str
    task: str
    dropout: str
    precision: str
    paper: dict[str, Any]  # the paper's numbers by column; empty where it has no such row
    group: Group | None
    timing: Timing | None

    @property
    def seeds(self) -> int:
        return len(self.group.results) if self.group else 0

    @property
    def epochs(self) -> int | None:
        return self.group.epochs if self.group else None

    @property
    def notes(self) -> list[str]:
        """What of this configuration is not the recipe's."""
        return self.group.notes if self.group else []

    def values(self, metric: str) -> list[float]:
        return self.group.values(metric) if self.group else []

    def speedup(self, column: str) -> float | None:
        """Over dense products by phase; under ``fused`` and ``fused_fp32`` over torch's LSTM."""
        if self.timing is None:
            return None
        whole = {"fused": self.timing.vs_fused, "fused_fp32": self.timing.vs_fused_fp32}
        return whole.get(column) or self.timing.vs_dense.get(column)


class Table(NamedTuple):
    """A table of the paper; ``metrics`` are its columns of quality with their headings."""

    name: str
    title: str
    metrics: dict[str, str]
    rows: list[Row]

    @property
    def number(self) -> str:
        return self.name[-1]


def paper() -> dict[str, Any]:
    """The paper's tables, as printed."""
    content = OmegaConf.to_container(OmegaConf.load(ROOT / "scripts/report/paper.yaml"))
    assert isinstance(content, dict)
    return {str(name): table for name, table in content.items()}


def tables(ran: list[Group], timed: list[Timing]) -> list[Table]:
    """The paper's tables, filled with what was run and timed."""
    timed = recipes(timed)
    return [
        Table(name, table["title"], table["metrics"], list(_rows(table, ran, timed)))
        for name, table in paper().items()
    ]


def _rows(printed: dict[str, Any], ran: list[Group], timed: list[Timing]) -> Iterator[Row]:
    for task in [*dict.fromkeys(row["task"] for row in printed["rows"]), *printed["also"]]:
        by_dropout = {row["dropout"]: row for row in printed["rows"] if row["task"] == task}
        own_groups = [group for group in ran if group.task == task and _belongs(group)]
        own_timings = [timing for timing in timed if timing.task == task]
        ours = {g.dropout for g in own_groups} | {t.dropout for t in own_timings}
        further = ours - by_dropout.keys()
        for dropout in [*by_dropout, *sorted(further, key=policy_order)]:
            row = by_dropout.get(dropout, {})
            yield from _policy_rows(
                row.get("model") or _model(task, dropout),
                task,
                dropout,
                _numbers(row, printed["metrics"]),
                [group for group in own_groups if group.dropout == dropout],
                [timing for timing in own_timings if timing.dropout == dropout],
            )


def _policy_rows(
    model: str,
    task: str,
    dropout: str,
    numbers: dict[str, Any],
    ran: list[Group],
    timed: list[Timing],
) -> Iterator[Row]:
    """The recipe's row, in each precision and on each machine; then the shorter trainings."""
    precisions = {g.precision for g in ran} | {t.precision for t in timed}
    for precision in ("fp32", *sorted(precisions - {"fp32"})):
        own = [group for group in ran if group.precision == precision]
        recipe = next((group for group in own if not group.differences), None)
        machines = [timing for timing in timed if timing.precision == precision]
        if recipe or machines or (numbers and precision == "fp32"):
            first = machines[0] if machines else None
            yield Row(model, task, dropout, precision, numbers, recipe, first)
        for timing in machines[1:]:
            yield Row(model, task, dropout, precision, numbers, None, timing)
        for group in own:
            if group.shortened:
                yield Row(model, task, dropout, precision, numbers, group, None)


def _belongs(group: Group) -> bool:
    return not group.differences or group.shortened


def _model(task: str, dropout: str) -> str:
    return f"{task}, {dropout}" + (": baseline" if dropout == baseline(task) else "")


def _numbers(row: dict[str, Any], metrics: dict[str, str]) -> dict[str, Any]:
    """The paper's numbers of a row by column."""
    numbers = {key: row[key] for key in metrics if key in row}
    return numbers | dict(zip(PHASES, row.get("speedup", []), strict=False))


def policy_order(dropout: str) -> tuple[int, str]:
    """Sorts the paper's policies first, then the others by name."""
    return (POLICIES.index(dropout) if dropout in POLICIES else len(POLICIES), dropout)


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; the number alone where there is one."""
    if not values:
        return ABSENT
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def number(value: float | None) -> str:
    """Two digits after the point, or a dash."""
    return ABSENT if value is None else f"{value:.2f}"
