"""Tag schemes: three ways to write which words of a sentence form entities, and of what type.

A tag is ``O``, outside of all entities, or a letter and a type, as in ``B-LOC``. The letters of an
entity of one word (x) and of one of three words (x y z):

    ======  =====  ==================  =====================================================
    scheme  x      x y z
    ======  =====  ==================  =====================================================
    IOB1    I      I I I               begins with B only right after another one of its type
    BIO2    B      B I I
    IOBES   S      B I E
    ======  =====  ==================  =====================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, get_args

OUTSIDE = "O"
Scheme = Literal["IOB1", "BIO2", "IOBES"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
_LETTERS = {"IOB1": ("I", "B"), "BIO2": ("B", "I"), "IOBES": ("B", "I", "E", "S")}


class Entity(NamedTuple):
    """The words ``start`` to ``end`` (exclusive) of a sentence."""

    start: int
    end: int
    type: str


class InvalidTag(ValueError):
    """A tag that the scheme does not allow where it is.

    Args:
        position: of the word in its sentence.
    """

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


def entities(tags: Sequence[str], scheme: Scheme) -> list[Entity]:
    """The entities that the tags of a sentence describe.

    Raises:
        InvalidTag: the scheme has no such tag, or does not allow it here.
    """
    found: list[Entity] = []
    previous = OUTSIDE
    for i, tag in enumerate(tags):
        letter, _, kind = tag.partition("-")
        if tag != OUTSIDE and (letter not in _LETTERS[scheme] or not kind):
            raise InvalidTag(
                i,
                f"{tag!r} is no tag of {scheme}: O, or {' or '.join(_LETTERS[scheme])}, "
                "- and a type",
            )
        if not may_follow(previous, tag, scheme):
            raise InvalidTag(i, f"{tag} {_after(previous, i)} is not allowed in {scheme}")
        if tag != OUTSIDE:
            if _begins(previous, tag):
                found.append(Entity(i, i + 1, kind))
            else:
                found[-1] = found[-1]._replace(end=i + 1)
        previous = tag
    if not may_follow(previous, OUTSIDE, scheme):
        raise InvalidTag(
            len(tags) - 1, f"{previous} at the end of a sentence is not allowed in {scheme}"
        )
    return found


def tags(entities: Iterable[Entity], length: int, scheme: Literal["BIO2", "IOBES"]) -> list[str]:
    """The tags of a sentence of so many words; the inverse of ``entities``."""
    written = [OUTSIDE] * length
    for start, end, kind in entities:
        letters = "B" + "I" * (end - start - 1)
        if scheme == "IOBES":
            letters = "S" if len(letters) == 1 else letters[:-1] + "E"
        written[start:end] = [f"{letter}-{kind}" for letter in letters]
    return written


def may_follow(previous: str, tag: str, scheme: Scheme) -> bool:
    """Whether two tags may be neighbours; the boundary of a sentence counts as ``O``."""
    before, after = previous[0], tag[0]
    same = previous[1:] == tag[1:]
    if scheme == "IOB1":
        return after != "B" or (before != OUTSIDE and same)
    if scheme == "BIO2":
        return after != "I" or (before != OUTSIDE and same)
    if before in "BI":  # the entity goes on
        return after in "IE" and same
    return after in "OBS"


def _begins(previous: str, tag: str) -> bool:
    """Whether an allowed tag, not ``O``, begins an entity."""
    return tag[0] in "BS" or previous == OUTSIDE or previous[1:] != tag[1:]


def _after(previous: str, position: int) -> str:
    return f"after {previous}" if position else "at the beginning of a sentence"
