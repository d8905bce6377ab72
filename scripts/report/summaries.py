"""The short tables of README and docs/own-models.md."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import NamedTuple

from scripts.report.benchmarks import Timing, by_machine, recipes
from scripts.report.markdown import grid
from scripts.report.quality import difference, mean_and_error
from scripts.report.runs import Group, longest, recipe
from scripts.report.speed import SWEPT, Sweep, sweeps, swept, swept_policies
from scripts.report.tables import ABSENT, POLICIES, Table, number

STRUCTURED = ("nr_st", "nr_rh_st")
WORTH_IT = 1.1  # the smallest speed-up that is called one; the machine's noise is below


class Summary(NamedTuple):
    """A short table, and what to say below it."""

    headings: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self) -> str:
        return f"{grid(self.headings, self.rows)}\n\n{self.note}".strip()


def speed(timings: list[Timing], tables: list[Table]) -> Summary:
    """Speed-up of a training iteration over the fastest that torch offers, in each precision; of
    several machines the least and the most."""
    shown = [t for t in recipes(timings) if t.dropout in STRUCTURED]
    timed: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for t in shown:
        timed[t.task, t.dropout, t.precision].append(t.vs_torch)
    precisions = list(
        dict.fromkeys(["fp32", *sorted({t.precision for t in timings}, reverse=True)])
    )
    rows = []
    for task in dict.fromkeys(row.task for table in tables for row in table.rows):
        own = [timed.get((task, d, p), []) for p in precisions for d in STRUCTURED]
        if any(own):
            rows.append([f"`{task}`", *map(_least_and_most, own)])
    headings = ["`task`", *(f"`{d}`, {p}" for p in precisions for d in STRUCTURED)]
    machines = [own[0].machine for own in by_machine(shown)]
    measured_on = "Measured on " + ";\n".join(machines) + "." if machines else ""
    return Summary(headings, rows, measured_on)


def _least_and_most(values: list[float]) -> str:
    if not values:
        return ABSENT
    return "-".join(dict.fromkeys(number(value) for value in (min(values), max(values))))


def quality(groups: list[Group], tables: list[Table]) -> Summary:
    """Each task's metric under random and structured dropout, after its longest common training;
    without one, what structured dropout reached by the whole recipe."""
    rows, lacking = [], []
    for table in tables:
        metric = next(reversed(table.metrics))
        for task in dict.fromkeys(row.task for row in table.rows):
            own = [group for group in groups if group.task == task]
            complete = [g for g in own if g.dropout in STRUCTURED and not g.differences]
            if not complete:
                lacking.append(f"`{task}`")
            chosen = longest(own, POLICIES) or _in_one_precision(complete)
            if chosen:
                first = chosen[0]
                epochs = f"{first.epochs} of {recipe(task).train.epochs}"
                values = {group.dropout: group.values(metric) for group in chosen}
                cells = [_beside_random(values, policy) for policy in POLICIES]
                seeds = {group.dropout: len(group.results) for group in chosen}
                if len(set(seeds.values())) == 1:
                    counted = str(len(first.results))
                else:
                    counted = ", ".join(str(seeds[p]) for p in POLICIES if p in seeds)
                how = [first.precision, epochs, counted]
                rows.append([f"`{task}`", table.metrics[metric], *cells, *how])
    headings = ["`task`", "on the test set", *(f"`{d}`" for d in POLICIES)]
    headings += ["precision", "epochs", "seeds"]
    missing = f"Not trained in full yet: {', '.join(lacking)}." if lacking else ""
    return Summary(headings, rows, missing)


def _in_one_precision(complete: list[Group]) -> list[Group]:
    """In that which most seeds were trained in."""
    seeds = Counter(group.precision for group in complete for _ in group.results)
    return [group for group in complete if group.precision == max(seeds, key=seeds.__getitem__)]


def _beside_random(values: dict[str, list[float]], policy: str) -> str:
    """Mean and standard error, and in brackets the difference from random dropout, if both have
    several seeds."""
    if policy not in values:
        return ABSENT
    own, others = values[policy], values.get(POLICIES[0], [])
    apart = policy != POLICIES[0] and min(len(own), len(others)) > 1
    return mean_and_error(own) + (f" ({difference(own, others)})" if apart else "")


def where_it_pays(timings: list[Timing]) -> Summary:
    """From which rate, hidden size and batch on an iteration is faster than torch's LSTM."""
    rows = []
    for (task, key), sweep in sweeps(timings).items():
        for dropout, precision in swept_policies(sweep):
            gains = _gains(sweep, dropout, precision)
            rows.append(
                [
                    f"`{task}`: {SWEPT[key]}",
                    f"`{dropout}`",
                    precision,
                    _first_worth(gains),
                    ", ".join(f"{value:g}: {gain:.2f}" for value, gain in gains.items()),
                ]
            )
    headings = ["varied", "`dropout`", "precision", f"{WORTH_IT} or more from", "measured"]
    return Summary(headings, rows)


def pays(timings: list[Timing]) -> str:
    """The same in a few words; empty where no key was varied."""
    timed = swept(timings)
    if not timed:
        return ""
    limits: dict[str, list[str]] = {}
    for (_, key), sweep in sweeps(timings).items():
        for dropout, precision in swept_policies(sweep):
            first = _first_worth(_gains(sweep, dropout, precision))
            limits.setdefault(f"`{dropout}` in {precision}", []).append(f"{SWEPT[key]} {first}")
    by_limit: dict[str, list[str]] = {}
    for policy, found in limits.items():
        by_limit.setdefault(", ".join(found), []).append(policy)
    tasks = " and ".join(dict.fromkeys(f"`{task}`" for task, _ in sweeps(timings)))
    lines = [f"- from {limit} on: {', '.join(own)}" for limit, own in by_limit.items()]
    return (
        f"On {timed[0].machine}, {tasks}, one of its keys varied at a time,\n"
        f"trains at least {WORTH_IT} times as fast as with torch's LSTM\n\n" + "\n".join(lines)
    )


def _gains(sweep: Sweep, dropout: str, precision: str) -> dict[float, float]:
    """The speed-up over the fastest of torch's LSTMs, by value."""
    gains = {}
    for value in sorted(sweep):
        if timing := sweep[value].get((dropout, precision)):
            gains[value] = timing.vs_torch
    return gains


def _first_worth(gains: dict[float, float]) -> str:
    """The smallest value from which on every one that was measured is worth it."""
    worth = ABSENT
    for value, gain in sorted(gains.items(), reverse=True):
        if gain < WORTH_IT:
            break
        worth = f"{value:g}"
    return worth
