"""The decoder's loop on a GPU as CUDA graphs.

A step of the loop is dozens of small operations, forward and backward, which the GPU does faster
than they can be launched. What surrounds the loop, the encoder and the projection, is few
operations over whole sentences.
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

_LENGTHS = 4  # lengths of sentences in a graph are its multiples


class DecoderGraphs:
    """A function that does the same as ``decode`` of one decoder, gradients included, by two CUDA
    graphs for each combination of lengths; they are captured when it is first met."""

    def __init__(self) -> None:
        self._graphs: dict[Any, Callable[..., Tensor]] = {}
        self._memory: Any = None  # of all of them: a step uses one forward and then its backward

    def __call__(
        self,
        decoder: InputFeedRNNDecoder,
        tgt: Tensor,
        lengths: Tensor,
        state: tuple[Tensor, Tensor],
        memory: Tensor,
        masks: Masks,
        backend: str,
        dtype: torch.dtype,
    ) -> Tensor:
        untimed()
        drawn = masks.elements(next(decoder.parameters()))
        leaves, structure = tree_flatten(vars(drawn))
        arguments = (tgt, lengths, *state, memory, *(mask.values for mask in leaves if mask))
        steps_per_draw = (mask and mask.steps_per_draw for mask in leaves)
        key = (*(argument.shape for argument in arguments), *steps_per_draw, memory.dtype, dtype)
        with torch.cuda.device(memory.device):
            if key not in self._graphs:
                loop = _Loop(decoder, leaves, structure, backend, dtype)
                self._graphs[key] = self._captured(loop, arguments)
            return self._graphs[key](*arguments)

    def _captured(self, loop: nn.Module, arguments: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        samples = tuple(
            argument.detach().clone().requires_grad_(argument.requires_grad)
            for argument in arguments
        )
        # The parameters' gradients stay on the capture's stream, which costs one wait.
        warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")
        graph: Callable[..., Tensor] = torch.cuda.make_graphed_callables(
            loop, samples, allow_unused_input=True, pool=self._memory
        )
        return graph


class _Loop(nn.Module):
    """``decode`` as torch captures it: of tensors alone, in a module with its parameters.

    Args:
        masks, structure: the masks, whose values ``forward`` is told anew, as ``tree_flatten``
            gives them.
    """

    def __init__(
        self,
        decoder: InputFeedRNNDecoder,
        masks: list[ElementMask | None],
        structure: TreeSpec,
        backend: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self._masks, self._structure = masks, structure
        self._computed = backend, dtype

    def forward(
        self, tgt: Tensor, lengths: Tensor, h: Tensor, c: Tensor, memory: Tensor, *values: Tensor
    ) -> Tensor:
        given = iter(values)
        masks = [mask and replace(mask, values=next(given)) for mask in self._masks]
        drawn = Masks(**tree_unflatten(masks, self._structure))
        return decode(self.decoder, tgt, lengths, (h, c), memory, drawn, *self._computed)


def rounded(ids: Tensor, padding: int, more: int = 0) -> Tensor:
    """ids [len, batch, 1] filled up with ``padding`` to a multiple of four words and ``more``, so
    that there are few lengths to capture."""
    missing = (more - len(ids)) % _LENGTHS
    return F.pad(ids, (0, 0, 0, 0, 0, missing), value=padding)
