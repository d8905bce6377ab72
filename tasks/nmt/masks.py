"""What one training step of the translation model drops, drawn ahead for both whole sentences."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from onmt.decoders.decoder import InputFeedRNNDecoder
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from structured_dropout import DropoutPolicy
from structured_dropout.masks import Mask, Packing, UnitMask, draw


@dataclass(frozen=True)
class Masks:
    """Everything but what is dropped inside the encoder's LSTM, which draws for itself.

    Args:
        memory: of the encoder's last hidden states, as the attention reads them.
        nr, rh: of each layer of the decoder; layer 0's nr is of the words, its input feed is
            dropped by ``output``.
        query: of the decoder's last hidden state, as the attention reads it.
        output: of the attentional output, as the projection and the next step's input feed read it.
    """

    memory: Mask | None = None
    nr: list[Mask | None] = field(default_factory=list)
    rh: list[Mask | None] = field(default_factory=list)
    query: Mask | None = None
    output: Mask | None = None

    @classmethod
    def draw(
        cls,
        policy: DropoutPolicy,
        decoder: InputFeedRNNDecoder,
        src_steps: int,
        tgt_steps: int,
        batch: int,
        generator: torch.Generator | None,
    ) -> Masks:
        """Draw what ``policy`` drops; see StructuredModel for the sites."""
        like = next(decoder.parameters())
        site = partial(
            draw,
            steps=tgt_steps,
            batch=batch,
            units=decoder.hidden_size,
            like=like,
            generator=generator,
        )
        layers = range(decoder.num_layers)
        last = decoder.num_layers - 1
        words = decoder.embeddings.embedding_size
        return cls(
            memory=site(policy.rh, steps=src_steps, layer=last),
            nr=[
                site(policy.nr, layer=layer, **({"units": words} if layer == 0 else {}))
                for layer in layers
            ],
            rh=[site(policy.rh, layer=layer) for layer in layers],
            query=site(policy.rh, layer=last),
            output=site(policy.output),
        )

    def elements(self, like: Tensor) -> Masks:
        """The same masks to multiply by."""
        leaves, structure = tree_flatten(vars(self))
        masks = [mask.elements(like) if isinstance(mask, UnitMask) else mask for mask in leaves]
        return Masks(**tree_unflatten(masks, structure))


def dropped(x: Tensor, mask: Mask | None) -> Tensor:
    """x [steps, batch, units], masked and scaled."""
    return (
        x if mask is None else mask.apply(x.flatten(0, 1), Packing.padded(*x.shape[:2])).view_as(x)
    )


class StepDropout:
    """Dropout of one step a call, by a mask that was drawn ahead for the whole sentence.

    Args:
        ones: [steps, batch, units], of the dtype and device of what is dropped.
    """

    def __init__(self, mask: Mask | None, ones: Tensor) -> None:
        self._factors = None if mask is None else dropped(ones, mask)

    def __call__(self, x: Tensor, step: int) -> Tensor:
        """x [batch, units] after dropout."""
        return x if self._factors is None else x * self._factors[step]
