"""The schemes against hand-made cases, and each against itself there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.ner.tags import Entity, InvalidTag, entities, may_follow, tags

LOC, PER = "LOC", "PER"

# One sentence in each scheme: a long entity, a neighbour of its type, one of another type, and one
# word at the end.
WORDS = ["New", "York", "City", "Rome", "Ann", "Lee", "saw", "Bo"]
FOUND = [Entity(0, 3, LOC), Entity(3, 4, LOC), Entity(4, 6, PER), Entity(7, 8, PER)]
WRITTEN = {
    "IOB1": ["I-LOC", "I-LOC", "I-LOC", "B-LOC", "I-PER", "I-PER", "O", "I-PER"],
    "BIO2": ["B-LOC", "I-LOC", "I-LOC", "B-LOC", "B-PER", "I-PER", "O", "B-PER"],
    "IOBES": ["B-LOC", "I-LOC", "E-LOC", "S-LOC", "B-PER", "E-PER", "O", "S-PER"],
}


@pytest.mark.parametrize("scheme", WRITTEN)
def test_the_same_entities_are_read_from_every_scheme(scheme):
    assert entities(WRITTEN[scheme], scheme) == FOUND


@pytest.mark.parametrize("scheme", ["BIO2", "IOBES"])
def test_entities_are_written(scheme):
    assert tags(FOUND, len(WORDS), scheme) == WRITTEN[scheme]
    assert tags([], 2, scheme) == ["O", "O"]


@pytest.mark.parametrize(
    ("scheme", "sequence", "position", "message"),
    [
        ("BIO2", ["O", "I-LOC"], 1, "I-LOC after O is not allowed in BIO2"),
        ("BIO2", ["I-LOC"], 0, "I-LOC at the beginning of a sentence"),
        ("BIO2", ["B-LOC", "I-PER"], 1, "I-PER after B-LOC"),
        ("BIO2", ["O", "S-LOC"], 1, "'S-LOC' is no tag of BIO2: O, or B or I, - and a type"),
        ("BIO2", ["LOC"], 0, "'LOC' is no tag"),
        ("BIO2", ["B-"], 0, "'B-' is no tag"),
        ("BIO2", ["o"], 0, "'o' is no tag"),
        ("IOB1", ["B-LOC"], 0, "B-LOC at the beginning"),
        ("IOB1", ["I-PER", "B-LOC"], 1, "B-LOC after I-PER"),
        ("IOBES", ["B-LOC", "O"], 1, "O after B-LOC"),
        ("IOBES", ["B-LOC", "E-PER"], 1, "E-PER after B-LOC"),
        ("IOBES", ["S-LOC", "E-LOC"], 1, "E-LOC after S-LOC"),
        ("IOBES", ["O", "B-LOC", "I-LOC"], 2, "I-LOC at the end of a sentence"),
    ],
)
def test_what_a_scheme_does_not_allow(scheme, sequence, position, message):
    with pytest.raises(InvalidTag, match=message) as error:
        entities(sequence, scheme)
    assert error.value.position == position


@st.composite
def sentences(draw):
    found, end = [], 0
    for _ in range(draw(st.integers(0, 5))):
        start = end + draw(st.integers(0, 2))
        end = start + draw(st.integers(1, 4))
        found.append(Entity(start, end, draw(st.sampled_from([LOC, PER]))))
    return found, end + draw(st.integers(0, 2))


@given(sentences(), st.sampled_from(["BIO2", "IOBES"]))
def test_there_and_back(sentence, scheme):
    found, length = sentence
    written = tags(found, length, scheme)
    assert entities(written, scheme) == found
    assert all(
        may_follow(a, b, scheme) for a, b in zip(["O", *written], [*written, "O"], strict=True)
    )
