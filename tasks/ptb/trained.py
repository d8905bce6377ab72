"""A trained language model, from its checkpoint."""

from __future__ import annotations

from omegaconf import DictConfig

from structured_dropout.experiment import settings, trained
from structured_dropout.experiment.trained import Trained
from tasks.ptb.model import LanguageModel
from tasks.ptb.model_awd import AWDLanguageModel
from tasks.ptb.vocabulary import Vocabulary

Model = LanguageModel | AWDLanguageModel


def load(cfg: DictConfig) -> tuple[Model, Vocabulary, Trained]:
    """The model of ``checkpoint`` in eval mode, under the dropout that it was trained with: some of
    it, as zoneout, has a part in the evaluation, too."""
    state = trained.load(cfg, "language model", "projection.weight")
    vocabulary = Vocabulary(**state.vocabulary)
    sizes = state.config.model
    policy = settings.policy(state.config, sizes.layers)
    build = AWDLanguageModel if "embedding_size" in sizes else LanguageModel
    model = build(
        len(vocabulary),
        **{"tied": None, **sizes},
        policy=policy,
        backend=settings.backend(cfg, policy),
    )
    model.load_state_dict(state.weights)
    return model.eval().to(settings.device(cfg)), vocabulary, state
