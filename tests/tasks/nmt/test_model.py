"""The structured model is OpenNMT's own wherever nothing is dropped, and drops the sites that it
should elsewhere."""

import copy

import pytest
import torch

from structured_dropout import Case, DropoutPolicy, SiteDropout, UnitMask, backends
from tasks.nmt.benchmark import made_up_vocabulary
from tasks.nmt.masks import Masks
from tasks.nmt.model import StructuredModel, build
from tasks.nmt.train import negative_log_likelihood

HIDDEN, LAYERS = 12, 2
PADDING = 1
BACKENDS = [
    name
    for name in backends.names()
    if backends.get(name).supports(DropoutPolicy(), torch.device("cpu"), torch.float32) is None
]
ST = SiteDropout(Case.III, 0.5)
NR_RH_ST = DropoutPolicy(nr=SiteDropout(Case.III, (0.0, 0.5)), rh=ST, output=ST)


def model(policy: DropoutPolicy, backend: str, seed: int = 0):
    torch.manual_seed(seed)
    return build(made_up_vocabulary(20, 17), HIDDEN, LAYERS, 0.3, policy, backend)


def batch():
    """Source and target of unequal lengths, the short ones filled up with <blank>."""
    torch.manual_seed(1)
    lengths = torch.tensor([6, 4, 4, 1])
    src, tgt = torch.randint(4, 20, (6, 4, 1)), torch.randint(4, 17, (7, 4, 1))
    for row, (source, target) in enumerate(zip(lengths, (3, 7, 5, 7), strict=True)):
        src[source:, row], tgt[target:, row] = PADDING, PADDING
    return src, lengths, tgt


def gradients(model) -> dict[str, torch.Tensor]:
    src, lengths, tgt = batch()
    model.zero_grad()
    negative_log_likelihood(model(src, lengths, tgt), tgt, PADDING).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("train", [True, False])
def test_without_dropout_it_equals_opennmts_own(backend, train):
    theirs = model(DropoutPolicy(), "fused").train(train)
    ours = StructuredModel(copy.deepcopy(theirs), DropoutPolicy(), backend, None).train(train)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours(*batch()), theirs(*batch()), rtol=1e-5, atol=1e-5)
    expected, actual = gradients(theirs), gradients(ours)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_backward_is_not_disturbed_by_one_for_some_of_the_parameters():
    ours = model(NR_RH_ST, "dense")
    logits = ours(*batch())
    loss, parameters = logits.square().sum(), list(ours.parameters())
    expected = torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.autograd.grad(logits.sum(), ours.decoder.rnn.layers[0].weight_hh, retain_graph=True)
    for actual, gradient in zip(
        torch.autograd.grad(loss, parameters, retain_graph=True), expected, strict=True
    ):
        torch.testing.assert_close(actual, gradient)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, parameters, create_graph=True)


