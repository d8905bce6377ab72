"""A trained translation model, from its checkpoint."""

from __future__ import annotations

from omegaconf import DictConfig

from structured_dropout import DropoutPolicy
from structured_dropout.experiment import settings, trained
from structured_dropout.experiment.trained import Trained
from tasks.nmt.batches import Vocabulary
from tasks.nmt.model import TranslationModel, build


def load(cfg: DictConfig) -> tuple[TranslationModel, Vocabulary, Trained]:
    """The model of ``checkpoint``, which drops nothing any more."""
    state = trained.load(cfg, "translation model", "decoder.attn.linear_in.weight")
    vocabulary = Vocabulary(state.vocabulary)
    model = build(vocabulary, **state.config.model, policy=DropoutPolicy(), backend="fused")
    model.load_state_dict(state.weights)
    return model.to(settings.device(cfg)), vocabulary, state
