"""How long a complete training takes, from its benchmark and the number of its iterations."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from scripts.report.benchmarks import Timing, on_one_machine
from scripts.report.markdown import grid
from scripts.report.runs import Group, recipe
from scripts.report.speed import latest
from scripts.report.tables import policy_order


def by_experiment(timings: list[Timing], groups: list[Group]) -> Iterator[str]:
    """Hours of one seed of each recipe, on what ``backend=auto`` chooses for its policy."""
    rows = []
    timed = latest(on_one_machine(timings))
    chosen = [t for t in timed if t.dropout != "none" and t.trains]
    chosen.sort(key=lambda t: (t.task, t.precision != "fp32", policy_order(t.dropout)))
    for timing in chosen:
        cfg = recipe(timing.task)
        iterations = epoch_iterations(cfg, groups)
        if iterations is None:
            continue
        total = round(iterations * cfg.train.epochs)
        rows.append(
            [
                f"`{timing.task}`",
                f"`{timing.dropout}`",
                f"`{timing.backend}`",
                timing.precision,
                str(cfg.train.epochs),
                f"{total:,}",
                f"{total * timing.ms['iteration'] / 3.6e6:.1f}",
            ]
        )
    headings = ["`task`", "`dropout`", "`backend`", "precision", "epochs", "iterations", "hours"]
    yield grid(headings, rows)
    if chosen:
        yield f"On {chosen[0].machine}."


def epoch_iterations(cfg: DictConfig, groups: list[Group]) -> float | None:
    """Of an epoch of this recipe: what it says itself, or what runs on the same data needed.

    Windows of a text and batches of sentences are counted from the committed runs, in proportion to
    batch and window. None where nothing was run on these data.
    """
    if "steps" in cfg.train:
        return float(cfg.train.steps)
    for group in groups:
        same = group.config.get("data.name") == cfg.data.name
        if same and ("train.bptt" in group.config) == ("bptt" in cfg.train):
            summary = group.results[0].summary
            batches = summary["iterations"] / summary["epochs"]
            units = group.config["train.batch"] * group.config.get("train.bptt", 1)
            return float(batches * units / (cfg.train.batch * cfg.train.get("bptt", 1)))
    return None
