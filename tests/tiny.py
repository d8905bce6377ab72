"""Data sets of a few made-up sentences, and the overrides of a model of 8 units that trains on
them."""

import random
from collections.abc import Callable
from pathlib import Path


def text(folder: Path) -> list[str]:
    """A language model on three small texts."""
    rng = random.Random(0)
    words = [f"w{i}" for i in range(20)]
    for split, sentences in (("train", 120), ("valid", 20), ("test", 20)):
        text = "\n".join(
            " ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(sentences)
        )
        (folder / f"{split}.txt").write_text(text)
    paths = [f"data.{split}={folder / split}.txt" for split in ("train", "valid", "test")]
    return [
        "data=text",
        *paths,
        "model.hidden_size=8",
        "train.batch=3",
        "train.bptt=5",
        "device=cpu",
    ]


def columns(folder: Path) -> list[str]:
    """A tagger on sentences in CoNLL's columns."""
    paths = []
    for seed, (split, sentences) in enumerate((("train", 50), ("valid", 12), ("test", 12))):
        write_columns(folder / f"{split}.txt", sentences, seed)
        paths.append(f"data.{split}={folder / split}.txt")
    sizes = [
        "model.hidden_size=8",
        "model.char_size=4",
        "model.char_filters=3",
        "embeddings.size=6",
    ]
    train = ["train.batch=4", "train.epochs=2", "device=cpu"]
    return ["task=ner_conll03", "data=conll", "embeddings=random", *paths, *sizes, *train]


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


def pairs(folder: Path) -> list[str]:
    """A translation model on short pairs."""
    files = backwards(folder, {"train": 60, "valid": 8, "test": 8}, words=6, longest=5)
    sizes = [
        "model.hidden_size=8",
        "train.batch=4",
        "train.steps=6",
        "train.epochs=2",
        "translate.max_length=8",
    ]
    return ["task=nmt_multi30k", *files, *sizes, "device=cpu"]


def backwards(folder: Path, sizes: dict[str, int], words: int, longest: int) -> list[str]:
    """Write sentences whose translation is the sentence backwards; overrides that train on them."""
    rng = random.Random(0)
    overrides = ["data=parallel"]
    for split, size in sizes.items():
        sentences = [
            [f"w{rng.randrange(words)}" for _ in range(rng.randint(2, longest))]
            for _ in range(size)
        ]
        for side, lines in (
            ("src", sentences),
            ("tgt", [sentence[::-1] for sentence in sentences]),
        ):
            path = folder / f"{split}.{side}"
            path.write_text("".join(" ".join(line) + "\n" for line in lines))
            overrides.append(f"data.{split}_{side}={path}")
    return overrides


# The overrides of a tiny training of two epochs on data in a folder, by task.
TASKS: dict[str, Callable[[Path], list[str]]] = {
    "ptb": lambda folder: ["task=ptb_small", "train.epochs=2", *text(folder)],
    "awd": lambda folder: [
        *("task=ptb_awd", "train.epochs=2", "train.lr=1", "model.embedding_size=8"),
        *text(folder),
    ],
    "ner": lambda folder: columns(folder),
    "nmt": lambda folder: pairs(folder),
}
