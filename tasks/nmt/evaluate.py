"""How good translations are: BLEU, by sacrebleu."""

from __future__ import annotations

import json
import logging

from omegaconf import DictConfig
from sacrebleu.metrics.bleu import BLEU

from structured_dropout.experiment import settings, streams, trained
from structured_dropout.experiment.errors import UsageError
from tasks.nmt import data
from tasks.nmt.trained import load
from tasks.nmt.translate import translate

_log = logging.getLogger(__name__)
_metric = BLEU(tokenize="none", force=True)  # the text is tokenised, and force says not to mind


def main(cfg: DictConfig) -> None:
    """mode=evaluate: print the BLEU of how the model of ``checkpoint`` translates ``input`` against
    ``reference``, or of the test split of that model's data."""
    trained.require(cfg, "checkpoint")
    if (cfg.input is None) != (cfg.reference is None):
        raise UsageError(
            "input= and reference= belong together: line i of reference is the translation of "
            "line i of input"
        )
    model, vocabulary, state = load(cfg)
    if cfg.input is None:
        pairs, hashes = data.read_split(state.data(cfg), "test")
        state.check_test(**hashes)
    else:
        paths = streams.source(cfg.input), streams.source(cfg.reference)
        pairs, _ = data.read_pairs(*paths, data.LONGEST_SENTENCE)
    if cfg.translate != state.config.translate:
        _log.info("translate=%s, in the training %s", cfg.translate, state.config.translate)
    with settings.autocast(cfg):
        translations = translate(model, vocabulary, pairs.src, cfg.translate.beam, cfg.translate)
    score = bleu(translations, pairs.tgt)
    scores = {"bleu": score, "sentences": len(pairs), "signature": signature()}
    streams.write(json.dumps(scores) + "\n")


def bleu(translations: list[str], references: list[str]) -> float:
    """Corpus BLEU in percent."""
    return float(_metric.corpus_score(translations, [references]).score)


def signature() -> str:
    """What sacrebleu computed, for others to repeat; known once it has computed something."""
    return str(_metric.get_signature())
