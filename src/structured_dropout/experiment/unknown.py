"""The words of a text that a model does not know, which a score alone hides."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping

_log = logging.getLogger(__name__)

UNK = "<unk>"  # what a model reads instead, and what a prepared text may have itself


def percent(
    splits: Mapping[str, Iterable[str]],
    vocabulary: Collection[str],
    kind: str = "words",
    allowed: float = 5.0,
) -> dict[str, float]:
    """How many of the words of each split are unknown, in percent; logs it.

    Args:
        allowed: percent more than in ``train``, one of the splits, beyond which it warns.
    """
    shares = {split: round(share(words, vocabulary), 2) for split, words in splits.items()}
    _log.info(
        "unknown %s: %s", kind, ", ".join(f"{x:.1f}% of {split}" for split, x in shares.items())
    )
    for split, found in shares.items():
        if found > shares["train"] + allowed:
            _log.warning(
                "%.1f%% of the %s of %s are unknown, so that its score says little: are the texts "
                "of one kind, and split into words in one way?",
                found, kind, split,
            )  # fmt: skip
    return shares


def tell(words: Iterable[str], vocabulary: Collection[str]) -> None:
    """Log how many of the words of a text that a model is used on are unknown, in percent."""
    if found := share(words, vocabulary):
        _log.info("%.1f%% of the words are unknown: read as %s", found, UNK)


def share(words: Iterable[str], vocabulary: Collection[str]) -> float:
    """How many of the words are unknown, in percent."""
    known = set(vocabulary) - {UNK}
    total = unknown = 0
    for word in words:
        total += 1
        unknown += word not in known
    return 100 * unknown / max(total, 1)
