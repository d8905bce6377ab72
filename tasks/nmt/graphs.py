"""The decoder's loop on a GPU as CUDA graphs.

A step of the loop is dozens of small operations, forward and backward, which the GPU does faster
than they can be launched. What surrounds the loop, the encoder and the projection, is few
operations over whole sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from structured_dropout.masks import ElementMask
from structured_dropout.phases import untimed
from structured_dropout.precision import autocasts, without_autocast
from tasks.nmt.masks import Masks

State = tuple[Tensor, Tensor]
Decode = Callable[[Tensor, Tensor, State, Tensor, Masks], Tensor]

_LENGTHS = 4  # lengths of sentences in a graph are its multiples


class DecoderGraphs:
    """A function that does the same as ``decode``, its gradients included, by two CUDA graphs for
    each combination of lengths, captured when it is first met.

    Args:
        decode: as TranslationModel has it, in training.
        decoder: whose parameters it reads.
    """

    def __init__(self, decode: Decode, decoder: nn.Module) -> None:
        self._decode, self._decoder = decode, decoder
        self._graphs: dict[Any, Callable[..., Tensor]] = {}
        self._memory: Any = None  # of all of them: a step uses one forward and one backward

    def __call__(
        self, tgt: Tensor, lengths: Tensor, state: State, memory: Tensor, masks: Masks
    ) -> Tensor:
        drawn = masks.elements(next(self._decoder.parameters()))
        leaves, structure = tree_flatten(vars(drawn))
        arguments = (tgt, lengths, *state, memory, *(mask.values for mask in leaves if mask))
        kinds = [None if mask is None else mask.steps_per_draw for mask in leaves]
        shapes = (argument.shape for argument in arguments)
        key = (*shapes, *kinds, memory.dtype, autocasts(memory.device))
        untimed()
        with torch.cuda.device(memory.device):
            if key not in self._graphs:
                step = _Decoding(self._decode, self._decoder, leaves, structure, memory.device)
                self._graphs[key] = self._captured(step, arguments)
            with without_autocast(memory.device):
                return self._graphs[key](*arguments)

    def _captured(self, step: nn.Module, arguments: tuple[Tensor, ...]) -> Callable[..., Tensor]:
        if self._memory is None:
            self._memory = torch.cuda.graph_pool_handle()
        samples = tuple(
            argument.detach().clone().requires_grad_(argument.requires_grad)
            for argument in arguments
        )
        device = arguments[0].device
        # The capture's own calls draw nothing from what the training draws from.
        with torch.random.fork_rng([device]), without_autocast(device):
            graph: Callable[..., Tensor] = torch.cuda.make_graphed_callables(
                step, samples, allow_unused_input=True, pool=self._memory
            )
        return graph


class _Decoding(nn.Module):
    """``decode`` as torch captures it: of tensors alone, in a module with its parameters."""

    def __init__(
        self,
        decode: Decode,
        decoder: nn.Module,
        masks: list[ElementMask | None],
        structure: Any,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self._decode, self._masks, self._structure = decode, masks, structure
        dtype = torch.get_autocast_dtype(device.type)
        self._autocast = torch.autocast(device.type, dtype, enabled=autocasts(device))

    def forward(
        self, tgt: Tensor, lengths: Tensor, h: Tensor, c: Tensor, memory: Tensor, *values: Tensor
    ) -> Tensor:
        given = iter(values)
        masks = [mask and replace(mask, values=next(given)) for mask in self._masks]
        drawn = Masks(**tree_unflatten(masks, self._structure))
        with self._autocast:
            return self._decode(tgt, lengths, (h, c), memory, drawn)


def rounded(ids: Tensor, padding: int, more: int = 0) -> Tensor:
    """ids [len, batch, 1] filled up with ``padding`` to a multiple of four words and ``more``, so
    that there are few lengths to capture."""
    missing = (more - len(ids)) % _LENGTHS
    return F.pad(ids, (0, 0, 0, 0, 0, missing), value=padding)
