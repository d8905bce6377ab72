import pytest
import torch
from torch.nn import functional as F

from structured_dropout import loss
from structured_dropout.backends.operators.build import missing
from structured_dropout.loss import cross_entropy_

LOGITS = {
    "usual": torch.randn(7, 33, generator=torch.Generator().manual_seed(0)),
    "wide": torch.randn(5, 4001, generator=torch.Generator().manual_seed(0)) * 5,
    "huge": torch.tensor([[1e4, 0.0, -1e4], [3e38, -3e38, 0.0]]),
    "far from zero": torch.randn(7, 33, generator=torch.Generator().manual_seed(0)) + 1e4,
    "one row": torch.zeros(1, 3),
}


@pytest.mark.parametrize("name", LOGITS)
def test_it_equals_torchs(name):
    rows, classes = LOGITS[name].shape
    targets = torch.arange(rows) % classes
    targets[2:3] = 1  # ignored
    results = []
    for function in (
        cross_entropy_,
        lambda x, y, i: F.cross_entropy(x, y, ignore_index=i, reduction="sum"),
    ):
        leaf = LOGITS[name].clone().requires_grad_()
        loss = function(leaf * 1, targets, 1)
        (gradient,) = torch.autograd.grad(loss / 3, leaf)
        results.append((loss, gradient))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("name", LOGITS)
def test_of_bfloat16_only_the_gradient_is_rounded(name, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(loss, "_has_kernel", lambda logits: False)
    elif missing() is not None:
        pytest.skip(missing())
    leaf = LOGITS[name].bfloat16().requires_grad_()
    wide = leaf.detach().double().requires_grad_()
    targets = torch.arange(len(leaf)) % leaf.shape[1]
    targets[2:3] = 1  # ignored
    ours = cross_entropy_(leaf * 1, targets, 1)
    expected = F.cross_entropy(wide, targets, ignore_index=1, reduction="sum")
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(ours / 3, leaf)
    (exact,) = torch.autograd.grad(expected / 3, wide)
    torch.testing.assert_close(gradient.double(), exact, rtol=2**-8, atol=1e-30)


def test_nothing_of_the_logits_size_is_allocated():
    logits = torch.randn(64, 5000, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        y = logits * 1
        cross_entropy_(y, torch.zeros(64, dtype=torch.int64)).backward(inputs=[y])
    large = [
        event for event in profile.events() if event.self_cpu_memory_usage > 4 * logits.numel() / 2
    ]
    assert {event.name for event in large} <= {"aten::mul", "aten::empty", "aten::empty_strided"}
    assert sum(event.self_cpu_memory_usage for event in large) <= 2 * 4 * logits.numel()


def test_a_diverged_loss_shows():
    logits = torch.tensor([[0.0, 500.0], [torch.nan, 0.0]])
    assert cross_entropy_(logits[:1].clone(), torch.tensor([0])) == 500
    assert cross_entropy_(logits[1:].clone(), torch.tensor([0])).isnan()


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[:2]])
def test_a_leaf_is_not_overwritten(view):
    leaf = torch.zeros(3, 5, requires_grad=True)
    logits = view(leaf)
    with pytest.raises(RuntimeError, match="would overwrite logits"):
        cross_entropy_(logits, torch.zeros(len(logits), dtype=torch.int64))
    assert (leaf == 0).all()


def test_second_derivatives_are_refused():
    logits = torch.randn(3, 5, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(cross_entropy_(logits * 1, torch.arange(3)), logits, create_graph=True)
