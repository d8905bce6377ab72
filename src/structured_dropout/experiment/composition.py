"""Why Hydra could not compose a configuration, in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException

from structured_dropout.experiment.schema import did_you_mean, keys


@contextmanager
def explained(arguments: Sequence[str], conf: Path) -> Iterator[None]:
    """End the program with one line where Hydra cannot compose what its arguments ask for.

    Args:
        conf: the folder of the configuration, with ``config.yaml``.
    """
    try:
        yield
    except HydraException as error:
        sys.exit(f"error: {explain(error, arguments, conf)}")
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # else task=null or dropout=3
            raise
        sys.exit(f"error: {_explain_nameless(arguments, conf)}")


def explain(error: HydraException, arguments: Sequence[str], conf: Path) -> str:
    """What is wrong with the arguments of a command, and what may have been meant.

    Args:
        error: what Hydra raised on them.
        conf: the folder of the configuration, with ``config.yaml``.
    """
    if isinstance(error, MissingConfigException) and error.options:
        name = str(error.missing_cfg_file)
        *group, option = name.split("/")
        advice = did_you_mean(option, error.options) or f": choose {', '.join(error.options)}"
        return f"there is no {'/'.join(group)}={option}{advice}"
    if unknown := re.match(r"Could not override '([^']+)'", str(error)):
        return f"there is no key {unknown[1]}{did_you_mean(unknown[1], _keys(arguments, conf))}"
    reasons = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
    return ": ".join(map(_one_line, reasons)).removeprefix("Error merging override ")


def _one_line(message: str) -> str:
    """Without the lines that say where in Hydra's and OmegaConf's own objects it happened."""
    kept = [line for line in message.splitlines() if line and not line.startswith(("    ", "See "))]
    return " ".join(kept)


def _keys(arguments: Sequence[str], conf: Path) -> list[str]:
    """The keys of the configuration whose groups are chosen as these arguments do."""
    with suppress(HydraException), hydra.initialize_config_dir(str(conf), version_base="1.3"):
        return list(keys(hydra.compose("config", list(_choices(arguments)))))
    return []


def _explain_nameless(arguments: Sequence[str], conf: Path) -> str:
    with hydra.initialize_config_dir(str(conf), version_base="1.3"):
        override, options = next(
            (override, options)
            for override, options in _groups(arguments)
            if not isinstance(override.value(), str | list)
        )
    return f"{override.input_line} names no option: choose {', '.join(options)}"


def _choices(arguments: Sequence[str]) -> Iterator[str]:
    """Those that choose an option of a group; in a sweep the first one."""
    for override, _ in _groups(arguments):
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        value = next(values) if values else override.get_value_string()
        yield f"{'+' if override.is_add() else ''}{override.key_or_group}={value}"


def _groups(arguments: Sequence[str]) -> Iterator[tuple[Override, list[str]]]:
    """The arguments that choose an option of a group, each with the options there are."""
    loader = GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(loader)
    words = [argument for argument in arguments if not argument.startswith("-")]
    for override in parser.parse_overrides(words):
        if options := loader.get_group_options(override.key_or_group):
            yield override, options
