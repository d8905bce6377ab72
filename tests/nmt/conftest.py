import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("onmt") is None or find_spec("sacrebleu") is None:  # without the extra nmt there is nothing to test
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def backwards() -> Callable[..., list[str]]:
    """Write made-up sentences whose translation is the sentence backwards; overrides that train on them."""

    def write(folder: Path, sizes: dict[str, int], words: int, longest: int) -> list[str]:
        rng = random.Random(0)
        overrides = ["data=parallel"]
        for split, size in sizes.items():
            sentences = [[f"w{rng.randrange(words)}" for _ in range(rng.randint(2, longest))] for _ in range(size)]
            for side, lines in (("src", sentences), ("tgt", [sentence[::-1] for sentence in sentences])):
                path = folder / f"{split}.{side}"
                path.write_text("".join(" ".join(line) + "\n" for line in lines))
                overrides.append(f"data.{split}_{side}={path}")
        return overrides

    return write


@pytest.fixture(scope="session")
def tiny_pairs(backwards, tmp_path_factory) -> list[str]:
    """Overrides for a model of 8 units on a few short pairs."""
    pairs = backwards(tmp_path_factory.mktemp("pairs"), {"train": 60, "valid": 8, "test": 8}, words=6, longest=5)
    sizes = ["model.hidden_size=8", "train.batch=4", "train.steps=6", "train.epochs=2", "translate.max_length=8"]
    return ["task=nmt_multi30k", *pairs, *sizes, "device=cpu"]
