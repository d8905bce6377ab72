"""One iteration for the benchmark, on made-up text of the Penn Treebank's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from structured_dropout.experiment import settings
from tasks.ptb import train, train_awd
from tasks.ptb.data import PTB_TYPES
from tasks.ptb.model import LanguageModel
from tasks.ptb.model_awd import AWDLanguageModel
from tasks.ptb.model_torch import TorchLanguageModel
from tasks.ptb.nt_asgd import NTASGD


def zaremba(cfg: DictConfig) -> Callable[[], object]:
    """A training iteration of ``train``."""
    policy = settings.policy(cfg, layers=cfg.model.layers)
    backend = settings.backend(cfg, policy)
    return _iteration(cfg, LanguageModel(PTB_TYPES, **cfg.model, policy=policy, backend=backend))


def rival(cfg: DictConfig) -> Callable[[], object]:
    """The same of torch's own modules."""
    policy = settings.policy(cfg, layers=cfg.model.layers)
    return _iteration(cfg, TorchLanguageModel(PTB_TYPES, **cfg.model, policy=policy))


def _iteration(cfg: DictConfig, model: nn.Module) -> Callable[[], object]:
    device = settings.device(cfg)
    model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=cfg.train.lr)
    tokens = _tokens(cfg, device)
    zeros = torch.zeros(cfg.model.layers, cfg.train.batch, cfg.model.hidden_size, device=device)
    state, autocast = (zeros, zeros), settings.autocast(cfg)
    step = partial(train.step, model, optimizer, cfg.train.clip, autocast)
    return partial(settings.graphed(cfg, step), tokens, tokens, state)


def awd(cfg: DictConfig) -> Callable[[], object]:
    """A training iteration of ``train_awd``, over a window of the average length."""
    policy, device = settings.policy(cfg, layers=cfg.model.layers), settings.device(cfg)
    model = AWDLanguageModel(
        PTB_TYPES, **cfg.model, policy=policy, backend=settings.backend(cfg, policy)
    ).to(device)
    optimizer = NTASGD(model.parameters(), cfg.train.lr, cfg.train.weight_decay, cfg.train.nonmono)
    tokens, autocast = _tokens(cfg, device), settings.autocast(cfg)
    step = partial(train_awd.step, model, optimizer, cfg.train, autocast)
    return partial(settings.graphed(cfg, step), tokens, tokens, None)


def _tokens(cfg: DictConfig, device: torch.device) -> Tensor:
    return torch.randint(PTB_TYPES, (cfg.train.bptt, cfg.train.batch), device=device)
