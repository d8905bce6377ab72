"""StructuredLSTM is nn.LSTM wherever nothing is dropped, and a drop-in everywhere."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from structured_dropout import (
    Case,
    DropoutPolicy,
    SiteDropout,
    StructuredLinear,
    StructuredLSTM,
    Zoneout,
    backends,
)
from structured_dropout.layer import LayerMasks

CPU = torch.device("cpu")
NR_RH_ST = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), rh=SiteDropout(Case.III, 0.5))
BACKENDS = [
    name
    for name in backends.names()
    if backends.get(name).supports(DropoutPolicy(), CPU, torch.float32) is None
]
SHAPES = [
    {"input_size": 5, "hidden_size": 7},
    {"input_size": 5, "hidden_size": 7, "num_layers": 3, "bidirectional": True},
    {"input_size": 5, "hidden_size": 7, "num_layers": 2, "batch_first": True, "bias": False},
]


def pair(backend: str, **shape) -> tuple[nn.LSTM, StructuredLSTM]:
    torch.manual_seed(0)
    theirs = nn.LSTM(**shape)
    ours = StructuredLSTM(**shape, policy=DropoutPolicy(), backend=backend)
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return theirs, ours


def flat(result) -> list[torch.Tensor]:
    output, (h, c) = result
    return [output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output, h, c]


def assert_equal(theirs: nn.LSTM, ours: StructuredLSTM, x, state=None) -> None:
    expected, actual = flat(theirs(x, state)), flat(ours(x, state))
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6)
    for outputs, module in ((expected, theirs), (actual, ours)):
        module.zero_grad()
        sum((y * y).sum() for y in outputs).backward()
    for (name, e), (_, a) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, e.grad, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_nn_lstm(shape, backend):
    theirs, ours = pair(backend, **shape)
    x = torch.randn(4, 6, 5)
    directions = 2 if shape.get("bidirectional") else 1
    batch = 4 if shape.get("batch_first") else 6
    state = tuple(torch.randn(shape.get("num_layers", 1) * directions, batch, 7) for _ in range(2))
    assert_equal(theirs, ours, x)
    assert_equal(theirs, ours, x, state)
    assert_equal(theirs, ours, torch.randn(4, 5))  # unbatched
    for enforce_sorted, lengths in ((True, [4, 4, 3, 1, 1, 1]), (False, [1, 4, 2, 4, 3, 1])):
        packed = pack_padded_sequence(
            torch.randn(4, 6, 5), torch.tensor(lengths), enforce_sorted=enforce_sorted
        )
        assert_equal(theirs, ours, packed)
        state = tuple(torch.randn(shape.get("num_layers", 1) * directions, 6, 7) for _ in range(2))
        assert_equal(theirs, ours, packed, state)


@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "fused"])
def test_drops_in_training_only(backend):
    theirs = nn.LSTM(5, 7, 2)
    ours = StructuredLSTM(5, 7, 2, policy=NR_RH_ST, backend=backend)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 5)
    assert not torch.allclose(ours(x)[0], theirs(x)[0], atol=1e-3)
    ours.eval()
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-6)


def test_the_returned_state_is_not_masked():
    lstm = StructuredLSTM(5, 50, 2, policy=NR_RH_ST, backend="dense")
    y, (h, c) = lstm(torch.randn(4, 3, 5))
    assert (y != 0).all()
    assert (h != 0).all()
    assert (c != 0).all()
    torch.testing.assert_close(y[-1], h[-1])


def test_directions_share_nr_and_have_rh_of_their_own():
    lstm = StructuredLSTM(40, 40, bidirectional=True, policy=NR_RH_ST)
    (masks,) = lstm.draw_masks(5, 2)
    forward, backward = masks.rh
    assert masks.nr.units == 40
    assert not torch.equal(forward.indices, backward.indices)


def test_without_a_policy_it_is_torchs_lstm_dropout_and_all():
    ours = StructuredLSTM(5, 7, 3, dropout=0.5)
    theirs, x = ours.to_torch(), torch.randn(4, 2, 5)
    torch.manual_seed(1)
    found = ours(x)[0]
    torch.manual_seed(1)
    assert torch.equal(found, theirs(x)[0])
    assert not torch.equal(found, ours(x)[0])


def test_dropout_argument_is_random_dropout_between_layers():
    lstm = StructuredLSTM(5, 7, 3, dropout=0.5, backend="fused")
    masks = [layer.nr for layer in lstm.draw_masks(2, 2)]
    assert masks[0] is None
    assert all(mask.values.shape == (2, 2, 7) for mask in masks[1:])


def test_a_dropout_of_one_drops_everything_between_layers():
    """As in nn.LSTM."""
    torch.manual_seed(0)
    theirs = nn.LSTM(5, 7, 2, dropout=1.0)
    ours = StructuredLSTM(5, 7, 2, dropout=1.0, backend="fused")
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"policy": NR_RH_ST, "dropout": 0.5}, ValueError, "either policy or dropout"),
        ({"proj_size": 3}, ValueError, "proj_size"),
        ({"backend": "magic"}, ValueError, "unknown backend 'magic'"),
        ({"policy": NR_RH_ST, "backend": "fused"}, RuntimeError, "choose dense"),
        (
            {"policy": DropoutPolicy(nr=SiteDropout("III", [0.1, 0.2]))},
            ValueError,
            "2 rates for 1 layer",
        ),
    ],
)
def test_contradictions(arguments, error, message):
    with pytest.raises(error, match=message):
        StructuredLSTM(5, 7, **arguments)


STATE = torch.zeros(1, 3, 7)


@pytest.mark.parametrize(
    ("x", "state", "message"),
    [
        (torch.randn(4, 3, 6), None, "the input has 6 features, input_size is 5"),
        (torch.randn(4, 3, 5), (torch.zeros(1, 2, 7), STATE), r"h_0 must be \[1, 3, 7\]"),
        (torch.randn(4, 3, 5), (STATE,) * 3, r"hx must be \(h_0, c_0\), has 3 tensors"),
        (torch.randn(4, 5), (STATE,) * 2, r"h_0 must be \[1, 7\], not \[1, 3, 7\]"),
        (torch.randn(4, 3, 5), (STATE, STATE[0]), r"c_0 must be \[1, 3, 7\], not \[3, 7\]"),
        (torch.randn(5), None, "a 2-D .* or 3-D input, not 1-D"),
        (torch.randn(0, 3, 5), None, "no steps"),
    ],
)
def test_wrong_shapes_raise_what_nn_lstm_raises(x, state, message):
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        nn.LSTM(5, 7)(x, state)
    with pytest.raises(theirs.type, match=message):
        StructuredLSTM(5, 7, policy=NR_RH_ST, backend="dense")(x, state)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_another_dtype_than_the_weights_is_named(mode):
    lstm = getattr(StructuredLSTM(5, 7, policy=NR_RH_ST, backend="dense"), mode)()
    linear = getattr(StructuredLinear(5, 7), mode)()
    for module in (lstm, linear):
        message = "input is torch.float64, the weights are torch.float32"
        with pytest.raises(RuntimeError, match=message):
            module(torch.randn(4, 3, 5, dtype=torch.float64))
    if mode == "train":
        with pytest.raises(RuntimeError, match=r"c_0 is torch\.float64, the weights are"):
            lstm(torch.randn(4, 3, 5), (STATE, STATE.double()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch(backend):
    for theirs, ours in (pair(backend, **SHAPES[0]), pair(backend, **SHAPES[1])):
        assert_equal(theirs, ours, torch.randn(3, 0, 5))


RANDOM = DropoutPolicy(nr=SiteDropout(Case.I, 0.5), rh=SiteDropout(Case.I, 0.5))
INSIDE = DropoutPolicy(update=SiteDropout(Case.III, 0.5), zoneout=Zoneout(0.1, 0.1))


@pytest.mark.parametrize(
    ("policy", "drawn_for", "message"),
    [
        (
            NR_RH_ST,
            (3, 2),
            "the nr mask has 3 draws of 5 units, 6 steps with a draw for every 1 need 6",
        ),
        (DropoutPolicy(rh=NR_RH_ST.rh), (3, 2), "the rh mask has 3 draws"),
        (RANDOM, (6, 8), "6 draws of 8 rows of 5 units, .* need 6 draws of 2 rows"),
        (RANDOM, (1, 2), "1 draws"),
        (INSIDE, (3, 2), "the update mask has 3 draws"),
        (
            DropoutPolicy(zoneout=INSIDE.zoneout),
            (6, 8),
            r"held_h must be for 6 steps and 2 rows, is \[6, 8, 7\]",
        ),
    ],
)
def test_masks_of_another_sequence(policy, drawn_for, message):
    lstm = StructuredLSTM(5, 7, 2, bidirectional=True, policy=policy, backend="dense")
    with pytest.raises(ValueError, match=message):
        lstm(torch.randn(6, 2, 5), masks=lstm.draw_masks(*drawn_for))


def test_masks_of_another_lstm():
    x = torch.randn(6, 2, 5)

    def drawn(p=0.5, **options):
        policy = DropoutPolicy(rh=SiteDropout(Case.III, p))
        return StructuredLSTM(5, 7, policy=policy, backend="dense", **options).draw_masks(6, 2)

    lstm = StructuredLSTM(5, 7, bidirectional=True, policy=NR_RH_ST, backend="dense")
    for masks, message in (
        (drawn(bidirectional=True, num_layers=2), "an entry for each of 1 layers, has 2"),
        (drawn(), "needs an rh mask for each"),
        ([LayerMasks(None, (*drawn()[0].rh, *drawn(p=0.9)[0].rh))], "must drop units alike"),
        ([LayerMasks(None, (*drawn()[0].rh, None))], "must drop units alike"),
    ):
        with pytest.raises(ValueError, match=message):
            lstm(x, masks=masks)


def test_a_module_can_be_copied():
    lstm = StructuredLSTM(5, 7, policy=NR_RH_ST, backend="dense")
    x = torch.randn(4, 3, 5)
    torch.testing.assert_close(copy.deepcopy(lstm).eval()(x)[0], lstm.eval()(x)[0])


@pytest.fixture
def cudnn(monkeypatch):
    """As if weights were on a GPU: the calls that flatten some, each of which puts them into one
    chunk as cuDNN does."""
    calls = []

    def flatten(weights, number, inputs, mode, hidden, projection, layers, *_):
        calls.append((len(weights), number, inputs, hidden, projection, layers))
        chunk = torch.cat([weight.flatten() for weight in weights])
        for weight, part in zip(weights, chunk.split([w.numel() for w in weights]), strict=True):
            weight.set_(part.view_as(weight))

    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda weight: True)
    monkeypatch.setattr(torch.backends.cudnn.rnn, "get_cudnn_mode", lambda mode: 2)
    monkeypatch.setattr(torch, "_use_cudnn_rnn_flatten_weight", lambda: True)
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", flatten)
    return calls


def chunks(lstm: nn.LSTM) -> int:
    return len({weight.untyped_storage().data_ptr() for weight in lstm.parameters()})


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (SHAPES[0], [(4, 4, 5, 7, 0, 1)]),
        (SHAPES[1], [(8, 4, 5, 7, 0, 1), (8, 4, 14, 7, 0, 1), (8, 4, 14, 7, 0, 1)]),
        (SHAPES[2], [(2, 2, 5, 7, 0, 1), (2, 2, 7, 7, 0, 1)]),
    ],
)
def test_weights_of_a_layer_are_one_chunk_for_cudnn(cudnn, shape, expected):
    lstm = StructuredLSTM(**shape, policy=NR_RH_ST, backend="dense")
    assert cudnn == expected
    x = torch.randn(4, 3, 5)
    state, y = copy.deepcopy(lstm.state_dict()), copy.deepcopy(lstm).eval()(x)[0]
    cudnn.clear()
    lstm.to(torch.float64).to(torch.float32)
    assert cudnn == [*expected, *expected]
    assert chunks(lstm) == len(expected)
    lstm.load_state_dict(state)
    lstm.train().eval()  # moves nothing
    assert chunks(lstm) == len(expected)
    assert torch.equal(lstm(x)[0], y)


def test_weights_are_one_chunk_where_nn_lstm_trains(cudnn):
    lstm = StructuredLSTM(5, 7, 2)
    assert cudnn == [(8, 4, 5, 7, 0, 2)]
    assert chunks(lstm) == 1


def test_weights_that_are_one_stay_so(cudnn):
    lstm = StructuredLSTM(7, 7, 2, policy=NR_RH_ST, backend="dense")
    lstm.weight_hh_l1 = nn.Parameter(lstm.weight_hh_l0.detach())
    cudnn.clear()
    lstm.flatten_parameters()
    assert cudnn == []


def test_a_compiled_model_runs_ours_as_it_is():
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5), output=SiteDropout(Case.III, 0.5))
    model = nn.Sequential(nn.Tanh(), StructuredLSTM(7, 12, policy=policy))
    compiled = torch.compile(model, backend="aot_eager")
    for steps, batch in ((5, 4), (6, 8)):
        x = torch.randn(steps, batch, 7)
        gradients = []
        for either in (model, compiled):
            torch.manual_seed(0)
            model.zero_grad()
            either(x)[0].sum().backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        assert all(map(torch.equal, *gradients))


def test_a_printed_model_says_what_is_dropped():
    text = repr(StructuredLSTM(3, 4, policy=NR_RH_ST, backend="dense"))
    assert text.startswith("StructuredLSTM(3, 4, policy=DropoutPolicy(nr=SiteDropout(")
    assert "rh=SiteDropout(" in text
    assert "zoneout" not in text
    assert text.endswith("backend='dense')")
