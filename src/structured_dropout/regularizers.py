"""Dropout of parameters instead of activations: weights (DropConnect) and words."""

from __future__ import annotations

import torch
from torch import Tensor


def drop_weights(weight: Tensor, p: float) -> Tensor:
    """Drop each weight with probability p and scale the others by 1 / (1 - p): DropConnect (Wan et
    al., 2013).

    Merity et al. (2018) drop U this way, once for a whole sequence, so that any LSTM can compute on
    the result: the weight is copied once an iteration, whatever the number of steps.
    """
    return weight if p == 0 else weight * _keep(weight.shape, p, weight)


def drop_words(vectors: Tensor, tokens: Tensor, vocabulary: int, p: float) -> Tensor:
    """Drop words of the vocabulary, each with all its occurrences (Gal & Ghahramani, 2016; Merity
    et al., 2018).

    Args:
        vectors: the embedded tokens, [..., features].
        tokens: [...], int64.
        vocabulary: how many words there are.
        p: probability of dropping a word; the others are scaled by 1 / (1 - p).
    """
    return vectors if p == 0 else vectors * _keep((vocabulary, 1), p, vectors)[tokens]


def _keep(shape: tuple[int, ...], p: float, like: Tensor) -> Tensor:
    # On a CPU bernoulli_ takes four times as long as rand, and would make a slow baseline of
    # DropConnect.
    return torch.rand(shape, dtype=like.dtype, device=like.device).ge_(p).mul_(1 / (1 - p))
