"""The sections on speed: what an iteration takes, and against which baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from scripts.report import commands
from scripts.report.benchmarks import PHASES, Timing, by_machine, on_one_machine
from scripts.report.markdown import commands as listing
from scripts.report.markdown import grid
from scripts.report.tables import ABSENT, Table, number, policy_order
from structured_dropout.experiment.errors import UsageError

SWEPT = {
    "task.rates.nr": "dropout rate",
    "model.hidden_size": "hidden size",
    "train.batch": "batch size",
}


def latest(timings: list[Timing]) -> list[Timing]:
    """Of the tasks as they are, the last timing of each contender."""
    last: dict[tuple[str, ...], Timing] = {}
    for timing in sorted(timings, key=lambda t: t.date):
        if timing.part == "model" and not timing.settings:
            key = (timing.task, timing.dropout, timing.backend, timing.precision, timing.machine)
            last[key] = timing
    return list(last.values())


def by_task(timings: list[Timing], tables: list[Table], root: Path) -> Iterator[str]:
    """A whole training iteration of every task, each contender with its baselines."""
    rows = [row for table in tables for row in table.rows]
    order = list(dict.fromkeys(row.task for row in rows))
    paper = {(row.task, row.dropout): row.paper.get("iteration") for row in rows}
    shown = latest(timings)
    if unknown := {timing.task for timing in shown} - set(order):
        raise UsageError(
            f"{', '.join(sorted(unknown))} was timed and is in no table: name it in also: of a "
            "table of scripts/report/paper.yaml"
        )
    shown.sort(
        key=lambda t: (
            t.machine,
            order.index(t.task),
            t.precision != "fp32",
            t.precision,
            t.skips,
            policy_order(t.dropout),
        )
    )
    headings = ["`task`", "`dropout`", "`backend`", "precision", "ms (quartiles)"]
    headings += ["FP", "BP", "WG", "iteration", "over `fused`", "over `fused` in fp32"]
    headings += ["the paper's iteration", "peak MB"]
    for machine in dict.fromkeys(timing.machine for timing in shown):
        yield f"On {machine}:"
        yield grid(
            headings,
            [
                [
                    f"`{timing.task}`",
                    f"`{timing.dropout}`",
                    f"`{timing.backend}`",
                    timing.precision,
                    milliseconds(timing),
                    *(number(timing.vs_dense.get(phase)) for phase in PHASES),
                    number(timing.vs_fused),
                    number(timing.vs_fused_fp32),
                    number(paper.get((timing.task, timing.dropout)) if timing.skips else None),
                    str(timing.peak_mb or ABSENT),
                ]
                for timing in shown
                if timing.machine == machine
            ],
        )
    yield listing(_commands(shown, timings, root))


def milliseconds(timing: Timing) -> str:
    """The median of an iteration, and its quartiles."""
    median = timing.ms["iteration"]
    digits = 1 if median >= 10 else 2
    p25, p75 = (f"{quartile:.{digits}f}" for quartile in timing.quartiles)
    return f"{median:.{digits}f} ({p25}-{p75})"


def _commands(shown: list[Timing], timings: list[Timing], root: Path) -> list[str]:
    """Of the files that these timings are from."""
    paths = dict.fromkeys(timing.path for timing in shown)
    return [commands.benchmark([t for t in timings if t.path == path], root) for path in paths]


def parts(timings: list[Timing], root: Path) -> Iterator[str]:
    """The parts of a model, where a task times them."""
    shown = [t for t in timings if t.part != "model" and not t.settings]
    if not shown:
        return
    headings = ["`task`", "part", "`dropout`", "`backend`", "precision", "ms (quartiles)"]
    headings += ["over `dense`", "over `fused`"]
    for own in by_machine(shown):
        yield f"On {own[0].machine}:"
        yield grid(
            headings,
            [
                [
                    f"`{timing.task}`",
                    timing.part,
                    f"`{timing.dropout}`",
                    f"`{timing.backend}`",
                    timing.precision,
                    milliseconds(timing),
                    number(timing.vs_dense.get("iteration")),
                    number(timing.vs_fused),
                ]
                for timing in own
            ],
        )
    yield listing(_commands(shown, timings, root))


Sweep = dict[float, dict[tuple[str, str], Timing]]  # by value, then by policy and precision


def swept(timings: list[Timing]) -> list[Timing]:
    """Those of a model of which one key alone was varied, on the machine that has most of them."""
    single = [t for t in timings if t.part == "model" and t.skips and len(t.settings) == 1]
    return on_one_machine([t for t in single if set(t.settings) <= set(SWEPT)])


def sweeps(timings: list[Timing]) -> dict[tuple[str, str], Sweep]:
    """The same by task and key."""
    found: dict[tuple[str, str], Sweep] = defaultdict(lambda: defaultdict(dict))
    for timing in swept(timings):
        ((key, value),) = timing.settings.items()
        found[timing.task, key][float(value)][timing.dropout, timing.precision] = timing
    return {place: found[place] for place in sorted(found, key=_sweep_order)}


def _sweep_order(place: tuple[str, str]) -> tuple[str, int]:
    task, key = place
    return task, list(SWEPT).index(key)


def swept_policies(sweep: Sweep) -> list[tuple[str, str]]:
    """Policies and precisions, float32 first, then in the paper's order."""
    found = {policy for by_policy in sweep.values() for policy in by_policy}
    return sorted(found, key=lambda policy: (policy[1] != "fp32", policy_order(policy[0])))


def by_setting(timings: list[Timing], root: Path) -> Iterator[str]:
    """A table for each key that was varied."""
    for (task, key), sweep in sweeps(timings).items():
        policies = swept_policies(sweep)
        yield f"### `{task}` by {SWEPT[key]}"
        headings = [f"`{key}`"]
        for dropout, precision in policies:
            headings.append(f"`{dropout}` {precision}")
            if precision != "fp32":
                headings.append(f"`{dropout}` {precision}, over fp32")
        rows = []
        for value, by_policy in sorted(sweep.items()):
            cells = [f"{value:g}"]
            for policy in policies:
                timing = by_policy.get(policy)
                cells.append(number(timing and timing.vs_fused))
                if policy[1] != "fp32":
                    cells.append(number(timing and timing.vs_fused_fp32))
            rows.append(cells)
        yield grid(headings, rows)
        yield listing(_commands([t for s in sweep.values() for t in s.values()], timings, root))
