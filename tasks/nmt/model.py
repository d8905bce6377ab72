"""Luong's model (2015): OpenNMT-py's own, and the same with structured dropout.

Both have OpenNMT's parameters under OpenNMT's names, start from the same values for a seed, and
translate through OpenNMT's own decoder: a checkpoint does not tell how it was trained. They differ
in the forward pass of training.
"""

from __future__ import annotations

import torch
from onmt.decoders.decoder import InputFeedRNNDecoder
from onmt.encoders.rnn_encoder import RNNEncoder
from onmt.models import NMTModel
from onmt.modules import Embeddings
from onmt.modules.util_class import Cast
from torch import Tensor, nn
from torch.nn import functional as F

from structured_dropout import (
    Case,
    DropoutPolicy,
    StructuredLinear,
    StructuredLSTM,
    precision,
)
from structured_dropout.derivatives import without_autocast
from structured_dropout.experiment import ranks
from structured_dropout.experiment.errors import UsageError
from structured_dropout.masks import send
from structured_dropout.split import padded_to
from tasks.nmt.batches import Vocabulary
from tasks.nmt.decoder import decode
from tasks.nmt.graphs import DecoderGraphs
from tasks.nmt.masks import Masks, dropped

State = tuple[Tensor, Tensor]


class TranslationModel(NMTModel):
    """OpenNMT's model with its own dropout, its forward pass in the three parts that the benchmark
    times."""

    def forward(self, src: Tensor, lengths: Tensor, tgt: Tensor) -> Tensor:
        """Before the softmax [tgt_len - 1, batch, vocabulary], each word given those before it.

        Args:
            src, tgt: ids [len, batch, 1].
            lengths: of the source sentences [batch], longest first; on the CPU, since a GPU's
                would be waited for.
        """
        masks = self.draw_masks(len(src), len(tgt) - 1, tgt.shape[1])
        state, memory = self.encode(src, lengths, masks)
        outputs = self.decode(tgt[:-1], send(lengths, memory.device), state, memory, masks)
        return self.project(outputs, masks)

    def draw_masks(self, src_steps: int, tgt_steps: int, batch: int) -> Masks:
        """What this training step drops beyond what the modules drop themselves."""
        return Masks()

    def encode(self, src: Tensor, lengths: Tensor, masks: Masks) -> tuple[State, Tensor]:
        """The last state, and the memory [src_len, batch, hidden_size] that the decoder attends
        to."""
        state, memory, _ = self.encoder(src, lengths)
        return state, memory

    def decode(
        self, tgt: Tensor, lengths: Tensor, state: State, memory: Tensor, masks: Masks
    ) -> Tensor:
        """What the projection reads [tgt_len, batch, hidden_size]: the attentional output after
        dropout."""
        self.decoder.init_state(None, memory, state)
        outputs, _ = self.decoder(tgt, memory, memory_lengths=lengths)
        return outputs

    def project(self, outputs: Tensor, masks: Masks) -> Tensor:
        """Logits [tgt_len, batch, vocabulary]."""
        return self.generator[0](outputs)


