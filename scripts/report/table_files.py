"""The paper's tables as files: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

from scripts.report.benchmarks import PHASES
from scripts.report.markdown import grid
from scripts.report.runs import baseline
from scripts.report.tables import ABSENT, Row, Table, number, spread

SPEEDUPS = {
    "fp": "FP, dense",
    "bp": "BP, dense",
    "wg": "WG, dense",
    "iteration": "iteration, dense",
    "fused": "iteration, torch's LSTM",
    "fused_fp32": "iteration, torch's LSTM in fp32",
}
_EXPONENTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def markdown(table: Table) -> str:
    """A table for people: ours, then the paper's after a slash."""
    headings = ["model", "`task` `dropout`", "precision", *table.metrics.values()]
    headings += ["epochs", "seeds", *SPEEDUPS.values(), "machine"]
    footnotes: dict[str, int] = {}
    rows = []
    for row in table.rows:
        marks = [footnotes.setdefault(note, len(footnotes) + 1) for note in row.notes]
        mark = " ".join(f"{number}".translate(_EXPONENTS) for number in marks)
        rows.append([f"{row.model} {mark}".strip(), *cells(table, row)])
    notes = [f"{str(mark).translate(_EXPONENTS)} {note}" for note, mark in footnotes.items()]
    paragraphs = [
        f"# Table {table.number}: {table.title}",
        "Each cell: ours / the paper's. Metrics are the mean ± the standard deviation over seeds.",
        grid(headings, rows),
        *notes,
        "\n".join(explanation(table)),
        "Made by `python scripts/tables.py` from results/runs and results/benchmarks; the paper's\n"
        "numbers are in scripts/report/paper.yaml.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def cells(table: Table, row: Row) -> list[str]:
    """All of a row but the model, as a reader sees them."""
    machine = f"{row.timing.machine}, `{row.timing.backend}`" if row.timing else ABSENT
    return [
        f"`{row.task}` `{row.dropout}`",
        row.precision,
        *(f"{spread(row.values(m))} / {number(row.paper.get(m))}" for m in table.metrics),
        str(row.epochs or ABSENT),
        str(row.seeds or ABSENT),
        *(f"{number(row.speedup(p))} / {number(row.paper.get(p))}" for p in PHASES),
        number(row.speedup("fused")),
        number(row.speedup("fused_fp32")),
        machine,
    ]


def explanation(table: Table) -> list[str]:
    """What the columns of speed-ups are measured against."""
    policies = ", ".join(
        f"`{task}` `{baseline(task)}`" for task in dict.fromkeys(row.task for row in table.rows)
    )
    return [
        f"Speed-ups are over the baseline policy ({policies})",
        "on the same machine: under `dense` in the row's precision, phase by phase and over a",
        "whole training iteration, as the paper counts (on a TITAN V); and over torch's own LSTM",
        "on masked inputs (`fused`), in the row's precision and in fp32, which the paper does not",
        "give.",
        f"{ABSENT}: not run, or not in the paper.",
    ]


def comma_separated(table: Table) -> str:
    """The same for programs: ours and the paper's in columns of their own, empty where there is
    nothing."""
    records = [_record(table, row) for row in table.rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _record(table: Table, row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {
        "model": row.model,
        "task": row.task,
        "dropout": row.dropout,
        "precision": row.precision,
        "epochs": row.epochs or "",
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
    timing = row.timing
    record["speedup_vs_fused"] = timing.vs_fused if timing else ""
    record["speedup_vs_fused_fp32"] = timing.vs_fused_fp32 if timing else ""
    record["machine"] = timing.machine if timing else ""
    record["backend"] = timing.backend if timing else ""
    record["notes"] = "; ".join(row.notes)
    return record
