"""The decoder's graphs do what its loop does; with TEST_DEVICE=cuda they are graphs indeed."""

from contextlib import nullcontext

import pytest
import torch
from devices import DEVICE, cuda_kernels

from structured_dropout import Case, DropoutPolicy, SiteDropout
from tasks.nmt.benchmark import made_up_vocabulary
from tasks.nmt.model import build
from tasks.nmt.train import negative_log_likelihood

PADDING = 1
OUTPUT = {"output": SiteDropout(Case.III, 0.5, redraw_every=2)}
POLICIES = {
    "nothing": DropoutPolicy(),
    "nr": DropoutPolicy(nr=SiteDropout(Case.III, (0.0, 0.5)), **OUTPUT),
    "nr+rh": DropoutPolicy(
        nr=SiteDropout(Case.III, (0.0, 0.5)), rh=SiteDropout(Case.III, 0.4), **OUTPUT
    ),
    "random": DropoutPolicy(**{site: SiteDropout(Case.I, 0.5) for site in ("nr", "rh", "output")}),
}


def captured_on_cpu(module, samples, pool):
    """What torch.cuda.make_graphed_callables gives, as far as a caller sees: it reads the memory of
    the samples and of the module's parameters, and has the gradients of no others."""
    read = [x for x in (*samples, *module.parameters()) if x.requires_grad]

    class Replay(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *given):
            for there, here in zip(samples, given, strict=False):
                there.detach().copy_(here)
            with torch.enable_grad():
                ctx.result = module(*samples)
            return ctx.result.detach()

        @staticmethod
        def backward(ctx, gradient):
            gradients = iter(torch.autograd.grad(ctx.result, read, gradient))
            return (
                *(next(gradients) if x.requires_grad else None for x in samples),
                *gradients,
            )

    return lambda *given: Replay.apply(*given, *module.parameters())


@pytest.fixture
def captures(monkeypatch):
    """The modules that were captured."""
    modules, capture = [], torch.cuda.make_graphed_callables
    if DEVICE.type != "cuda":
        capture = captured_on_cpu
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)

    def captured(module, *given, **how):
        modules.append(module)
        return capture(module, *given, **how)

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", captured)
    return modules


def model(policy: str, graphs: bool):
    torch.manual_seed(0)
    backend = "dense" if policy == "random" else "cuda"
    with cuda_kernels():
        return build(
            made_up_vocabulary(20, 17),
            12,
            2,
            0.3,
            POLICIES[policy],
            backend,
            torch.Generator().manual_seed(3),
            cuda_graphs=graphs,
        ).to(DEVICE)


def batch(src_len: int, tgt_len: int, seed: int):
    torch.manual_seed(seed)
    lengths = torch.randint(1, src_len + 1, (4,)).sort(descending=True).values
    lengths[0] = src_len
    src, tgt = torch.randint(4, 20, (src_len, 4, 1)), torch.randint(4, 17, (tgt_len, 4, 1))
    for row, length in enumerate(lengths):
        src[length:, row] = PADDING
    return src.to(DEVICE), lengths, tgt.to(DEVICE)


def trained(model, batches):
    """The losses, and the gradients of each step."""
    results = []
    for number, (src, lengths, tgt) in enumerate(batches):
        torch.manual_seed(number)
        model.zero_grad()
        with cuda_kernels():
            loss = negative_log_likelihood(model(src, lengths, tgt), tgt, PADDING)
            loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        results.append((loss.detach().clone(), gradients))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
    return results


@pytest.mark.parametrize("policy", POLICIES)
def test_training_by_graphs_is_training(policy, captures):
    # Some are filled up to four words or eight.
    shapes = [(8, 5), (3, 9), (8, 5), (4, 7), (6, 8), (8, 9)]
    batches = [batch(*shape, seed) for seed, shape in enumerate(shapes)]
    expected = trained(model(policy, graphs=False), batches)
    assert not captures
    steps = zip(trained(model(policy, graphs=True), batches), expected, strict=True)
    for step, (actual, wanted) in enumerate(steps):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5, msg=f"step {step}")
    assert len(captures) == 3


def test_without_training_nothing_is_captured(captures):
    evaluated = model("nr+rh", graphs=True).eval()
    with torch.no_grad(), cuda_kernels():
        evaluated(*batch(8, 5, 0))
    assert not captures


def test_precisions_have_graphs_of_their_own(captures):
    if DEVICE.type == "cuda" and not torch.cuda.is_bf16_supported():
        pytest.skip("this GPU has no bfloat16")
    both = model("nr", graphs=True)
    src, lengths, tgt = batch(8, 5, 0)
    losses = []
    for on in (False, True, False):
        with cuda_kernels(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=on):
            both.masks_from.manual_seed(0)
            outputs = both(src, lengths, tgt)
        losses.append(negative_log_likelihood(outputs, tgt, PADDING).item())
    assert losses[0] == losses[2] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert len(captures) == 2