def test_a_seed_gives_the_same_start_whatever_is_dropped():
    theirs, ours = model(DropoutPolicy(), "fused"), model(NR_RH_ST, "dense")
    assert type(theirs) is not type(ours)
    for (name, a), (other, b) in zip(
        theirs.state_dict().items(), ours.state_dict().items(), strict=True
    ):
        assert name == other
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("case", "backend"),
    [(Case.I, "dense"), *((Case.III, name) for name in BACKENDS if name != "fused")],
)
def test_every_site_is_dropped_once(case, backend):
    """Against OpenNMT's formulas, step by step, with the same masks multiplied in."""
    site = SiteDropout(case, 0.5)
    policy = DropoutPolicy(nr=SiteDropout(case, (0.0, 0.5)), output=site, rh=site)
    ours = model(policy, backend)
    src, lengths, tgt = batch()
    masks = ours.draw_masks(len(src), len(tgt) - 1, tgt.shape[1])
    ours.draw_masks = lambda *sizes: masks
    encoder_masks = ours.encoder.rnn.draw_masks(len(src), tgt.shape[1])
    ours.encoder.rnn.draw_masks = lambda *sizes: encoder_masks

    theirs = model(DropoutPolicy(), "fused")
    theirs.forward = lambda *arguments: by_hand(theirs, encoder_masks, masks, *arguments)
    torch.testing.assert_close(
        ours(src, lengths, tgt), theirs(src, lengths, tgt), rtol=1e-5, atol=1e-5
    )
    expected, actual = gradients(theirs), gradients(ours)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def by_hand(model, encoder_masks, masks, src, lengths, tgt):
    """The logits of OpenNMT's ``model`` under these masks, in its own modules and cells."""

    def at(mask, step):
        if mask is None:
            return 1.0
        return (
            mask.multiplier(torch.empty(0))[step, 0]
            if isinstance(mask, UnitMask)
            else mask.values[step]
        )

    lstm, decoder = model.encoder.rnn, model.decoder
    state = [[torch.zeros(tgt.shape[1], HIDDEN) for _ in range(LAYERS)] for _ in "hc"]
    memory = []
    for t, x in enumerate(model.encoder.embeddings(src)):
        goes_on = (t < lengths).unsqueeze(1)
        for layer in range(LAYERS):
            nr, (rh,) = encoder_masks[layer][:2]
            cell = torch.nn.LSTMCell(HIDDEN, HIDDEN)
            weights = {
                name: getattr(lstm, f"{name}_l{layer}") for name, _ in cell.named_parameters()
            }
            before = state[0][layer] * at(rh, t), state[1][layer]
            h, c = torch.func.functional_call(cell, weights, (x * at(nr, t), before))
            x = h
            state[0][layer] = torch.where(goes_on, h, state[0][layer])
            state[1][layer] = torch.where(goes_on, c, state[1][layer])
        memory.append(torch.where(goes_on, x, 0) * at(masks.memory, t))
    memory = torch.stack(memory).transpose(0, 1)

    h, c = state
    feed, outputs = torch.zeros(tgt.shape[1], HIDDEN), []
    for t, x in enumerate(decoder.embeddings(tgt[:-1])):
        x = torch.cat([x * at(masks.nr[0], t), feed], dim=1)
        for layer, cell in enumerate(decoder.rnn.layers):
            x = x if layer == 0 else x * at(masks.nr[layer], t)
            h[layer], c[layer] = cell(x, (h[layer] * at(masks.rh[layer], t), c[layer]))
            x = h[layer]
        output, _ = decoder.attn(x * at(masks.query, t), memory, memory_lengths=lengths)
        feed = output * at(masks.output, t)
        outputs.append(feed)
    return model.generator[0](torch.stack(outputs))


def test_masks_are_drawn_ahead_of_their_own_and_only_in_training():
    ours = model(NR_RH_ST, "dense")
    masks = ours.draw_masks(9, 5, 3)
    assert masks.memory.draws == 9
    assert masks.output.draws == masks.query.draws == masks.rh[0].draws == masks.nr[1].draws == 5
    assert masks.nr[0] is None
    assert not torch.equal(
        masks.query.multiplier(torch.empty(0)), masks.rh[1].multiplier(torch.empty(0))
    )
    assert ours.eval().draw_masks(9, 5, 3) == Masks(nr=[None, None], rh=[None, None])


@pytest.mark.parametrize(
    ("policy", "own"),
    [
        (DropoutPolicy(), True),
        (DropoutPolicy(nr=SiteDropout("I", (0.0, 0.3)), output=SiteDropout("I", 0.3)), True),
        (DropoutPolicy(nr=SiteDropout("I", (0.0, 0.3)), output=SiteDropout("I", 0.2)), False),
        (DropoutPolicy(nr=SiteDropout("I", 0.3), output=SiteDropout("I", 0.3)), False),
        (DropoutPolicy(nr=SiteDropout("III", (0.0, 0.3)), output=SiteDropout("III", 0.3)), False),
    ],
)
def test_opennmts_own_model_runs_where_it_can_drop_what_the_policy_says(policy, own):
    built = model(policy, "fused")
    assert isinstance(built, StructuredModel) != own
    if own:
        assert built.encoder.rnn.dropout == built.decoder.dropout.p == built.decoder.rnn.dropout.p
        assert built.decoder.dropout.p == (policy.output.rate() if policy.output else 0)
