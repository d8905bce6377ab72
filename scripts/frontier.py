"""Draw quality against speed, by how often units are drawn anew: python scripts/frontier.py

Perplexities are those of the finished runs of experiment=frontier, speed-ups those of
results/benchmarks/frontier.csv; README has the commands. It writes results/benchmarks/frontier.png;
a point that was not run is left out and named.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import matplotlib.pyplot as plt
from omegaconf import DictConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.report.results import compose  # noqa: E402
from structured_dropout.experiment.identity import identity  # noqa: E402

RUNS = Path("results/runs/ptb_small/nr_rh_st")
BENCHMARK = Path("results/benchmarks/frontier.csv")
MARKERS = {"1": "o", "5": "s", "sequence": "D"}
Point = tuple[float, str]  # rate, redraw_every


def main() -> None:
    if not BENCHMARK.exists():
        sys.exit(f"error: {BENCHMARK} is missing; README has the command that makes it")
    speed, quality = speedups(BENCHMARK), perplexities(RUNS)
    missing = sorted(set(speed) - set(quality))
    for rate, redraw in missing:
        print(f"not run: task.rates.nr={rate} dropout.nr.redraw_every={redraw}")
    if len(missing) == len(speed):
        sys.exit(
            f"error: {RUNS} has none of these runs, finished and on the real text; README has the command"
        )
    path = BENCHMARK.with_suffix(".png")
    draw({point: (speed[point], quality[point]) for point in speed if point in quality}, path)
    print(f"written: {path}")


def speedups(path: Path) -> dict[Point, float]:
    """Of a training iteration over the fused baseline."""
    found = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            if row["phase"] == "iteration" and row["dropout"] == "nr_rh_st":
                setting = dict(override.split("=", 1) for override in row["overrides"].split())
                point = (float(setting["task.rates.nr"]), setting["dropout.nr.redraw_every"])
                found[point] = float(row["speedup_vs_fused"])
    return found


def perplexities(folder: Path) -> dict[Point, list[float]]:
    """On the test text, one a seed, of the experiment's runs."""
    found, experiment = defaultdict(list), _besides_dropout(compose("+experiment=frontier"))
    for path in sorted(folder.glob("*/summary.json")):
        summary = json.loads(path.read_text())
        cfg = OmegaConf.load(path.with_name("config.yaml"))
        sites = (cfg.dropout.nr, cfg.dropout.rh, cfg.dropout.output)
        points = {(float(site.p), str(site.redraw_every)) for site in sites}
        if (
            summary["status"] == "finished"
            and len(points) == 1
            and _besides_dropout(cfg) == experiment
        ):
            found[points.pop()].append(summary["metrics"]["test_perplexity"])
    return found


def _besides_dropout(cfg: DictConfig) -> dict[str, object]:
    return {
        key: value
        for key, value in identity(cfg).items()
        if key not in ("dropout", "seed", "backend")
    }


def draw(points: dict[Point, tuple[float, list[float]]], path: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for color, rate in enumerate(sorted({rate for rate, _ in points})):
        line = [(*points[rate, redraw], redraw) for redraw in MARKERS if (rate, redraw) in points]
        axes.plot(
            [x for x, _, _ in line],
            [statistics.median(y) for _, y, _ in line],
            color=f"C{color}",
            linewidth=1,
        )
        for x, y, redraw in line:
            middle = statistics.median(y)
            spread = [[middle - min(y)], [max(y) - middle]]
            axes.errorbar(x, middle, spread, color=f"C{color}", marker=MARKERS[redraw], capsize=2)
        axes.plot([], [], color=f"C{color}", label=f"p = {rate:g}")
    for redraw, marker in MARKERS.items():
        axes.plot([], [], "k", linestyle="", marker=marker, label=f"redraw_every = {redraw}")
    axes.set_xlabel("speed-up of a training iteration over torch's LSTM")
    axes.set_ylabel("test perplexity (median of the seeds, and their range)")
    axes.set_title("ptb_small, nr_rh_st, two epochs: how often units are drawn anew")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
