"""StructuredLinear is nn.Linear wherever nothing is dropped, and knows what a time step is."""

import pytest
import torch
from torch import nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLinear, StructuredLSTM

OUTPUT = DropoutPolicy(output=SiteDropout(Case.III, 0.5))


def linear(policy: DropoutPolicy = OUTPUT, **options) -> StructuredLinear:
    torch.manual_seed(0)
    return StructuredLinear(8, 5, policy=policy, backend="dense", **options)


def identity(**options) -> StructuredLinear:
    module = StructuredLinear(8, 8, bias=False, policy=OUTPUT, backend="dense", **options)
    nn.init.eye_(module.weight)
    return module


@pytest.mark.parametrize("x", [torch.randn(8), torch.randn(1, 3, 2, 8)])
def test_it_takes_a_step_or_a_sequence(x):
    with pytest.raises(ValueError, match=f"2-D .* or 3-D input, not {x.dim()}-D"):
        StructuredLinear(8, 5)(x)


def test_other_features():
    with pytest.raises(RuntimeError, match="the input has 7 features, in_features is 8"):
        linear()(torch.randn(2, 3, 7))


def test_the_mask_of_another_sequence():
    module = linear()
    with pytest.raises(ValueError, match="the output mask has 3 draws"):
        module(torch.randn(6, 2, 8), module.draw_mask(3, 2))


def test_a_projection_has_one_rate():
    policy = DropoutPolicy(output=SiteDropout(Case.III, (0.2, 0.5)))
    with pytest.raises(ValueError, match=r"p has 2 rates for 1 layer: \[0.2, 0.5\]"):
        linear(policy)


def test_it_drops_what_the_policy_says():
    ours, x = linear(), torch.randn(3, 2, 8)
    mask = ours.draw_mask(3, 2)
    expected = nn.functional.linear(x * mask.multiplier(x), ours.weight, ours.bias)
    torch.testing.assert_close(ours(x, mask), expected)
    ours.eval()
    torch.testing.assert_close(ours(x), nn.functional.linear(x, ours.weight, ours.bias))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("shape", [(4, 8), (3, 4, 8)])
def test_hooks_run_once(mode, shape):
    calls = []
    module = getattr(linear(), mode)()
    module.register_forward_pre_hook(lambda module, args: calls.append("before"))
    module.register_forward_hook(lambda module, args, output: calls.append("after"))
    module(torch.randn(shape))
    assert calls == ["before", "after"]


def test_spectral_norm_iterates_once():
    ours, theirs = spectral_norm(StructuredLinear(8, 5)), spectral_norm(nn.Linear(8, 5))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 8)
    torch.testing.assert_close(ours(x), theirs(x))


def test_batch_first():
    """A draw a step, shared by the batch: as after an LSTM that is batch_first."""
    x = torch.rand(4, 30, 8) + 1
    kept = identity(batch_first=True)(x) != 0
    assert (kept == kept[:1]).all()
    assert not (kept == kept[:, :1]).all()
    lstm = StructuredLSTM(3, 8, batch_first=True)
    y, _ = lstm(torch.randn(4, 30, 3))
    mask = identity().draw_mask(30, 4)
    masked = identity(batch_first=True)(y, mask)
    torch.testing.assert_close(masked.transpose(0, 1), identity()(y.transpose(0, 1), mask))


@pytest.mark.parametrize("policy", [OUTPUT, DropoutPolicy(output=SiteDropout(Case.I, 0.5))])
def test_packed_sequences(policy):
    module = linear(policy)
    sequences = [torch.randn(length, 8) for length in (2, 5, 3)]
    packed = pack_sequence(sequences, enforce_sorted=False)
    mask = module.draw_mask(5, 3)
    y, lengths = pad_packed_sequence(module(packed, mask))
    assert lengths.tolist() == [2, 5, 3]
    x, _ = pad_packed_sequence(packed)
    order = packed.sorted_indices  # masks know the batch in this order
    expected = module(x[:, order], mask)[:, packed.unsorted_indices]
    for row, length in enumerate(lengths):
        torch.testing.assert_close(y[:length, row], expected[:length, row])
    plain = module.eval()(packed)
    expected = nn.functional.linear(packed.data, module.weight, module.bias)
    torch.testing.assert_close(plain.data, expected)


def test_a_flattened_output_is_one_step():
    x = torch.rand(30 * 4, 8) + 1
    kept = identity()(x) != 0
    assert (kept == kept[0]).all()
