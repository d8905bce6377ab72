from seqeval.metrics.sequence_labeling import get_entities

from tasks.ner import data, tags
from tasks.ner.conll import Sentence
from tasks.ner.evaluate import score
from tasks.ner.tags import Entity

GOLD = [
    Sentence(["a", "b", "c", "d"], [Entity(0, 2, "LOC"), Entity(3, 4, "PER")]),
    Sentence(["e"], []),
]


def test_an_entity_is_right_as_a_whole():
    predicted = [
        ["B-LOC", "I-LOC", "B-PER", "B-LOC"],
        ["O"],
    ]  # one of three found, of two there are
    scores = score(predicted, GOLD)
    assert round(scores["precision"], 2) == 33.33
    assert scores["recall"] == 50
    assert scores["f1"] == 40
    assert scores["accuracy"] == 60  # of single tags
    assert score([["B-LOC", "I-LOC", "O", "B-PER"], ["O"]], GOLD)["f1"] == 100
    assert score([["O"] * 4, ["O"]], GOLD)["f1"] == 0


def test_real_entities_are_counted_as_conlleval_counts_them(compose, real_data):
    """Against the counts that come with CoNLL-2003, by type (Tjong Kim Sang & De Meulder, 2003,
    table 2)."""
    corpus = data.load(compose("task=ner_conll03", f"data.dir={real_data}").data)
    expected = {
        "train": {"LOC": 7140, "MISC": 3438, "ORG": 6321, "PER": 6600},
        "valid": {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842},
        "test": {"LOC": 1668, "MISC": 702, "ORG": 1661, "PER": 1617},
    }
    for split, counts in expected.items():
        sentences = getattr(corpus, split)
        written = [tags.tags(s.entities, len(s.words), "BIO2") for s in sentences]
        found = [kind for kind, _, _ in get_entities(written)]
        assert {kind: found.count(kind) for kind in sorted(set(found))} == counts
        assert len(found) == {"train": 23_499, "valid": 5_942, "test": 5_648}[split]
        assert score(written, sentences)["f1"] == 100
