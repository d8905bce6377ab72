"""The sections on quality: what a model reaches under each policy."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator

from scripts.report.commands import training
from scripts.report.markdown import commands, grid
from scripts.report.runs import Group
from scripts.report.tables import ABSENT, Table, number, policy_order, spread


def by_rate(groups: list[Group], table: Table) -> Iterator[str]:
    """For each training of each task: its metrics by rate and policy, with the commands."""
    trainings: dict[tuple[str, str, str], list[Group]] = defaultdict(list)
    for group in groups:
        if group.task in {row.task for row in table.rows} and redrawn_as_in_recipe(group):
            trainings[group.task, _training(group), group.precision].append(group)
    for (task, name, precision), own in trainings.items():
        own.sort(key=lambda group: (group.rates, policy_order(group.dropout)))
        yield f"### `{task}`, {precision}: {name}"
        headings = ["`dropout`", "p", "precision", "epochs", "seeds", *table.metrics.values()]
        rows = [
            [
                f"`{group.dropout}`",
                group.rates or ABSENT,
                group.precision,
                str(group.epochs),
                str(len(group.results)),
                *(spread(group.values(metric)) for metric in table.metrics),
            ]
            for group in own
        ]
        yield grid(headings, rows)
        yield commands(training(own))


def _training(group: Group) -> str:
    """What of the training is not the recipe's, the rates aside."""
    notes = [f"{key} {value}" for key, value in group.differences if not _is_rate(key)]
    return ", ".join(notes) or f"the complete recipe, {group.epochs} epochs"


def redrawn_as_in_recipe(group: Group) -> bool:
    """Whether of its dropout only rates are not the recipe's."""
    return not any(key.startswith("dropout.") and not _is_rate(key) for key, _ in group.differences)


def _is_rate(key: str) -> bool:
    return key.startswith("dropout.") and key.endswith((".p", ".weight"))


def by_seed(groups: list[Group], table: Table, metric: str) -> Iterator[str]:
    """For each task that was trained in full: the metric of each seed beside the paper's."""
    paper = {(row.task, row.dropout): row.paper.get(metric) for row in table.rows}
    for task in dict.fromkeys(row.task for row in table.rows):
        own = [group for group in groups if group.task == task and not group.differences]
        if not own:
            continue
        own.sort(key=lambda group: (group.precision, policy_order(group.dropout)))
        seeds = sorted({seed for group in own for seed in group.seeds})
        headings = ["`dropout`", "precision", "epochs", *(f"seed {seed}" for seed in seeds)]
        headings += ["mean ± standard error", "the paper's"]
        rows = []
        for group in own:
            values = dict(zip(group.seeds, group.values(metric), strict=True))
            rows.append(
                [
                    f"`{group.dropout}`",
                    group.precision,
                    str(group.epochs),
                    *(number(values.get(seed)) for seed in seeds),
                    mean_and_error(group.values(metric)),
                    number(paper.get((task, group.dropout))),
                ]
            )
        yield f"### `{task}`: {table.metrics[metric]} on the test set"
        yield grid(headings, rows)
        yield commands(training(own))


def mean_and_error(values: list[float]) -> str:
    """Mean ± standard error of the mean; the number alone where there is one."""
    if len(values) < 2:
        return spread(values)
    return f"{statistics.mean(values):.2f} ± {math.sqrt(_variance_of_mean(values)):.2f}"


def difference(values: list[float], others: list[float]) -> str:
    """Of the means, ± its standard error; both have several values."""
    error = math.sqrt(_variance_of_mean(values) + _variance_of_mean(others))
    return f"{statistics.mean(values) - statistics.mean(others):+.2f} ± {error:.2f}"


def _variance_of_mean(values: list[float]) -> float:
    return statistics.variance(values) / len(values)


def precisions(groups: list[Group], metric: str) -> str | None:
    """bfloat16 beside float32, where the same configuration trained in both on the same seeds."""
    in_fp32 = {_but_precision(group): group for group in groups if group.precision == "fp32"}
    rows = []
    for group in groups:
        other = in_fp32.get(_but_precision(group))
        if group.precision == "fp32" or other is None or metric not in group.results[0].metrics:
            continue
        shared = sorted(set(group.seeds) & set(other.seeds))
        if not shared:
            continue
        ours, theirs = (
            statistics.mean(g.values(metric)[g.seeds.index(seed)] for seed in shared)
            for g in (group, other)
        )
        rows.append(
            [
                f"`{group.task}`",
                f"`{group.dropout}`",
                str(group.epochs),
                str(len(shared)),
                number(theirs),
                f"{number(ours)} ({group.precision})",
                f"{ours / theirs - 1:+.2%}",
            ]
        )
    headings = ["`task`", "`dropout`", "epochs", "seeds", "fp32", "mixed precision", "difference"]
    return grid(headings, rows) if rows else None


def _but_precision(group: Group) -> tuple[object, ...]:
    return (group.task, group.dropout, group.differences)
