"""StructuredLSTM: torch.nn.LSTM that computes only what dropout leaves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from structured_dropout import backends
from structured_dropout.backends.base import CellMasks, LayerMasks, Weights
from structured_dropout.masks import Packing, draw, draw_held
from structured_dropout.policy import Case, DropoutPolicy, SiteDropout
from structured_dropout.regularizers import drop_weights

State = tuple[Tensor, Tensor]


class StructuredLSTM(nn.LSTM):
    """Drop-in for ``torch.nn.LSTM``: same constructor, inputs, outputs and state_dict.

    In training the input of each layer (nr) and the recurrent state (rh) are dropped as ``policy``
    says, masked once and only once: layer 0's input included, the output of the last layer not.
    Masks are drawn anew for each call. In eval mode, or without dropout, the result equals
    nn.LSTM's to float tolerance, zoneout's excepted, which stays on as its expectation. Only the
    fused backend, and dense where a regularizer is inside the cell, have second derivatives; with
    the others a backward with ``create_graph=True`` raises.

    Args:
        policy: what to drop; its ``output`` site is the caller's to draw. Without a policy
            ``dropout`` means what it means in nn.LSTM: random dropout between layers.
        backend: ``auto``, or one of ``structured_dropout.backends``.
        generator: where structured masks are drawn from; torch's default CPU generator if None.
        Others: as in ``torch.nn.LSTM``; ``proj_size`` must stay 0.

    Raises:
        ValueError: both ``policy`` and ``dropout`` are given, a rate list does not fit
            ``num_layers``, or the backend is unknown.
        RuntimeError: the backend cannot run this policy here.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        policy: DropoutPolicy | None = None,
        backend: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        if proj_size != 0:
            raise ValueError("StructuredLSTM has no projections: proj_size must be 0")
        if policy is not None and dropout != 0:
            raise ValueError("give either policy or dropout: a policy says all that is dropped")
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        if policy is None:
            between = (
                SiteDropout(Case.I, (0.0, *[float(dropout)] * (num_layers - 1)))
                if dropout
                else None
            )
            policy = DropoutPolicy(nr=between)
        policy.check_layers(num_layers)
        self.policy = replace(policy, output=None)
        self.backend = backend
        self.generator = generator
        weight = next(self.parameters())
        backends.check(
            backend, self.policy, weight.device, weight.dtype
        )  # an impossible choice fails here

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # each step keeps other units: nothing to compile once
    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        masks: list[LayerMasks] | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Run the sequence; shapes as in nn.LSTM.

        Args:
            input: [T, B, input_size], [B, T, input_size] with batch_first, [T, input_size]
                unbatched, or packed.
            hx: (h_0, c_0), each [num_layers * directions, B, hidden_size]; zeros if None.
            masks: one entry a layer, as ``draw_masks`` returns; drawn here if None.

        Raises:
            ValueError: the sequence has no steps, or shapes or masks do not fit.
        """
        if isinstance(input, PackedSequence):
            packing = Packing(tuple(input.batch_sizes.tolist()))
            state = self._state(hx, input.data, packing.batch)
            state = self.permute_hidden(state, input.sorted_indices)
            y, state = self._layers(input.data, state, masks, packing)
            output = PackedSequence(
                y, input.batch_sizes, input.sorted_indices, input.unsorted_indices
            )
            return output, self.permute_hidden(state, input.unsorted_indices)

        if input.dim() not in (2, 3):
            raise ValueError(
                f"StructuredLSTM takes a 2-D (unbatched) or 3-D input, not {input.dim()}-D"
            )
        unbatched = input.dim() == 2
        if unbatched:
            input = input.unsqueeze(1)
            hx = hx and (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
        elif self.batch_first:
            input = input.transpose(0, 1)
        steps, batch, features = input.shape
        if steps == 0:
            raise ValueError("the sequence has no steps")
        state = self._state(hx, input, batch)
        rows = input.reshape(steps * batch, features)
        y, state = self._layers(rows, state, masks, Packing.padded(steps, batch))
        y = y.view(steps, batch, self._directions * self.hidden_size)
        if unbatched:
            return y.squeeze(1), (state[0].squeeze(1), state[1].squeeze(1))
        return y.transpose(0, 1) if self.batch_first else y, state

    def draw_masks(self, steps: int, batch: int) -> list[LayerMasks]:
        """Draw what one training sequence drops, layer by layer; in eval mode only zoneout's expectation."""
        policy = self.policy if self.training else DropoutPolicy(zoneout=self.policy.zoneout)
        like = next(self.parameters())
        site = partial(draw, steps=steps, batch=batch, like=like, generator=self.generator)
        held = partial(
            draw_held,
            steps=steps,
            batch=batch,
            units=self.hidden_size,
            like=like,
            expectation=not self.training,
        )

        def inside(layer: int) -> CellMasks:
            cell, update = (
                site(s, units=self.hidden_size, layer=layer) for s in (policy.cell, policy.update)
            )
            h, c = (policy.zoneout.h, policy.zoneout.c) if policy.zoneout else (0.0, 0.0)
            return CellMasks(cell, update, held(h), held(c))

        masks = []
        for layer in range(self.num_layers):
            nr = site(policy.nr, units=self._inputs(layer), layer=layer)
            rh = tuple(
                site(policy.rh, units=self.hidden_size, layer=layer)
                for _ in range(self._directions)
            )
            cells = (
                tuple(inside(layer) for _ in range(self._directions)) if policy.inside_cell else ()
            )
            masks.append(LayerMasks(nr, rh, cells))
        return masks

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, policy={self.policy}, backend={self.backend!r}"

    def _inputs(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.hidden_size * self._directions

    def _layers(
        self, x: Tensor, state: State, masks: list[LayerMasks] | None, packing: Packing
    ) -> tuple[Tensor, State]:
        name = backends.resolve(self.backend, self.policy, x.device, x.dtype)
        backend = backends.get(name)
        if masks is None:
            masks = self.draw_masks(packing.steps, packing.batch)
        else:
            self._check(masks, packing)
        d = self._directions
        h_n, c_n = [], []
        for layer in range(self.num_layers):
            own = slice(layer * d, (layer + 1) * d)
            x, h, c = backend.lstm_layer(
                x, state[0][own], state[1][own], self._layer_weights(layer), masks[layer], packing
            )
            h_n.append(h)
            c_n.append(c)
        return x, (torch.cat(h_n), torch.cat(c_n))

    def _check(self, masks: list[LayerMasks], packing: Packing) -> None:
        if len(masks) != self.num_layers:
            raise ValueError(
                f"masks must have an entry for each of {self.num_layers} layers, has {len(masks)}"
            )
        for layer, own in enumerate(masks):
            own.check_fit(packing, self._inputs(layer), self.hidden_size, self._directions)

    def _layer_weights(self, layer: int) -> tuple[Weights, ...]:
        suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: self._directions]

        def parameter(name: str) -> Any:  # None for a bias that is not there
            return getattr(self, name, None)

        return tuple(
            Weights(
                parameter("weight_ih" + suffix),
                drop_weights(
                    parameter("weight_hh" + suffix), self.policy.weight if self.training else 0.0
                ),
                parameter("bias_ih" + suffix),
                parameter("bias_hh" + suffix),
            )
            for suffix in suffixes
        )

    def _state(self, hx: State | None, x: Tensor, batch: int) -> State:
        shape = (self.num_layers * self._directions, batch, self.hidden_size)
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"the input has {x.shape[-1]} features, input_size is {self.input_size}"
            )
        if hx is None:
            zeros = x.new_zeros(shape)
            return zeros, zeros
        for name, tensor in zip(("h_0", "c_0"), hx, strict=True):
            if tensor.shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, not {list(tensor.shape)}")
        return hx
