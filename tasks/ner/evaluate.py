"""How good tags are: entities in conlleval's counting, by seqeval."""

from __future__ import annotations

from seqeval.metrics.sequence_labeling import accuracy_score, precision_recall_fscore_support

from tasks.ner import tags
from tasks.ner.conll import Sentence


def score(predicted: list[list[str]], sentences: list[Sentence]) -> dict[str, float]:
    """F1, precision and recall of whole entities, and the accuracy of single tags, in percent.

    An entity is right if its words and its type are.

    Args:
        predicted: tags in BIO2.
    """
    true = [tags.tags(sentence.entities, len(sentence.words), "BIO2") for sentence in sentences]
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, average="micro", zero_division=0
    )
    fractions = {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "accuracy": accuracy_score(true, predicted),
    }
    return {name: 100 * float(fraction) for name, fraction in fractions.items()}
