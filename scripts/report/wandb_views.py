"""The results as a workspace and a report on Weights & Biases."""

from __future__ import annotations

from typing import Any

from scripts.report.table_files import markdown
from scripts.report.tables import Table
from structured_dropout.experiment.errors import UsageError

TITLE = "Structured in Space, Randomized in Time"


def workspace(tables: list[Table], entity: str, project: str) -> Any:
    """The runs' curves, a section for each table."""
    panels, workspaces = _packages()
    sections = []
    for table in tables:
        valid = [metric.replace("test_", "valid_") for metric in table.metrics]
        curves = [
            panels.LinePlot(x="epoch", y=[metric])
            for metric in dict.fromkeys([*valid, "train_loss"])
        ]
        name = f"Table {table.number}: {table.title}"
        sections.append(workspaces.Section(name=name, panels=curves, is_open=True))
    return workspaces.Workspace(entity=entity, project=project, name=TITLE, sections=sections)


def report(tables: list[Table], entity: str, project: str) -> Any:
    """Tables 1-3 beside the paper's."""
    reports, _ = _packages()
    blocks = [reports.MarkdownBlock(markdown(table)) for table in tables]
    return reports.Report(entity=entity, project=project, title=TITLE, blocks=blocks, width="fluid")


def as_json(view: Any) -> dict[str, Any]:
    """What saving a view would send."""
    content: dict[str, Any] = view._to_model().model_dump(mode="json", by_alias=True)
    return content


def _packages() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as reports
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise UsageError(
            "this needs a package: pip install 'structured-dropout[wandb]'; --local does without"
        ) from None
    return reports, workspaces