class StructuredModel(TranslationModel):
    """The same model that drops as ``policy`` says, with LSTMs and projection that skip what was
    dropped.

    Args:
        model: whose parameters it takes over.
        policy: nr and rh of both LSTMs, and output, after the attention. With rh the last layers'
            hidden states are dropped in the same way where the attention reads them (section 4.2:
            "the final output of the encoder and decoder layers").
        backend: by name, as ``backends.resolve`` returned it.
        generator: what structured masks are drawn from.
        cuda_graphs: train the decoder by CUDA graphs.
    """

    def __init__(
        self,
        model: TranslationModel,
        policy: DropoutPolicy,
        backend: str,
        generator: torch.Generator | None,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__(model.encoder, model.decoder)
        self.policy, self.backend, self.masks_from = policy, backend, generator
        self._graphs = DecoderGraphs() if cuda_graphs else None
        lstm, projection = model.encoder.rnn, model.generator[0]
        self.encoder.rnn = StructuredLSTM(
            lstm.input_size,
            lstm.hidden_size,
            lstm.num_layers,
            policy=policy,
            backend=backend,
            generator=generator,
        )
        self.encoder.rnn.load_state_dict(lstm.state_dict())
        # Its input comes dropped, so it draws nothing itself.
        self.generator = nn.Sequential(
            StructuredLinear(projection.in_features, projection.out_features, backend=backend),
            *model.generator[1:],
        )
        self.generator[0].load_state_dict(projection.state_dict())

    def draw_masks(self, src_steps: int, tgt_steps: int, batch: int) -> Masks:
        policy = self.policy if self.training else DropoutPolicy()
        return Masks.draw(policy, self.decoder, src_steps, tgt_steps, batch, self.masks_from)

    def encode(self, src: Tensor, lengths: Tensor, masks: Masks) -> tuple[State, Tensor]:
        with padded_to(len(src)):
            state, memory = super().encode(src, lengths, masks)
        if len(memory) < len(src):  # where another process has the longest sentence
            memory = F.pad(memory, (0, 0, 0, 0, 0, len(src) - len(memory)))
        return state, dropped(memory, masks.memory)

    def decode(
        self, tgt: Tensor, lengths: Tensor, state: State, memory: Tensor, masks: Masks
    ) -> Tensor:
        weight = self.decoder.attn.linear_in.weight
        dtype = precision.of_products(weight)
        h, c = (part.to(weight.dtype) for part in state)
        trains = self.training and torch.is_grad_enabled()
        loop = self._graphs if self._graphs is not None and trains else decode
        with without_autocast(weight.device):
            words = self.decoder.embeddings(tgt)
            return loop(self.decoder, words, lengths, (h, c), memory, masks, self.backend, dtype)

    def project(self, outputs: Tensor, masks: Masks) -> Tensor:
        return self.generator[0](outputs, masks.output and masks.output.applied())


def build(
    vocabulary: Vocabulary,
    hidden_size: int,
    layers: int,
    init: float,
    policy: DropoutPolicy,
    backend: str,
    generator: torch.Generator | None = None,
    cuda_graphs: bool = False,
) -> TranslationModel:
    """OpenNMT's own model where torch's LSTM runs and it can drop what the policy says, else the
    structured one.

    Args:
        cuda_graphs: of the structured one.

    Raises:
        UsageError: several processes train OpenNMT's own model with dropout.
    """
    rate = opennmt_rate(policy, layers)
    model = opennmt_model(vocabulary, hidden_size, layers, init, rate or 0.0)
    if backend == "fused" and rate is not None:
        if rate and ranks.size() > 1:
            raise UsageError(
                "OpenNMT's own dropout draws for the sentences that a process has, so it trains in "
                "one: choose backend=dense"
            )
        return model
    return StructuredModel(model, policy, backend, generator, cuda_graphs)


def opennmt_rate(policy: DropoutPolicy, layers: int) -> float | None:
    """The one rate of OpenNMT's dropout, between layers and after attention, if that is all that
    the policy drops."""
    if not any(site is not None and site.drops for site in (policy.nr, policy.rh, policy.output)):
        return 0.0
    if policy.rh is not None or policy.nr is None or policy.output is None:
        return None
    rate = policy.output.rate()
    rates = [policy.nr.rate(layer) for layer in range(layers)]
    as_opennmt = rates == [0.0, *[rate] * (layers - 1)] and all(
        site.case is Case.I and site.redraw_every == 1 for site in (policy.nr, policy.output)
    )
    return rate if as_opennmt else None


def opennmt_model(
    vocabulary: Vocabulary, hidden_size: int, layers: int, init: float, dropout: float
) -> TranslationModel:
    """OpenNMT's classes, put together as its model builder does: one direction, general attention,
    input feeding."""

    def embeddings(side: str) -> Embeddings:
        return Embeddings(hidden_size, len(vocabulary.words(side)), vocabulary.padding(side))

    model = TranslationModel(
        RNNEncoder("LSTM", False, layers, hidden_size, dropout, embeddings("src")),
        InputFeedRNNDecoder(
            "LSTM",
            False,
            layers,
            hidden_size,
            attn_type="general",
            dropout=dropout,
            embeddings=embeddings("tgt"),
        ),
    )
    model.generator = nn.Sequential(
        nn.Linear(hidden_size, len(vocabulary.words("tgt"))),
        Cast(torch.float32),
        nn.LogSoftmax(dim=-1),
    )
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -init, init)
    return model
