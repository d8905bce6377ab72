"""Tables 1-3 from what was run: python scripts/tables.py writes results/table1.md and .csv, table2,
table3.

Ours stand beside the paper's (scripts/report/paper.yaml). A row holds the finished runs of one
configuration, whatever their seeds; only the recipe's own configuration, on the complete data,
makes a row of the paper. The same recipe trained shorter, or on other data, makes a marked row of
its own; other settings are other experiments and make none. ``--check`` writes nothing and fails
when the committed tables differ.
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.report.results import PHASES, Group, Timing, baseline, groups, timings  # noqa: E402

RESULTS = Path("results")
NAMES = ("table1", "table2", "table3")
SPEEDUPS = {"fp": "FP", "bp": "BP", "wg": "WG", "iteration": "overall"}
ABSENT = "—"
_EXPONENTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Row(NamedTuple):
    """One policy of one task, as one configuration gave it, on one machine."""

    model: str
    task: str
    dropout: str
    paper: dict[str, Any]  # the paper's numbers by column; empty where it has no such row
    group: Group | None
    timing: Timing | None
    notes: list[str]

    @property
    def seeds(self) -> int:
        return len({run.summary["seed"] for run in self.group.runs}) if self.group else 0

    def values(self, metric: str) -> list[float]:
        return [run.metrics[metric] for run in self.group.runs] if self.group else []

    def speedup(self, column: str) -> float | None:
        if self.timing is None:
            return None
        return self.timing.vs_fused if column == "fused" else self.timing.vs_dense.get(column)


class Table(NamedTuple):
    name: str
    title: str
    metrics: dict[str, str]
    rows: list[Row]


def write(results: Path = RESULTS) -> None:
    """Write all tables anew."""
    for path, text in texts(results).items():
        path.write_text(text)
        print(f"written: {path}")


def check(results: Path = RESULTS) -> None:
    """Exit with an error if a table is not what the files give."""
    stale = [
        str(path)
        for path, text in texts(results).items()
        if not path.exists() or path.read_text() != text
    ]
    if stale:
        sys.exit(
            f"error: {', '.join(stale)}: not what results/ gives; run python scripts/tables.py"
        )


def texts(results: Path) -> dict[Path, str]:
    """What each file should hold."""
    found = {}
    for table in tables(results):
        found[results / f"{table.name}.md"] = markdown(table)
        found[results / f"{table.name}.csv"] = comma_separated(table)
    return found


def tables(results: Path) -> list[Table]:
    """The paper's tables, filled with what was run."""
    paper: dict[str, Any] = OmegaConf.to_container(
        OmegaConf.load(ROOT / "scripts/report/paper.yaml")
    )  # type: ignore[assignment]
    all_groups, all_timings = groups(results / "runs"), timings(results / "benchmarks")
    return [
        Table(
            name,
            paper[name]["title"],
            paper[name]["metrics"],
            list(_rows(paper[name], all_groups, all_timings)),
        )
        for name in NAMES
    ]


def _rows(
    paper: dict[str, Any], all_groups: list[Group], all_timings: list[Timing]
) -> Iterator[Row]:
    printed = {(row["task"], row["dropout"]): row for row in paper["rows"]}
    for task in [*dict.fromkeys(row["task"] for row in paper["rows"]), *paper["also"]]:
        ran = {group.dropout for group in all_groups if group.task == task and _belongs(group)}
        timed = {timing.dropout for timing in all_timings if timing.task == task}
        known = [dropout for name, dropout in printed if name == task]
        for dropout in [*known, *sorted((ran | timed) - set(known), key=_paper_order)]:
            row = printed.get((task, dropout), {})
            numbers = {key: row[key] for key in paper["metrics"] if key in row}
            numbers |= dict(zip(PHASES, row.get("speedup", []), strict=False))
            model = row.get("model") or f"{task}, {dropout}" + (
                ": baseline" if dropout == baseline(task) else ""
            )
            own = [group for group in all_groups if (group.task, group.dropout) == (task, dropout)]
            recipe = next((group for group in own if not group.differences), None)
            times = [
                timing for timing in all_timings if (timing.task, timing.dropout) == (task, dropout)
            ]
            if row or recipe or times:
                yield Row(
                    model,
                    task,
                    dropout,
                    numbers,
                    recipe,
                    times[0] if times else None,
                    _notes(recipe),
                )
            for timing in times[1:]:  # further machines
                yield Row(model, task, dropout, numbers, None, timing, [])
            for group in own:
                if group.shortened:
                    yield Row(model, task, dropout, numbers, group, None, _notes(group))


