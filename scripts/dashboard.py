"""Show the results: on one page of your own, or as a workspace and a report on Weights & Biases.

python scripts/dashboard.py --local                           # results/dashboard.html, which needs
no network python scripts/dashboard.py --entity NAME --project NAME      # saves both; needs a login
(wandb login) python scripts/dashboard.py --entity NAME --project NAME --dry-run    # prints their
JSON instead
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.report.page import page  # noqa: E402
from scripts.tables import RESULTS, markdown, tables  # noqa: E402

TITLE = "Structured in Space, Randomized in Time"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--local", action="store_true", help="write results/dashboard.html")
    parser.add_argument("--entity", help="a user or a team on Weights & Biases")
    parser.add_argument("--project", default="structured-dropout")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the workspace and the report as JSON"
    )
    arguments = parser.parse_args()
    if arguments.local:
        path = RESULTS / "dashboard.html"
        path.write_text(page(RESULTS))
        print(f"written: {path}")
    elif arguments.entity is None:
        parser.error("choose --local or --entity")
    elif arguments.dry_run:
        print(json.dumps(as_json(arguments.entity, arguments.project), indent=2))
    else:
        for view in (
            workspace(arguments.entity, arguments.project),
            report(arguments.entity, arguments.project),
        ):
            print(f"saved: {view.save().url}")


def as_json(entity: str, project: str) -> dict[str, Any]:
    """What would be saved."""
    views = {"workspace": workspace(entity, project), "report": report(entity, project)}
    return {
        name: view._to_model().model_dump(mode="json", by_alias=True)
        for name, view in views.items()
    }


def workspace(entity: str, project: str) -> Any:
    """The runs' curves, a section for each table."""
    panels, workspaces = _wandb()
    sections = []
    for table in tables(RESULTS):
        valid = [metric.replace("test_", "valid_") for metric in table.metrics]
        curves = [
            panels.LinePlot(x="epoch", y=[metric])
            for metric in dict.fromkeys([*valid, "train_loss"])
        ]
        sections.append(
            workspaces.Section(
                name=f"Table {table.name[-1]}: {table.title}", panels=curves, is_open=True
            )
        )
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=sections)


def report(entity: str, project: str) -> Any:
    """Tables 1-3 beside the paper's."""
    reports, _ = _wandb()
    blocks = [reports.MarkdownBlock(markdown(table)) for table in tables(RESULTS)]
    return reports.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def _wandb() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        sys.exit(
            "error: this needs a package: pip install 'structured-dropout[wandb]'; --local does without"
        )
    return reports, workspaces


if __name__ == "__main__":
    main()
