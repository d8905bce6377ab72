"""Draw the figures, all or those that are named: python scripts/figures.py frontier speedup"""

from __future__ import annotations

import argparse
import sys

import checkout  # noqa: F401

from scripts.compose import ROOT
from scripts.report.figures import cases, frontier, layout, phases, rates, speedup, steps, training
from structured_dropout.experiment.errors import UsageError

FIGURES = {
    "cases": cases.draw,
    "phases": phases.draw,
    "layout": layout.draw,
    "steps": steps.draw,
    "training": training.draw,
    "speedup": speedup.draw,
    "frontier": frontier.draw,
    "rates": rates.draw,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(FIGURES)}")
    names = parser.parse_args().names
    if unknown := set(names) - FIGURES.keys():
        parser.error(f"no figure {', '.join(sorted(unknown))}: choose among {', '.join(FIGURES)}")
    for name in names or FIGURES:
        FIGURES[name](ROOT)


if __name__ == "__main__":
    try:
        main()
    except UsageError as error:
        sys.exit(f"error: {error}")