def _belongs(group: Group) -> bool:
    return not group.differences or group.shortened


def _paper_order(dropout: str) -> tuple[int, str]:
    order = ("nr_random", "nr_st", "nr_rh_st")
    return (order.index(dropout) if dropout in order else len(order), dropout)


def _notes(group: Group | None) -> list[str]:
    """What of this configuration is not the recipe's."""
    return [f"{key}: {value}" for key, value in group.differences] if group else []


def markdown(table: Table) -> str:
    """A table for people: ours, then the paper's after a slash."""
    headings = ["model", "`task` `dropout`", *(table.metrics[m] for m in table.metrics), "seeds"]
    headings += [
        *(f"{name}, dense" for name in SPEEDUPS.values()),
        "overall, torch's LSTM",
        "machine",
    ]
    lines = [
        f"# {table.name.capitalize()[:5]} {table.name[-1]}: {table.title}",
        "",
        "Each cell: ours / the paper's. Metrics are the mean ± the standard deviation over seeds.",
        "",
        "| " + " | ".join(headings) + " |",
        "|" + " --- |" * len(headings),
    ]
    footnotes: dict[str, int] = {}
    for row in table.rows:
        marks = [footnotes.setdefault(note, len(footnotes) + 1) for note in row.notes]
        mark = " ".join(f"{number}".translate(_EXPONENTS) for number in marks)
        lines.append("| " + " | ".join([f"{row.model} {mark}".strip(), *cells(table, row)]) + " |")
    lines += [""]
    for note, number in footnotes.items():
        lines += [f"{str(number).translate(_EXPONENTS)} {note}", ""]
    lines += [
        *explanation(table),
        "",
        "Made by `python scripts/tables.py` from results/runs and results/benchmarks; the paper's numbers are in",
        "scripts/report/paper.yaml.",
        "",
    ]
    return "\n".join(lines)


def cells(table: Table, row: Row) -> list[str]:
    """All of a row but the model, as a reader sees them."""
    metrics = [f"{spread(row.values(m))} / {_number(row.paper.get(m))}" for m in table.metrics]
    phases = [f"{_number(row.speedup(p))} / {_number(row.paper.get(p))}" for p in PHASES]
    machine = f"{row.timing.machine}, `{row.timing.backend}`" if row.timing else ABSENT
    return [
        f"`{row.task}` `{row.dropout}`",
        *metrics,
        str(row.seeds or ABSENT),
        *phases,
        _number(row.speedup("fused")),
        machine,
    ]


def explanation(table: Table) -> list[str]:
    """What the columns of speed-ups are measured against."""
    policies = ", ".join(
        f"`{task}` `{baseline(task)}`" for task in dict.fromkeys(row.task for row in table.rows)
    )
    return [
        f"Speed-ups are over the baseline policy ({policies}) on the same machine:",
        "under `dense`, phase by phase and over a whole training iteration, as the paper counts (on a TITAN V);",
        "and over torch's own LSTM on masked inputs (`fused`), which the paper does not give.",
        f"{ABSENT}: not run, or not in the paper.",
    ]


def spread(values: list[float]) -> str:
    """Mean ± standard deviation; the number alone where there is one."""
    if not values:
        return ABSENT
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def comma_separated(table: Table) -> str:
    """The same for programs: ours and the paper's in columns of their own, empty where there is nothing."""
    buffer = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in table.rows:
        record: dict[str, Any] = {
            "model": row.model,
            "task": row.task,
            "dropout": row.dropout,
            "seeds": row.seeds,
        }
        for metric in table.metrics:
            values = row.values(metric)
            record[metric] = round(statistics.mean(values), 4) if values else ""
            record[f"{metric}_sd"] = round(statistics.stdev(values), 4) if len(values) > 1 else ""
            record[f"{metric}_paper"] = row.paper.get(metric, "")
        for phase in PHASES:
            ours = row.speedup(phase)
            record[f"speedup_{phase}"] = "" if ours is None else ours
            record[f"speedup_{phase}_paper"] = row.paper.get(phase, "")
        record["speedup_vs_fused"] = row.timing.vs_fused if row.timing else ""
        record["machine"] = row.timing.machine if row.timing else ""
        record["backend"] = row.timing.backend if row.timing else ""
        record["notes"] = "; ".join(row.notes)
        if writer is None:
            writer = csv.DictWriter(buffer, list(record), lineterminator="\n")
            writer.writeheader()
        writer.writerow(record)
    return buffer.getvalue()


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the tables differ"
    )
    if parser.parse_args().check:
        check()
    else:
        write()


if __name__ == "__main__":
    main()
