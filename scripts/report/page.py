"""The results as one page that needs nothing but a browser."""

from __future__ import annotations

import base64
import re
import statistics
from collections.abc import Iterator
from html import escape
from pathlib import Path
from string import Template

from scripts.report import summaries
from scripts.report.benchmarks import by_machine, read
from scripts.report.documents import gather
from scripts.report.runs import Group
from scripts.report.summaries import Summary
from scripts.report.table_files import SPEEDUPS, explanation
from scripts.report.tables import ABSENT, Row, Table, number, spread

FIGURES = (
    *("figure1.png", "figure3.png"),
    *("benchmarks/speedup.png", "benchmarks/frontier.png", "benchmarks/rates.png"),
)


def page(root: Path) -> str:
    """The whole page of ``root/results``; a figure that was not drawn is left out.

    Raises:
        UsageError: a run's summary is damaged; names it.
    """
    results = root / "results"
    _, shown, ran, timed = gather(root)
    files = sorted((results / "benchmarks").rglob("*.csv"))
    policies = dict.fromkeys(row.dropout for table in shown for row in table.rows)
    template = Template(Path(__file__).with_suffix(".html").read_text())
    return template.substitute(
        speed="\n".join(_summary(summaries.speed(own, shown)) for own in by_machine(timed)),
        quality=_summary(summaries.quality(ran, shown)),
        policies="".join(f"<option>{policy}</option>" for policy in policies),
        tables="\n".join(map(_table, shown)),
        figures="\n".join(_figure(results / name) for name in FIGURES if (results / name).exists()),
        runs="\n".join(map(_group, ran)) or "<p>None yet.</p>",
        benchmarks="\n".join(map(_benchmark, files)),
    )


def _summary(summary: Summary) -> str:
    head = "".join(f'<th scope="col">{_inline(heading)}</th>' for heading in summary.headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{_inline(cell)}</td>' for cell in row)}</tr>" for row in summary.rows
    )
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
        f'<p class="note">{_inline(summary.note)}</p>'
    )


def _inline(text: str) -> str:
    """Markdown's code marks as HTML."""
    return re.sub("`(.*?)`", r"<code>\1</code>", escape(text))


def _table(table: Table) -> str:
    headings = ["Model", "Policy", *map(_capital, table.metrics.values()), "Precision"]
    headings += ["Epochs", "Seeds", *map(_capital, SPEEDUPS.values()), "Machine"]
    head = "".join(
        f'<th scope="col"><button>{escape(heading)}</button></th>' for heading in headings
    )
    body = "\n".join(
        f'<tr data-policy="{row.dropout}">{"".join(_cells(table, row))}</tr>' for row in table.rows
    )
    return (
        f"<h2>Table {table.number}: {escape(table.title)}</h2>\n"
        f'<div class="wide"><table id="{table.name}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>\n"
        f'<p class="note">{_inline(" ".join(explanation(table)))}</p>'
    )


def _capital(heading: str) -> str:
    return heading[0].upper() + heading[1:]


def _cells(table: Table, row: Row) -> Iterator[str]:
    notes = "".join(f'<span class="paper">{escape(note)}</span>' for note in row.notes)
    yield f'<td data-value="{escape(row.model)}">{escape(row.model)}{notes}</td>'
    yield _plain(row.dropout)
    run = _anchor(row.group) if row.group else ""
    for metric in table.metrics:
        values = row.values(metric)
        mean = statistics.mean(values) if values else None
        yield _number(mean, spread(values), row.paper.get(metric), run)
    yield _plain(row.precision)
    yield _plain(row.epochs or "")
    yield _plain(row.seeds or "")
    timed = _file_anchor(row.timing.path) if row.timing else ""
    for column in SPEEDUPS:
        ours = row.speedup(column)
        yield _number(ours, number(ours), row.paper.get(column), timed)
    yield _plain(f"{row.timing.machine}, {row.timing.backend}" if row.timing else "")


def _plain(value: object) -> str:
    return f'<td data-value="{escape(str(value))}">{escape(str(value)) or ABSENT}</td>'


def _number(value: float | None, shown: str, paper: float | None, anchor: str) -> str:
    ours = f'<a href="#{anchor}">{shown}</a>' if value is not None else shown
    theirs = f'<span class="paper">{number(paper)}</span>'
    return f'<td data-value="{"" if value is None else value}">{ours}{theirs}</td>'


def _anchor(group: Group) -> str:
    return f"run-{group.task}-{group.dropout}-{group.results[0].path.parent.name}"


def _file_anchor(path: Path) -> str:
    return f"benchmark-{path.parent.name}-{path.stem}"


def _group(group: Group) -> str:
    """The runs of one configuration: what they reached and what is not the recipe's; then how."""
    metrics = [
        f"{name.removeprefix('test_')} {spread(group.values(name))}"
        for name in group.results[0].metrics
        if name.startswith("test_")
    ]
    count = len(group.results)
    facts = [f"{group.epochs} epochs", f"{count} seed{'s' * (count > 1)}", group.precision]
    differs = "; ".join(group.notes) or "the recipe"
    commands = "\n".join(result.summary["command"] for result in group.results)
    return (
        f'<details id="{_anchor(group)}"><summary><b>{group.task} {group.dropout}</b>: '
        f"{escape(', '.join(metrics))} "
        f'<span class="paper">{escape(", ".join(facts))}; {escape(differs)}</span></summary>'
        f"<pre>{escape(commands)}</pre><pre>{escape(_made_on(group))}</pre>"
        f"<pre>{escape((group.results[0].path.parent / 'config.yaml').read_text())}</pre></details>"
    )


def _made_on(group: Group) -> str:
    return "\n".join(
        f"seed {summary['seed']}: commit {summary['commit']}, {summary['machine'].get('cpu', '')}, "
        f"backend {summary['backend']}, torch {summary['versions'].get('torch', '')}"
        for summary in (result.summary for result in group.results)
    )


def _benchmark(path: Path) -> str:
    facts = {
        f"{row['device']}, {row['threads']} threads, {row['date']}, commit {row['commit']}"
        for row in read(path)
    }
    made = "\n".join(sorted(facts))
    name = escape(f"{path.parent.name}/{path.name}")
    return (
        f'<details id="{_file_anchor(path)}"><summary>{name}</summary>'
        f"<pre>{escape(made)}\n\n{escape(path.read_text())}</pre></details>"
    )


def _figure(path: Path) -> str:
    image = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img src="data:image/png;base64,{image}" alt="{path.stem}"></p>'
