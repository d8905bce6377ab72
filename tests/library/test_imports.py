"""The library stands alone: it needs torch and numpy, and no package of the experiments."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "structured_dropout"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXPERIMENTS = [
    "hydra",
    "omegaconf",
    "pooch",
    "rich",
    "wandb",
    "onmt",
    "sacrebleu",
    "seqeval",
    "cupy",
]


def test_the_library_needs_no_package_of_the_experiments():
    """Imported and trained with where they cannot be imported."""
    code = f"""
import sys
for name in {EXPERIMENTS}:
    sys.modules[name] = None  # importing it raises
import structured_dropout, torch
assert "torch._dynamo" not in sys.modules  # whose import takes seconds
from structured_dropout import backends, loss, phases, regularizers, steps
from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLinear, StructuredLSTM
site = SiteDropout(Case.III, 0.5)
policy = DropoutPolicy(nr=site, rh=site, output=site)
lstm = StructuredLSTM(5, 7, policy=policy, backend="compact")
linear = StructuredLinear(7, 3, policy=policy, backend="compact")
linear(lstm(torch.randn(4, 2, 5))[0]).sum().backward()
assert not any(name.startswith("structured_dropout.experiment") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def imported(path: Path) -> set[str]:
    """The packages that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_what_the_library_imports_is_what_it_requires():
    files = [path for path in SOURCES.rglob("*.py") if "experiment" not in path.parts]
    found = set().union(*map(imported, files)) - sys.stdlib_module_names - {"structured_dropout"}
    required = {dependency.split(">")[0] for dependency in PROJECT["dependencies"]}
    assert required == {"torch", "numpy", "ninja", "setuptools"}
    # cupy is the extra that backend=cuda names where it is missing.
    assert found == {"torch", "numpy", "cupy"}
    assert any("cupy" in dependency for dependency in PROJECT["optional-dependencies"]["cuda"])
