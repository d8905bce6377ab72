"""The character CNN: a vector of a word from its spelling.

Words are short and of all lengths, so they are not padded to the longest: the windows of all words
are one matrix, and the maximum over each word's windows is taken in it.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from structured_dropout.backends.cpu import build
from structured_dropout.derivatives import differentiable_once
from tasks.ner.vocabulary import PAD

_log = logging.getLogger(__name__)


class CharCNN(nn.Module):
    """Each dimension of the character embeddings has filters of its own; of each the maximum over
    the word counts.

    The same function as a ``torch.nn.Conv1d`` of ``groups=size`` over the word with ``width - 1``
    zeros on both sides.

    Args:
        characters: how many there are besides the padding.
        size: of a character's embedding.
        filters: for each of its dimensions.
        width: characters that a filter sees.
        dropout: the rate at which elements of the embeddings are dropped.
        backend: ``cpu``, the C++ kernel; ``auto``, that where it runs; any other, torch's products.
    """

    def __init__(
        self, characters: int, size: int, filters: int, width: int, dropout: float, backend: str
    ) -> None:
        super().__init__()
        self.backend = backend
        self.embedding = nn.Embedding(characters + 1, size, padding_idx=PAD)
        self.dropout = nn.Dropout(dropout)
        self.width = width
        self.weight = nn.Parameter(torch.empty(size, width, filters))
        self.bias = nn.Parameter(torch.empty(size * filters))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)  # as in nn.Conv1d

    @property
    def output_size(self) -> int:
        return len(self.bias)

    def forward(self, characters: Tensor, windows: Tensor) -> Tensor:
        """[W, size * filters] for the characters and windows of W words as in ``batches.Batch``."""
        x = self.dropout(self.embedding(characters))
        highest: Tensor
        if self.backend == "cpu" or (self.backend == "auto" and _has_kernel(x.device)):
            highest = _ConvolveAndMax.apply(x, self.weight, windows)  # type: ignore[no-untyped-call]
        else:
            highest = _MaxOverWindows.apply(self._convolve(x), windows)  # type: ignore[no-untyped-call]
        return highest + self.bias

    def _convolve(self, x: Tensor) -> Tensor:
        """[windows, size * filters]"""
        y = torch.bmm(x.unfold(0, self.width, 1).transpose(0, 1), self.weight)
        # [size, windows, filters]
        return y.transpose(0, 1).flatten(1)


@cache
def _has_kernel(device: torch.device) -> bool:
    try:
        if device.type != "cpu":
            raise RuntimeError("its kernel runs on the CPU")
        build.load()
    except RuntimeError as reason:
        _log.info("character CNN: by torch's products, not in one pass: %s", reason)
        return False
    return True


class _ConvolveAndMax(torch.autograd.Function):
    """Both in one pass (kernels/cpu/char_cnn.cpp); the gradient goes to the first maximum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, windows: Tensor) -> Tensor:
        highest, best = build.load().char_cnn_fp(x, weight, windows)
        ctx.save_for_backward(x, weight, windows, best)
        return highest

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dhighest: Tensor) -> tuple[Tensor, Tensor, None]:
        return *build.load().char_cnn_bp(dhighest, *ctx.saved_tensors), None


class _MaxOverWindows(torch.autograd.Function):
    """The maximum over the rows of each word, y [windows, features] to [words, features].

    The gradient goes to the first maximum, as in the kernel. torch's own segment and scatter
    reductions share it among equal ones, in a backward that takes several times as long.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, windows: Tensor) -> Tensor:
        word = torch.repeat_interleave(windows)  # of each row
        highest = y.new_full((len(windows), y.shape[1]), -torch.inf)
        highest.scatter_reduce_(0, word.unsqueeze(1).expand_as(y), y, "amax")
        ctx.save_for_backward(y, word, highest)
        return highest

    @staticmethod
    def backward(ctx: Any, dhighest: Tensor) -> tuple[Tensor, None]:
        y, word, highest = ctx.saved_tensors
        row = torch.arange(len(y), device=y.device).unsqueeze(1)
        # In a word of NaN it is reached by all rows.
        reached = row.where(~(y < highest.index_select(0, word)), len(y))
        first = torch.full_like(highest, len(y), dtype=torch.int64)
        first.scatter_reduce_(0, word.unsqueeze(1).expand_as(y), reached, "amin")
        return torch.zeros_like(y).scatter_(0, first, dhighest), None
