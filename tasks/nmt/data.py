"""Parallel text for machine translation: pairs of sentences to train, validate and test on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pooch
from omegaconf import DictConfig

from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.inputs import (
    check_sha256,
    data_folder,
    data_path,
    hashes_of,
    read_hashed,
)

SPLITS = ("train", "valid", "test")
SIDES = ("src", "tgt")


@dataclass(frozen=True)
class Pairs:
    """Sentences and their translations, words separated by spaces."""

    src: list[str]
    tgt: list[str]

    def __len__(self) -> int:
        return len(self.src)

    def __getitem__(self, pairs: slice) -> Pairs:
        return Pairs(self.src[pairs], self.tgt[pairs])

    def up_to(self, words: int) -> Pairs:
        """The pairs of which neither sentence is longer, or empty."""
        fits = [
            pair
            for pair in zip(self.src, self.tgt, strict=True)
            if all(0 < len(s.split()) <= words for s in pair)
        ]
        return Pairs([src for src, _ in fits], [tgt for _, tgt in fits])


@dataclass(frozen=True)
class Corpus:
    """The three splits; ``provenance`` says what the text is."""

    train: Pairs
    valid: Pairs
    test: Pairs
    provenance: dict[str, Any]


@dataclass(frozen=True)
class PublicSet:
    """A set that everybody uses. Its files lie in the data folder as <stem>.<language>.

    Args:
        stems: of the three splits.
        pairs: for training, as published.
        url: of the folder that has the files under the same names; None if they must be made.
        stand_in: where the set is not there in full: what to train on instead, and what to say of
            it.
    """

    src: str
    tgt: str
    stems: dict[str, str]
    pairs: int
    url: str | None
    stand_in: tuple[str, str] | None = None


SETS = {
    "multi30k": PublicSet(
        src="de",
        tgt="en",
        stems={
            "train": "multi30k_de_en/train.lc.norm.tok",
            "valid": "multi30k_de_en/val.lc.norm.tok",
            "test": "multi30k_de_en/test_2016_flickr.lc.norm.tok",
        },
        pairs=29_000,
        url="https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/tok/",
    ),
    "iwslt14_de_en": PublicSet(
        src="de",
        tgt="en",
        stems={split: f"iwslt14_de_en/{split}" for split in SPLITS},
        pairs=160_239,
        url=None,
        stand_in=("iwslt14_de_en/train.partial", "partial: 48,872 of the 160,239 training pairs"),
    ),
    "iwslt15_en_vi": PublicSet(
        src="en",
        tgt="vi",
        stems={
            "train": "iwslt15_en_vi/train",
            "valid": "iwslt15_en_vi/tst2012",
            "test": "iwslt15_en_vi/tst2013",
        },
        pairs=133_317,
        url="https://nlp.stanford.edu/projects/nmt/data/iwslt15.en-vi/",
        stand_in=(
            "en_vi_mix/train",
            "substitute: 100,057 pairs of other sources for the 133,317 training pairs",
        ),
    ),
}


def load(data: DictConfig) -> Corpus:
    """The corpus that ``data`` describes.

    Raises:
        UsageError: a file is missing, altered, empty or not text, or two that belong together
            differ in length.
    """
    for split in SPLITS:
        missing = [f"data.{split}_{side}" for side in SIDES if data[f"{split}_{side}"] is None]
        if missing and (data.name == "parallel" or len(missing) == 1):
            raise UsageError(
                f"{' and '.join(missing)} must be given: paths of text files, a sentence a line"
            )

    notes: list[str] = []
    splits: dict[str, Pairs] = {}
    hashes: dict[str, str] = {}
    for split in SPLITS:
        splits[split], digests = read_split(data, split)
        hashes |= digests
        note = _files(data, split).note
        notes += [note] if note else []
    if (
        data.name != "parallel"
        and not notes
        and len(splits["train"]) != (published := SETS[data.name].pairs)
    ):
        notes.append(f"{len(splits['train']):,} training pairs where {published:,} are published")
    splits["train"] = splits["train"].up_to(data.max_length)
    if not len(splits["train"]):
        raise UsageError(
            f"no training pair has sentences of 1 to data.max_length={data.max_length} words"
        )
    if data.evaluate_on is not None:
        notes.append(f"BLEU of the first {data.evaluate_on} sentences")
    provenance = {
        "name": data.name,
        "exact": not notes,
        **({"note": "; ".join(notes)} if notes else {}),
        "pairs": {split: len(pairs) for split, pairs in splits.items()},
        "hashes": hashes,
    }
    return Corpus(**splits, provenance=provenance)


def hashes(cfg: DictConfig) -> dict[str, str]:
    """What a finished run knows its data by, as far as they are here."""
    files = {split: _files(cfg.data, split) for split in SPLITS}
    return hashes_of(
        {f"{split}_{side}": getattr(files[split], side) for split in SPLITS for side in SIDES}
    )


def read_split(data: DictConfig, split: str) -> tuple[Pairs, dict[str, str]]:
    """The pairs of one split, of development and test set those that are translated; and the hashes
    of its files.

    Raises:
        UsageError: as ``load`` does.
    """
    files = _files(data, split)
    if not files.own:
        _complete(files, data, split)
    # Of training pairs the long ones are left out.
    longest = None if split == "train" else LONGEST_SENTENCE
    pairs, digests = read_pairs(files.src, files.tgt, longest)
    hashes = {f"{split}_{side}": digest for side, digest in zip(SIDES, digests, strict=True)}
    return pairs if split == "train" else pairs[: data.get("evaluate_on")], hashes


LONGEST_SENTENCE = 1000  # words; all of a batch are translated as if they had as many


def read_lines(path: Path, longest: int | None = None) -> list[str]:
    """The lines of a UTF-8 text file. Only a line feed ends one: others may be part of a sentence.

    Args:
        longest: words that a line may have; None: any number.

    Raises:
        UsageError: the file cannot be read, is empty, no text or has a longer line.
    """
    return _hashed_lines(path, longest)[0]


def _hashed_lines(path: Path, longest: int | None = None) -> tuple[list[str], str]:
    text, digest = read_hashed(path)
    if not text.strip():
        raise UsageError(f"{path} is empty")
    lines = [line.split() for line in text.removesuffix("\n").split("\n")]
    for number, words in enumerate(lines, start=1):
        if longest is not None and len(words) > longest:
            raise UsageError(
                f"{path}:{number} has {len(words):,} words: {longest:,} at most can be translated"
            )
    return [" ".join(words) for words in lines], digest


def read_pairs(
    src_path: Path, tgt_path: Path, longest: int | None
) -> tuple[Pairs, tuple[str, str]]:
    """The lines of two files that translate each other, and the files' hashes.

    Args:
        longest: words that a line of the first may have; None: any number.

    Raises:
        UsageError: one cannot be read, or they differ in length.
    """
    (src, src_hash), (tgt, tgt_hash) = _hashed_lines(src_path, longest), _hashed_lines(tgt_path)
    if len(src) != len(tgt):
        raise UsageError(
            f"{src_path} has {len(src):,} lines and {tgt_path} has {len(tgt):,}: line i of one "
            "must be the translation of line i of the other"
        )
    return Pairs(src, tgt), (src_hash, tgt_hash)


def fetch(name: str, split: str, folder: Path) -> None:
    """Download what is missing of a public set's split into the data folder.

    Raises:
        UsageError: the set must be made, or cannot be reached.
    """
    public = SETS[name]
    for language in (public.src, public.tgt):
        file = f"{public.stems[split]}.{language}"
        path = folder / file
        if path.exists():
            continue
        if public.url is None:
            raise UsageError(
                f"{path} is missing: fairseq's examples/translation/prepare-iwslt14.sh makes it "
                "(before BPE, in its tmp folder). Put it there, or set data.dir, or "
                f"data.{split}_src and data.{split}_tgt"
            )
        try:
            pooch.retrieve(
                public.url + path.name, f"sha256:{_known_hashes()[file]}", path.name, path.parent
            )
        except Exception as error:  # whatever the network brings
            raise UsageError(
                f"{path} is missing and cannot be downloaded ({error}): put it there, "
                "or set data.dir"
            ) from error


class _Files(NamedTuple):
    """Those of a split, and what to say of them if they are not the published ones."""

    src: Path
    tgt: Path
    own: bool = False
    note: str | None = None


def _files(data: DictConfig, split: str) -> _Files:
    if (own := data.get(f"{split}_src")) is not None:
        note = f"own {split} files" if data.name != "parallel" else None
        return _Files(Path(own), Path(data[f"{split}_tgt"]), own=True, note=note)
    public, folder, note = SETS[data.name], data_path(data), None
    stem = public.stems[split]
    if split == "train" and public.stand_in and not (folder / f"{stem}.{public.src}").exists():
        instead, text = public.stand_in
        if (folder / f"{instead}.{public.src}").exists():
            stem, note = instead, text
    src, tgt = (folder / f"{stem}.{language}" for language in (public.src, public.tgt))
    return _Files(src, tgt, note=note)


def _complete(files: _Files, data: DictConfig, split: str) -> None:
    """Download what is missing of a public set's files, and refuse altered ones."""
    folder, known = data_folder(data), _known_hashes()
    if files.note is None:
        fetch(data.name, split, folder)
    for path in (files.src, files.tgt):
        digest = known.get(str(path.relative_to(folder)))
        if digest and path.exists():
            advice = f"Restore it; your own files go in data.{split}_src and data.{split}_tgt"
            check_sha256(path, digest, advice)


def _known_hashes() -> dict[str, str]:
    lines = (Path(__file__).parent / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}
