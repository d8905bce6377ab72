"""Translation by OpenNMT-py's beam search."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from omegaconf import DictConfig
from onmt import inputters
from onmt.translate import GNMTGlobalScorer, Translator
from torch import nn

from structured_dropout import DropoutPolicy
from structured_dropout.experiment import checkpoint, settings
from structured_dropout.experiment.errors import UsageError
from tasks.nmt import data
from tasks.nmt.batches import Vocabulary
from tasks.nmt.model import TranslationModel, build


def main(cfg: DictConfig) -> None:
    """mode=translate: print each line of ``input`` as the model of ``checkpoint`` translates it."""
    missing = [key for key in ("checkpoint", "input") if cfg[key] is None]
    if missing:
        raise UsageError(
            f"mode=translate needs {' and '.join(missing)}: the checkpoint of a training, "
            "a text file"
        )
    lines = data.read_lines(Path(cfg.input), data.LONGEST_SENTENCE)
    model, vocabulary = load(Path(cfg.checkpoint))
    model.to(settings.device(cfg))
    for start in range(0, len(lines), _CHUNK):
        with settings.autocast(cfg):
            chunk = translate(
                model, vocabulary, lines[start : start + _CHUNK], cfg.translate.beam, cfg.translate
            )
        print("\n".join(chunk), flush=True)


_CHUNK = 1024  # lines; all of them are translated, shortest first, before the first is printed


def load(path: Path) -> tuple[TranslationModel, Vocabulary]:
    """The model of a checkpoint, and its words.

    Raises:
        UsageError: the file is missing, damaged or no translation model's.
    """
    if not path.exists():
        raise UsageError(f"checkpoint={path} does not exist")
    kept = checkpoint.load(path).get("kept", {})
    if "decoder.attn.linear_in.weight" not in kept.get("model", {}):
        raise UsageError(f"checkpoint={path} is not of a translation model")
    state, vocabulary = kept["model"], Vocabulary(kept["vocabulary"])
    hidden_size = state["decoder.attn.linear_in.weight"].shape[0]
    layers = sum(
        name.startswith("decoder.rnn.layers") and name.endswith("weight_hh") for name in state
    )
    model = build(vocabulary, hidden_size, layers, 0.1, DropoutPolicy(), "fused")
    model.load_state_dict(state)
    return model, vocabulary


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
