"""Translation by OpenNMT-py's beam search."""

from __future__ import annotations

import io
import sys
from contextlib import closing

import torch
from omegaconf import DictConfig
from onmt import inputters
from onmt.translate import GNMTGlobalScorer, Translator
from torch import nn

from structured_dropout.experiment import settings, streams, trained, unknown
from structured_dropout.experiment.progress import Progress
from tasks.nmt import data
from tasks.nmt.batches import Vocabulary
from tasks.nmt.model import TranslationModel
from tasks.nmt.trained import load


def main(cfg: DictConfig) -> None:
    """mode=translate: print each line of ``input`` as the model of ``checkpoint`` translates it,
    batch by batch."""
    trained.require(cfg, "checkpoint", "input")
    lines = data.read_lines(streams.source(cfg.input), data.LONGEST_SENTENCE)
    model, vocabulary, _ = load(cfg)
    unknown.tell((word for line in lines for word in line.split()), vocabulary.words("src"))
    starts = range(0, len(lines), cfg.translate.batch)
    progress = Progress(len(starts), 0, "sentences", stderr=True)
    with closing(progress), settings.autocast(cfg):
        for start in starts:
            batch = lines[start : start + cfg.translate.batch]
            translations = translate(model, vocabulary, batch, cfg.translate.beam, cfg.translate)
            streams.write("".join(f"{line}\n" for line in translations))
            progress.advance(len(batch))
            # In a terminal the translations are what shows that it goes on.
            if progress.due and not sys.stdout.isatty():
                progress.show(f"{start + len(batch):,}/{len(lines):,}")


def translate(
    model: TranslationModel,
    vocabulary: Vocabulary,
    lines: list[str],
    beam: int,
    options: DictConfig,
) -> list[str]:
    """The translation of each line; an empty one stays empty. The model is left in eval mode.

    A translation ends with </s>, at ``max_length`` words, or at twice its source's words and ten: a
    model that has learned nothing does not end by itself, and would take far longer than one that
    has.

    Args:
        beam: how many hypotheses are followed; 1 is greedy.
        options: ``max_length`` of a translation in words, sentences in a ``batch``.
    """
    # Sentences of equal length together: a batch takes as long as its longest.
    order = sorted((i for i, line in enumerate(lines) if line), key=lambda i: len(lines[i].split()))
    translations = [""] * len(lines)
    translator = _translator(model.eval(), vocabulary, beam)
    for start in range(0, len(order), options.batch):
        batch = order[start : start + options.batch]
        translator.max_length = min(options.max_length, 2 * len(lines[batch[-1]].split()) + 10)
        _, best = translator.translate([lines[i] for i in batch], batch_size=len(batch))
        for i, (line, *_) in zip(batch, best, strict=True):
            translations[i] = line
    return translations


def _translator(model: nn.Module, vocabulary: Vocabulary, beam: int) -> Translator:
    device = next(model.parameters()).device
    reader = inputters.TextDataReader()
    return Translator(
        model,
        vocabulary.fields,
        reader,
        reader,
        gpu=-1 if device.type == "cpu" else device.index or torch.cuda.current_device(),
        beam_size=beam,
        global_scorer=GNMTGlobalScorer(0.0, 0.0, "none", "none"),
        dump_beam="",
        out_file=io.StringIO(),
        report_score=False,
    )
