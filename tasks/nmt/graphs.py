"""The decoder's loop on a GPU as CUDA graphs.

A step of the loop is dozens of small operations, forward and backward, which the GPU does faster
than they can be launched. What surrounds the loop is few operations over whole sentences.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from onmt.decoders.decoder import InputFeedRNNDecoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from structured_dropout.masks import ElementMask
from structured_dropout.phases import untimed
from tasks.nmt.decoder import decode
from tasks.nmt.masks import Masks

_MULTIPLE = 4  # to which sentences are filled up, so that there are few shapes to capture


class DecoderGraphs:
    """A function that does the same as ``decode``, by two CUDA graphs, forward and backward, for
    each combination of shapes, captured when it first occurs.

    It is for a training step: the backward of a call comes before the next call, gradients are
    dropped before it (they lie in the memory of the graphs), and parameters change only in place.
    Each combination keeps memory for the gradients of the LSTM and the attention.
    """

    def __init__(self) -> None:
        self._graphs: dict[Any, Callable[..., Tensor]] = {}
        self._pool: Any = None  # the memory of all of them, since only one runs at a time

    def __call__(
        self,
        decoder: InputFeedRNNDecoder,
        words: Tensor,
        lengths: Tensor,
        state: tuple[Tensor, Tensor],
        memory: Tensor,
        masks: Masks,
        backend: str,
        dtype: torch.dtype,
    ) -> Tensor:
        untimed()
        # The loop only skips by the memory's mask, and by elements there is nothing to skip.
        drawn = replace(masks, memory=None).elements(next(decoder.parameters()))
        leaves, structure = tree_flatten(vars(drawn))
        steps = _rounded(len(words))
        values = [_filled(mask.values, -(-steps // mask.steps_per_draw)) for mask in leaves if mask]
        memory = _filled(memory, _rounded(len(memory)))
        arguments = (_filled(words, steps), lengths, *state, memory, *values)
        steps_per_draw = tuple(mask and mask.steps_per_draw for mask in leaves)
        kinds = tuple((x.shape, x.dtype, x.requires_grad) for x in arguments)
        key = (decoder, backend, dtype, kinds, steps_per_draw)
        with torch.cuda.device(memory.device):
            if key not in self._graphs:
                loop = _Loop(decoder, steps_per_draw, structure, backend, dtype)
                self._graphs[key] = self._captured(loop, arguments)
            return self._graphs[key](*arguments)[: len(words)]

    def _captured(self, loop: nn.Module, arguments: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        samples = tuple(
            argument.detach().clone().requires_grad_(argument.requires_grad)
            for argument in arguments
        )
        # The parameters' gradients stay on the capture's stream, which costs one wait.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
        graph: Callable[..., Tensor] = torch.cuda.make_graphed_callables(
            loop, samples, pool=self._pool
        )
        return graph


class _Loop(nn.Module):
    """``decode`` as torch captures it: of tensors alone, in a module whose parameters are those
    that it reads.

    Args:
        steps_per_draw, structure: of the masks, as ``tree_flatten`` gives them.
    """

    def __init__(
        self,
        decoder: InputFeedRNNDecoder,
        steps_per_draw: tuple[int | None, ...],
        structure: TreeSpec,
        backend: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.rnn, self.attn = decoder.rnn, decoder.attn
        self._decode = lambda *given: decode(decoder, *given, backend, dtype)
        self._steps_per_draw, self._structure = steps_per_draw, structure

    def forward(
        self, words: Tensor, lengths: Tensor, h: Tensor, c: Tensor, memory: Tensor, *values: Tensor
    ) -> Tensor:
        given = iter(values)
        masks = [steps and ElementMask(next(given), steps) for steps in self._steps_per_draw]
        drawn = Masks(**tree_unflatten(masks, self._structure))
        return self._decode(words, lengths, (h, c), memory, drawn)


def _rounded(length: int) -> int:
    return -(-length // _MULTIPLE) * _MULTIPLE


def _filled(x: Tensor, length: int) -> Tensor:
    """x [len, batch, units] with zeros behind, so many in all."""
    return F.pad(x, (0, 0, 0, 0, 0, length - len(x)))
