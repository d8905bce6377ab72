"""The results as one page that needs nothing but a browser; scripts/dashboard.py --local writes it."""

from __future__ import annotations

import base64
import csv
import re
import statistics
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from scripts.report.results import PHASES, Group, Timing, groups
from scripts.tables import ABSENT, SPEEDUPS, Row, Table, explanation, spread, tables

FIGURES = ("figure1.png", "figure3.png", "benchmarks/speedup.png", "benchmarks/frontier.png")


def page(results: Path) -> str:
    """The whole page; what was not drawn is left out."""
    shown = tables(results)
    rows = [row for table in shown for row in table.rows]
    template = Template(Path(__file__).with_suffix(".html").read_text())
    return template.substitute(
        policies="".join(
            f"<option>{policy}</option>" for policy in dict.fromkeys(row.dropout for row in rows)
        ),
        tables="\n".join(_table(table) for table in shown),
        figures="\n".join(_figure(results / name) for name in FIGURES if (results / name).exists()),
        runs="\n".join(map(_runs, groups(results / "runs"))) or "<p>None yet.</p>",
        benchmarks="\n".join(
            _benchmark(path) for path in sorted((results / "benchmarks").rglob("*.csv"))
        ),
    )


def _table(table: Table) -> str:
    metrics = [name.capitalize() if name.islower() else name for name in table.metrics.values()]
    speedups = [f"{name[0].upper()}{name[1:]}, over dense" for name in SPEEDUPS.values()]
    headings = [
        "Model",
        "Policy",
        *metrics,
        "Seeds",
        *speedups,
        "Overall, over torch's LSTM",
        "Machine",
    ]
    head = "".join(
        f'<th scope="col"><button>{escape(heading)}</button></th>' for heading in headings
    )
    body = "\n".join(
        f'<tr data-policy="{row.dropout}">{"".join(_cells(table, row))}</tr>' for row in table.rows
    )
    title = f"Table {table.name[-1]}: {escape(table.title)}"
    note = re.sub("`(.*?)`", r"<code>\1</code>", escape(" ".join(explanation(table))))
    return (
        f'<h2>{title}</h2>\n<div class="wide"><table id="{table.name}"><thead><tr>{head}</tr></thead>\n'
        f'<tbody>\n{body}\n</tbody></table></div>\n<p class="note">{note}</p>'
    )


def _cells(table: Table, row: Row) -> Iterable[str]:
    notes = "".join(f'<span class="paper">{escape(note)}</span>' for note in row.notes)
    yield f'<td data-value="{escape(row.model)}">{escape(row.model)}{notes}</td>'
    yield f'<td data-value="{row.dropout}"><code>{row.dropout}</code></td>'
    run = _anchor(row.group) if row.group else ""
    for metric in table.metrics:
        values = row.values(metric)
        yield _number(
            statistics.mean(values) if values else None, spread(values), row.paper.get(metric), run
        )
    yield f'<td data-value="{row.seeds or ""}">{row.seeds or ABSENT}</td>'
    timed = _file_anchor(row.timing.path) if row.timing else ""
    for column in (*PHASES, "fused"):
        ours = row.speedup(column)
        yield _number(ours, ABSENT if ours is None else f"{ours:.2f}", row.paper.get(column), timed)
    machine = _machine(row.timing) if row.timing else ABSENT
    yield f'<td data-value="{escape(machine)}">{escape(machine)}</td>'


def _number(value: float | None, shown: str, paper: float | None, anchor: str) -> str:
    ours = f'<a href="#{anchor}">{shown}</a>' if value is not None else shown
    theirs = f'<span class="paper">{ABSENT if paper is None else f"{paper:.2f}"}</span>'
    return f'<td data-value="{"" if value is None else value}">{ours}{theirs}</td>'


def _machine(timing: Timing) -> str:
    return f"{timing.machine}, {timing.backend}"


def _anchor(group: Group) -> str:
    return f"run-{group.task}-{group.dropout}-{group.runs[0].path.parent.name}"


def _file_anchor(path: Path) -> str:
    return f"benchmark-{path.stem}"


def _runs(group: Group) -> str:
    commands = "\n".join(run.summary["command"] for run in group.runs)
    facts = "\n".join(
        f"seed {run.summary['seed']}: commit {run.summary['commit']}, {run.summary['machine'].get('cpu', '')}, "
        f"backend {run.summary['backend']}, torch {run.summary['versions'].get('torch', '')}"
        for run in group.runs
    )
    folder = group.runs[0].path.parent
    config = (folder / "config.yaml").read_text()
    return (
        f'<details id="{_anchor(group)}"><summary>{group.task} {group.dropout}: {folder.name}</summary>'
        f"<pre>{escape(commands)}</pre><pre>{escape(facts)}</pre><pre>{escape(config)}</pre></details>"
    )


def _benchmark(path: Path) -> str:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    made = {
        f"{row['device']}, {row['threads']} threads, {row['date']}, commit {row['commit']}"
        for row in rows
    }
    facts = "\n".join(sorted(made))
    return (
        f'<details id="{_file_anchor(path)}"><summary>{escape(path.name)}</summary><pre>{escape(facts)}\n\n'
        f"{escape(path.read_text())}</pre></details>"
    )


def _figure(path: Path) -> str:
    image = base64.b64encode(path.read_bytes()).decode()
    return f'<p class="figure"><img src="data:image/png;base64,{image}" alt="{path.stem}"></p>'
