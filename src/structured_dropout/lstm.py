"""StructuredLSTM: torch.nn.LSTM that computes only what dropout leaves."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable takes seconds to import
from torch.nn.utils.rnn import PackedSequence

from structured_dropout import backends, precision
from structured_dropout.generators import OwnStream
from structured_dropout.layer import CellMasks, LayerMasks, Weights
from structured_dropout.linear import CANNOT_SCRIPT
from structured_dropout.masks import Packing, draw, draw_held
from structured_dropout.policy import Case, DropoutPolicy, SiteDropout, check_policy
from structured_dropout.regularizers import drop_weights

State = tuple[Tensor, Tensor]


class StructuredLSTM(nn.LSTM):
    """Drop-in for ``torch.nn.LSTM``: same constructor, inputs, outputs and state_dict.

    In training the input of each layer (nr) and the recurrent state (rh) are dropped as ``policy``
    says, masked once and only once: layer 0's input included, the output of the last layer not.
    Masks are drawn anew for each call.

    In eval mode, and with ``backend="auto"`` at rates of 0 or without a policy, this is nn.LSTM's
    own forward: it exports, traces and has second derivatives as nn.LSTM does. Zoneout is excepted,
    which stays on in eval mode as its expectation. While it drops, only the fused backend has
    second derivatives, and dense where a regularizer is inside the cell; with the others a backward
    with ``create_graph=True`` raises.

    Under torch.autocast it takes and returns the dtypes that nn.LSTM does there: products are in
    autocast's dtype, their sums, the cell state inside a sequence and the gradients of float32
    weights in float32. A backend that lacks that dtype is passed over by ``auto`` and raises where
    it was asked for.

    Args:
        policy: what to drop; its ``output`` site is the caller's to draw. Without a policy
            ``dropout`` means what it means in nn.LSTM, random dropout between layers; ``auto``
            leaves it to nn.LSTM.
        backend: ``auto``, or a name among ``structured_dropout.backends.names()``; it says what
            trains, and is built at the first forward.
        generator: where structured masks are drawn from; torch's default CPU generator if None.
        Others: as in ``torch.nn.LSTM``; ``proj_size`` must stay 0.

    Raises:
        TypeError: ``policy`` is not a DropoutPolicy.
        ValueError: both ``policy`` and ``dropout`` are given, a rate list does not fit
            ``num_layers``, ``proj_size`` is not 0, or the backend is unknown.
        RuntimeError: the backend cannot run this policy here.
    """

    weight_ih_l0: Tensor

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
        check_policy(policy)
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
        self._has_policy = policy is not None
        if policy is None:
            policy = DropoutPolicy(nr=_between_layers(dropout, num_layers))
        policy.check_layers(num_layers)
        self.policy = replace(policy, output=None)
        self.backend = backend
        self.generator = generator
        self._stream = OwnStream()
        # An impossible choice fails here. Not next(self.parameters()): a replica of DataParallel
        # has none.
        weight = self.weight_ih_l0
        backends.check(backend, self.policy, weight.device, weight.dtype)
        self.flatten_parameters()

    @overload
    def forward(
        self, input: Tensor, hx: State | None = None, masks: list[LayerMasks] | None = None
    ) -> tuple[Tensor, State]: ...

    @overload
    def forward(
        self, input: PackedSequence, hx: State | None = None, masks: list[LayerMasks] | None = None
    ) -> tuple[PackedSequence, State]: ...

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
            RuntimeError: the sequence has no steps, or sizes or dtypes do not fit.
            ValueError: the input has other dimensions, or the masks do not fit.
        """
        data = input.data if isinstance(input, PackedSequence) else input
        precision.check("input", data, self.weight_ih_l0)
        if masks is None and self._is_torchs:
            return super().forward(input, hx)
        return self._forward_dropping(input, hx, masks)

    def draw_masks(self, steps: int, batch: int) -> list[LayerMasks]:
        """Draw what one training sequence drops, layer by layer; in eval mode only zoneout's
        expectation."""
        policy, like = self._effective_policy, self.weight_ih_l0
        site = partial(draw, steps=steps, batch=batch, like=like, generator=self.generator)
        held = partial(
            draw_held,
            steps=steps,
            batch=batch,
            units=self.hidden_size,
            like=like,
            expectation=not self.training,
        )

        def inside() -> CellMasks:
            cell, update = (
                site(s, units=self.hidden_size, layer=layer) for s in (policy.cell, policy.update)
            )
            h, c = (policy.zoneout.h, policy.zoneout.c) if policy.zoneout else (0.0, 0.0)
            return CellMasks(cell, update, held(h), held(c))

        directions = range(self._directions)
        masks = []
        with self._stream.drawing(self.generator):
            for layer in range(self.num_layers):
                nr = site(policy.nr, units=self._inputs(layer), layer=layer)
                rh = tuple(site(policy.rh, units=self.hidden_size, layer=layer) for _ in directions)
                cells = tuple(inside() for _ in directions) if policy.inside_cell else ()
                masks.append(LayerMasks(nr, rh, cells))
        return masks

    def to_torch(self) -> nn.LSTM:
        """A torch.nn.LSTM with these very parameters, for what must know its class, such as
        ``torch.ao.quantization.quantize_dynamic``; in eval mode it computes the same.

        Raises:
            ValueError: the policy has zoneout, whose expectation nn.LSTM does not compute.
        """
        if DropoutPolicy(zoneout=self.policy.zoneout).drops:
            raise ValueError(
                "nn.LSTM has no zoneout: it would leave out the expectation of eval mode"
            )
        lstm = nn.LSTM(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            self.bias,
            self.batch_first,
            self.dropout,
            self.bidirectional,
            device="meta",
        )
        lstm.load_state_dict(self.state_dict(keep_vars=True), assign=True)
        return lstm.train(self.training)

    def flatten_parameters(self) -> None:
        """Put the weights where cuDNN reads them without a copy: as nn.LSTM does, in one chunk, if
        nn.LSTM's forward is what trains; else in one for each layer, which training calls it for.

        Weights stay there in eval mode, for moving them would break a captured CUDA graph: of
        several layers cuDNN then copies them at each call, and torch warns of that once. They are
        copied, too, where each call makes new ones: under autocast and by ``policy.weight``.
        """
        if not hasattr(self, "policy"):  # nn.LSTM's constructor calls this
            return
        if self.backend == "auto" and not (self._has_policy and self.policy.drops):
            super().flatten_parameters()
            return
        weights = [weight for weight in self._flat_weights if isinstance(weight, Tensor)]
        if not all(weight.is_cuda for weight in weights):
            return
        if len({weight.data_ptr() for weight in weights}) < len(self._flat_weights):
            return  # some are one, and must stay so
        number = len(self._flat_weights) // self.num_layers
        for layer in range(self.num_layers):
            own = slice(layer * number, (layer + 1) * number)
            of_one_layer = {
                "num_layers": 1,
                "input_size": self._inputs(layer),
                "_flat_weights": self._flat_weights[own],
                "_flat_weights_names": self._flat_weights_names[own],
            }
            nn.LSTM.flatten_parameters(SimpleNamespace(**{**vars(self), **of_one_layer}))  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, policy={self.policy}, backend={self.backend!r}"

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _effective_policy(self) -> DropoutPolicy:
        """What a call really drops."""
        return self.policy if self.training else DropoutPolicy(zoneout=self.policy.zoneout)

    @property
    def _is_torchs(self) -> bool:
        """Whether a call is nn.LSTM's. In training a backend that was asked for by name runs even
        where nothing is dropped: it may be what is measured."""
        free = self.backend == "auto" or not self.training
        return free and not (self._has_policy and self._effective_policy.drops)

    def _inputs(self, layer: int) -> int:
        return self.input_size if layer == 0 else self.hidden_size * self._directions

    def __prepare_scriptable__(self) -> nn.LSTM:
        raise RuntimeError(CANNOT_SCRIPT)

    @_disable_dynamo  # each step keeps other units
    def _forward_dropping(
        self, input: Tensor | PackedSequence, hx: State | None, masks: list[LayerMasks] | None
    ) -> tuple[Tensor | PackedSequence, State]:
        if isinstance(input, PackedSequence):
            packing = Packing(tuple(input.batch_sizes.tolist()))
            state = self._state(hx, input.data, packing.batch)
            state = self.permute_hidden(state, input.sorted_indices)
            dtype = state[0].dtype  # torch's autocast returns a packed sequence in it
            y, state = self._layers(input.data, state, masks, packing)
            output = PackedSequence(
                y.to(dtype), input.batch_sizes, input.sorted_indices, input.unsorted_indices
            )
            h_n, c_n = (part.to(dtype) for part in state)
            return output, self.permute_hidden((h_n, c_n), input.unsorted_indices)

        if input.dim() not in (2, 3):
            raise ValueError(
                f"StructuredLSTM takes a 2-D (unbatched) or 3-D input, not {input.dim()}-D"
            )
        unbatched = input.dim() == 2
        if unbatched:
            input = input.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
        steps, batch, features = input.shape
        if steps == 0:
            raise RuntimeError("the sequence has no steps")
        state = self._state(hx, input, batch, unbatched)
        rows = input.reshape(steps * batch, features)
        y, state = self._layers(rows, state, masks, Packing.padded(steps, batch))
        y = y.view(steps, batch, self._directions * self.hidden_size)
        if unbatched:
            return y.squeeze(1), (state[0].squeeze(1), state[1].squeeze(1))
        return y.transpose(0, 1) if self.batch_first else y, state

    def _layers(
        self, x: Tensor, state: State, masks: list[LayerMasks] | None, packing: Packing
    ) -> tuple[Tensor, State]:
        weight = self.weight_ih_l0
        policy = self._effective_policy if masks is None else self.policy
        dtype = precision.of_products(weight)
        backend = backends.get(backends.resolve(self.backend, policy, x.device, dtype))
        if masks is None:
            masks = self.draw_masks(packing.steps, packing.batch)
        else:
            self._check(masks, packing)
        h_n, c_n = [], []
        with precision.without_autocast(x.device):
            x, h_0, c_0 = (tensor.to(dtype) for tensor in (x, *state))
            for layer, own_masks in enumerate(masks):
                own = slice(layer * self._directions, (layer + 1) * self._directions)
                weights = self._layer_weights(layer)
                x, h, c = backend.lstm_layer(x, h_0[own], c_0[own], weights, own_masks, packing)
                h_n.append(h)
                c_n.append(c)
        if self.num_layers == 1:  # of which cat would make a copy
            return x, (h_n[0], c_n[0])
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

    def _state(self, hx: State | None, x: Tensor, batch: int, unbatched: bool = False) -> State:
        if x.shape[-1] != self.input_size:
            raise RuntimeError(
                f"the input has {x.shape[-1]} features, input_size is {self.input_size}"
            )
        weight = self.weight_ih_l0
        shape = [self.num_layers * self._directions, batch, self.hidden_size]
        if hx is None:
            zeros = x.new_zeros(shape)
            return zeros, zeros
        if len(hx) != 2:
            raise RuntimeError(f"hx must be (h_0, c_0), has {len(hx)} tensors")
        given = [shape[0], shape[2]] if unbatched else shape
        for name, tensor in zip(("h_0", "c_0"), hx, strict=True):
            if list(tensor.shape) != given:
                raise RuntimeError(f"{name} must be {given}, not {list(tensor.shape)}")
            precision.check(name, tensor, weight)
        h_0, c_0 = hx
        return (h_0.unsqueeze(1), c_0.unsqueeze(1)) if unbatched else (h_0, c_0)


def _between_layers(p: float, layers: int) -> SiteDropout | None:
    """What ``dropout`` means in nn.LSTM. Its rate may be 1, where SiteDropout's end before: nothing
    is kept either way."""
    if p == 0:
        return None
    return SiteDropout(Case.I, (0.0, *[min(float(p), math.nextafter(1, 0))] * (layers - 1)))
