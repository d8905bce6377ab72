import random
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("torchcrf") is None or find_spec("seqeval") is None:  # without the extra ner there is nothing to test
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tiny models train faster so; other tests want all threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


NAMES = {"LOC": ["Rome", "Oslo", "New York"], "PER": ["Ann Lee", "Bo", "Jan van Eyck"]}
OTHERS = ["sees", "the", "of", "went", "to", "it"]


def write_columns(path: Path, sentences: int, seed: int) -> None:
    """Made-up sentences in BIO2, four columns, under a document line."""
    rng = random.Random(seed)
    lines = ["-DOCSTART- -X- -X- O", ""]
    for _ in range(sentences):
        for _ in range(rng.randint(1, 3)):
            lines += [f"{rng.choice(OTHERS)} X Y O" for _ in range(rng.randint(1, 3))]
            kind = rng.choice(list(NAMES))
            for i, word in enumerate(rng.choice(NAMES[kind]).split()):
                lines.append(f"{word} X Y {'I' if i else 'B'}-{kind}")
        lines.append("")
    path.write_text("\n".join(lines))


@pytest.fixture(scope="session")
def tiny_columns(tmp_path_factory) -> list[str]:
    """Overrides for a tagger of 8 units on a few short sentences."""
    folder = tmp_path_factory.mktemp("columns")
    paths = []
    for seed, (split, sentences) in enumerate((("train", 50), ("valid", 12), ("test", 12))):
        write_columns(folder / f"{split}.txt", sentences, seed)
        paths.append(f"data.{split}={folder / split}.txt")
    sizes = ["model.hidden_size=8", "model.char_size=4", "model.char_filters=3", "embeddings.size=6"]
    train = ["train.batch=4", "train.epochs=2", "device=cpu"]
    return ["task=ner_conll03", "data=conll", "embeddings=random", *paths, *sizes, *train]
