"""Every text that holds numbers: the paper's tables, and the marked parts of README.md and docs/.

A part stands between ``<!-- made by scripts/tables.py: NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from scripts.report import frontier, hours, kernels, quality, rates, speed, summaries
from scripts.report.benchmarks import Timing, timings
from scripts.report.commands import benchmark, training
from scripts.report.markdown import commands
from scripts.report.runs import Group, groups
from scripts.report.table_files import comma_separated, markdown
from scripts.report.tables import Table, tables
from structured_dropout.experiment.errors import UsageError

_PART = re.compile(r"(<!-- made by scripts/tables\.py: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


class Material(NamedTuple):
    """All that was run and timed."""

    root: Path  # that has results/
    tables: list[Table]
    groups: list[Group]
    timings: list[Timing]


def gather(root: Path) -> Material:
    """Read all that was run and timed under ``root/results``.

    Raises:
        UsageError: a run's summary is damaged; names it.
    """
    ran, timed = groups(root / "results/runs"), timings(root / "results/benchmarks")
    return Material(root, tables(ran, timed), ran, timed)


def write(root: Path) -> None:
    """Write all texts of ``root`` anew, from its ``results/``.

    Raises:
        UsageError: a run's summary is damaged, or a text asks for a part that nothing makes.
    """
    for path, text in texts(root).items():
        path.write_text(text)
        print(f"written: {path}")


def check(root: Path) -> None:
    """Compare all texts of ``root`` with what its ``results/`` gives.

    Raises:
        UsageError: some differ; names them.
    """
    stale = [
        str(path.relative_to(root))
        for path, text in texts(root).items()
        if not path.exists() or path.read_text() != text
    ]
    if stale:
        raise UsageError(
            f"{', '.join(stale)}: not what results/ gives; run python scripts/tables.py"
        )


def texts(root: Path) -> dict[Path, str]:
    """What each file should hold."""
    results = root / "results"
    material = gather(root)
    found = {}
    for table in material.tables:
        found[results / f"{table.name}.md"] = markdown(table)
        found[results / f"{table.name}.csv"] = comma_separated(table)
    documents = (root / "README.md", *sorted((root / "docs").glob("*.md")))
    for path in documents:
        if path.exists() and _PART.search(path.read_text()):
            found[path] = _filled(path, material)
    return found


def _filled(path: Path, material: Material) -> str:
    """The text with its parts made anew."""

    def part(match: re.Match[str]) -> str:
        begin, name, end = match.groups()
        if name not in PARTS:
            raise UsageError(f"{path}: no part {name}: choose {', '.join(PARTS)}")
        return f"{begin}\n{PARTS[name](material)}\n\n{end}"

    return _PART.sub(part, path.read_text())


def _speed(material: Material, on_gpu: bool) -> str:
    timed = [timing for timing in material.timings if timing.on_gpu == on_gpu]
    return summaries.speed(timed, material.tables).markdown() if timed else NOT_RUN


def _perplexity(material: Material) -> str:
    return _paragraphs(quality.by_rate(material.groups, material.tables[0]))


def _by_seed(material: Material, number: int, metric: str) -> str:
    return _paragraphs(quality.by_seed(material.groups, material.tables[number - 1], metric))


def _precisions(material: Material) -> str:
    return quality.precisions(material.groups, "test_perplexity") or NOT_RUN


def _frontier(material: Material) -> str:
    points = frontier.points(material.groups, material.timings)
    if not points:
        return NOT_RUN
    timed = [timing for timing in material.timings if timing.path == points[0].timing.path]
    return _paragraphs([frontier.table(points), commands([benchmark(timed, material.root)])])


def _rates(material: Material) -> str:
    points = rates.points(material.groups, material.timings)
    timed = rates.measured(material.timings)
    if not points or not timed:
        return NOT_RUN
    machine = f"Speed measured on {timed[0].machine}, over the fastest of torch's."
    lines = [*training([point.group for point in points]), benchmark(timed, material.root)]
    return _paragraphs([rates.table(points), machine, commands(lines)])


def _paragraphs(texts: Iterable[str]) -> str:
    return "\n\n".join(texts) or NOT_RUN


NOT_RUN = "Not run yet."
PARTS: dict[str, Callable[[Material], str]] = {
    "speed": lambda m: _speed(m, on_gpu=False),
    "speed-on-gpu": lambda m: _speed(m, on_gpu=True),
    "quality": lambda m: summaries.quality(m.groups, m.tables).markdown(),
    "where-it-pays": lambda m: summaries.where_it_pays(m.timings).markdown(),
    "pays": lambda m: summaries.pays(m.timings) or NOT_RUN,
    "speed-by-task": lambda m: _paragraphs(speed.by_task(m.timings, m.tables, m.root)),
    "speed-by-setting": lambda m: _paragraphs(speed.by_setting(m.timings, m.root)),
    "speed-of-kernels": lambda m: _paragraphs(kernels.speeds(m.root)),
    "launch-cost": lambda m: _paragraphs(kernels.launch_cost(m.root)),
    "speed-by-part": lambda m: _paragraphs(speed.parts(m.timings, m.root)),
    "perplexity": _perplexity,
    "bleu": lambda m: _by_seed(m, 2, "test_bleu"),
    "f1": lambda m: _by_seed(m, 3, "test_f1"),
    "precisions": _precisions,
    "frontier": _frontier,
    "rates": _rates,
    "hours": lambda m: _paragraphs(hours.by_experiment(m.timings, m.groups)),
}
