"""The experiments of the paper. Importing this package makes the schema of each known to Hydra."""

from importlib import import_module
from pkgutil import iter_modules

for task in iter_modules(__path__):
    import_module(f"tasks.{task.name}.config")
