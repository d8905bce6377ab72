"""What README and docs/ name is there: links, scripts, tests; what they tell to run composes."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```\n(.*?)^```", re.DOTALL | re.MULTILINE)
OWN_FILES = ("data.", "checkpoint=", "input=", "output=")  # that are the reader's
PLUGINS = ("hydra/", "hydra.")  # not all are installed


def commands(*names: str) -> list[str]:
    """The commands of all texts that begin with one of these, comments left out."""
    blocks = [block for path in TEXTS for block in BLOCK.findall(path.read_text())]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(line.partition(" #")[0] for line in lines if line.startswith(names)))


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), target
        headings = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE) if anchor else []
        anchors = {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings
        }
        assert not anchor or anchor in anchors, target


@pytest.mark.parametrize("command", commands("python run.py"))
def test_commands_compose(compose, command):
    words = shlex.split(command.split(">")[0])[2:]
    # A range is for a plugin to draw from.
    overrides = [word for word in words if not word.startswith(("-", *PLUGINS)) and "(" not in word]
    for override in overrides:
        key, _, values = override.partition("=")
        for value in values.split(","):
            others = [o for o in overrides if o != override and "," not in o]
            if not key.startswith(OWN_FILES):
                compose(*others, f"{key}={value}")


@pytest.mark.parametrize("command", commands("python scripts/", "make "))
def test_commands_exist(command):
    program, name = command.split()[:2]
    if program == "make":
        assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        assert (ROOT / name).exists()


def test_the_tests_that_keep_a_promise_exist():
    text = (ROOT / "docs/reliability.md").read_text()
    there = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"\b(test_\w+)(?!\.py)\b(?!\.py)", text):
        assert f"def {name}(" in there or (f"{name}.py" in text), name
    for path in re.findall(r"tests/[\w/]+\.py", text):
        assert (ROOT / path).exists(), path


def test_the_python_of_the_texts_runs(tmp_path):
    """The blocks of docs/own-models.md, but for what shows a line of the reader's own model."""
    blocks = re.findall(
        r"^```python\n(.*?)^```",
        (ROOT / "docs/own-models.md").read_text(),
        re.DOTALL | re.MULTILINE,
    )
    import torch

    names = {"targets": torch.zeros(35, 20, dtype=torch.long)}
    exec("".join(block for block in blocks if "model(batch)" not in block), names)  # noqa: S102
    assert names["logits"].shape == (35, 20, 10000)
    assert names["loss"].isfinite()
