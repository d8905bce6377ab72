"""How good translations are: BLEU, by sacrebleu."""

from __future__ import annotations

from sacrebleu.metrics.bleu import BLEU

_metric = BLEU(tokenize="none", force=True)  # the text is tokenised, and force says not to mind


def bleu(translations: list[str], references: list[str]) -> float:
    """Corpus BLEU in percent."""
    return float(_metric.corpus_score(translations, [references]).score)


def signature() -> str:
    """What sacrebleu computed, for others to repeat; known once it has computed something."""
    return str(_metric.get_signature())
