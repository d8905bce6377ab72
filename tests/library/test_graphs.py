"""Masks that stay where a CUDA graph reads them, and are drawn anew for each replay."""

import pytest
import torch
from devices import DEVICE, cuda_kernels

from structured_dropout import Case, DropoutPolicy, SiteDropout, StructuredLinear, StructuredLSTM
from structured_dropout.backends.cuda import masks as cuda_masks
from structured_dropout.graphs import Graphed, StaticMasks
from structured_dropout.masks import _places

POLICIES = {
    "dense": DropoutPolicy(rh=SiteDropout(Case.III, 0.5)),
    "fused": DropoutPolicy(nr=SiteDropout(Case.III, 0.4), output=SiteDropout(Case.IV, 0.5)),
    "cuda": DropoutPolicy(
        nr=SiteDropout(Case.III, 0.4),
        rh=SiteDropout(Case.III, 0.6, redraw_every=2),
        output=SiteDropout(Case.III, 0.5),
    ),
}


class Model(torch.nn.Module):
    def __init__(self, backend: str, policy: DropoutPolicy, generator: torch.Generator) -> None:
        super().__init__()
        given = {"policy": policy, "backend": backend, "generator": generator}
        self.lstm = StructuredLSTM(6, 5, 2, bidirectional=True, **given)
        self.projection = StructuredLinear(10, 3, **given)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projection(self.lstm(x)[0])


@pytest.fixture(params=POLICIES)
def trained(request):
    """A model and its step: from x to the loss, after plain SGD."""
    backend = request.param
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(7)
    with cuda_kernels():
        model = Model(backend, POLICIES[backend], generator).to(DEVICE)

    def step(x):
        loss = model(x).square().sum()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        return loss.detach()

    with cuda_kernels():
        yield model, step, generator


def test_static_masks_are_those_that_would_be_drawn(trained):
    model, step, generator = trained
    xs = torch.randn(4, 7, 2, 6, device=DEVICE)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    losses = [step(x) for x in xs]
    weights = model.projection.weight.clone()

    model.load_state_dict(start)
    generator.manual_seed(7)
    masks = StaticMasks()
    with masks.recorded():
        again = [step(xs[0])]
    for x in xs[1:]:
        masks.redraw()
        with masks.handed_out():
            again.append(step(x))

    assert len({loss.item() for loss in losses}) == 4
    torch.testing.assert_close(again, losses)
    torch.testing.assert_close(model.projection.weight, weights)


def test_static_masks_are_of_the_last_call_that_was_recorded(trained):
    model, step, _ = trained
    x, masks = torch.randn(7, 2, 6, device=DEVICE), StaticMasks()
    with masks.recorded():
        step(x)
    model.eval()
    with masks.recorded():
        model(x)
    masks.redraw()
    with masks.handed_out():
        model(x)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs need a GPU")
def test_graph_trains_as_its_step(trained):
    """Two shapes in turn, so that their graphs use the same memory in turn."""
    model, step, generator = trained
    xs = [torch.randn(7 - 2 * (i % 2), 2, 6, device=DEVICE) for i in range(14)]
    start = {name: value.clone() for name, value in model.state_dict().items()}
    losses = [step(x) for x in xs]
    state = generator.get_state()

    model.load_state_dict(start)
    generator.manual_seed(7)
    graphed = Graphed(step)
    again = [graphed(x) for x in xs]

    torch.testing.assert_close(again, losses)
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize(
    ("argument", "what"), [(torch.zeros(2), "a tensor on cpu"), (object(), "object")]
)
def test_a_graph_refuses_what_it_would_not_read(argument, what):
    with pytest.raises(TypeError, match=f"and keeps numbers, texts and None: not {what}"):
        Graphed(lambda *arguments: arguments)(argument)


def test_counts_of_kept_units_are_no_ones_inside_a_graph():
    policy = DropoutPolicy(rh=SiteDropout(Case.III, 0.5))
    lstm, x = StructuredLSTM(4, 4, policy=policy, backend="compact"), torch.randn(3, 2, 4)
    masks = StaticMasks()
    with masks.recorded():
        lstm(x)
    with (
        masks.handed_out(),
        pytest.raises(RuntimeError, match="choose another backend, or no graph"),
    ):
        lstm(x)


def test_checkpointing_inside_a_graph_is_refused():
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5))
    lstm = StructuredLSTM(4, 4, policy=policy, backend="fused")
    x = torch.randn(3, 2, 4, requires_grad=True)
    masks = StaticMasks()
    with masks.recorded(), pytest.raises(RuntimeError, match="leave out activation checkpointing"):
        y = torch.utils.checkpoint.checkpoint(lambda x: lstm(x)[0], x, use_reentrant=False)
        y.sum().backward()


def test_a_capture_makes_no_constants():
    """It could not send them to the device; other steps may have driven them out of the cache."""
    caches = [_places, cuda_masks._bounds, cuda_masks._places_before]
    policy = DropoutPolicy(output=SiteDropout(Case.I, 0.5), nr=SiteDropout(Case.III, 0.5))
    x = torch.nn.utils.rnn.pack_sequence([torch.randn(3, 6), torch.randn(2, 6)]).to(DEVICE)
    masks = StaticMasks()
    with cuda_kernels():
        model = Model("cuda", policy, torch.Generator()).to(DEVICE)

        def counted(field):
            model.projection(model.lstm(x)[0]).data.sum().backward()
            return [getattr(cache.cache_info(), field) > 0 for cache in caches]

        for cache in caches:
            cache.cache_clear()
        with masks.recorded():
            assert counted("misses") == [True, True, True]
        for cache in caches:
            cache.cache_clear()
        masks.redraw()
        with masks.handed_out():
            assert counted("misses") == [False, False, False]


def test_masks_drawn_apart_may_be_given():
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5))
    lstm, x = StructuredLSTM(4, 4, policy=policy, backend="fused"), torch.randn(3, 2, 4)
    masks = StaticMasks()
    with masks.recorded():
        lstm(x, masks=lstm.draw_masks(3, 2))
    masks.redraw()
    with masks.handed_out():
        found = lstm(x, masks=lstm.draw_masks(3, 2))[0]
    with masks.handed_out():
        torch.testing.assert_close(found, lstm(x)[0])


def test_a_step_draws_what_it_drew_before():
    policy = DropoutPolicy(nr=SiteDropout(Case.III, 0.5))
    lstm = StructuredLSTM(4, 4, policy=policy, backend="fused")
    masks = StaticMasks()
    with masks.recorded():
        lstm.draw_masks(3, 2)
    with pytest.raises(RuntimeError, match="draws fewer masks"), masks.handed_out():
        pass
    with pytest.raises(RuntimeError, match="draws more masks"), masks.handed_out():
        lstm.draw_masks(3, 2)
        lstm.draw_masks(3, 2)
