"""The AWD-LSTM's recipe: windows, averaging, penalties, and a training that is the same though
it was stopped."""

import json
from functools import partial

import pytest
import torch
from devices import DEVICE, cuda_kernels
from torch import nn

from structured_dropout import Case, DropoutPolicy, SiteDropout
from structured_dropout.experiment import run as run_module
from structured_dropout.experiment import settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.graphs import Graphed, StaticMasks
from tasks.ptb import train_awd
from tasks.ptb.data import VariableWindows
from tasks.ptb.model_awd import AWDLanguageModel
from tasks.ptb.nt_asgd import NTASGD
from tasks.ptb.train_awd import penalty

TINY = ["task=ptb_awd", "model.hidden_size=12", "model.embedding_size=8", "backend=dense"]


def model(tied: bool = True, policy: DropoutPolicy | None = None) -> AWDLanguageModel:
    torch.manual_seed(0)
    return AWDLanguageModel(20, 8, 12, 3, tied, 0.1, policy or DropoutPolicy(), "dense")


def result(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_windows_of_random_length_carry_the_text_on():
    stream = torch.arange(20_000)
    windows = VariableWindows(stream, batch=4, bptt=70, seed=1, epoch=1)
    tokens, targets = (
        torch.cat(parts) for parts in zip(*(windows[i] for i in range(len(windows))), strict=True)
    )
    assert torch.equal(tokens[:, 1], torch.arange(5_000, 5_000 + len(tokens)))
    assert torch.equal(targets, tokens + 1)
    lengths = [len(windows[i][0]) for i in range(len(windows))]
    assert sum(lengths) == 4_999
    assert len(set(lengths)) > 10
    assert min(lengths[:-1]) >= 5
    assert 64 < sum(lengths[:-1]) / (len(lengths) - 1) < 72  # .95 * 70 + .05 * 35 = 68
    again, other = (VariableWindows(stream, 4, 70, 1, epoch) for epoch in (1, 2))
    assert [len(again[i][0]) for i in range(len(again))] == lengths
    assert [len(other[i][0]) for i in range(len(other))] != lengths
    with pytest.raises(UsageError, match="2 tokens; batch=1 needs 3"):
        VariableWindows(torch.arange(2), 1, 70, 1, 1)


def test_averaging_starts_when_the_validation_is_worse_than_it_was():
    optimizer = NTASGD([nn.Parameter(torch.zeros(1))], lr=1, weight_decay=0, nonmono=2)
    for validation in (
        5,
        4,
        3,
        4.5,
        3.9,
    ):  # never worse than the best of those more than two epochs older
        optimizer.end_epoch(validation)
        assert not optimizer.averages
    optimizer.end_epoch(3.5)
    assert optimizer.averages


def test_the_average_is_of_the_steps_since_it_started():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = NTASGD([weight], lr=1, weight_decay=0, nonmono=1)
    with optimizer.averaged():
        assert torch.equal(weight, torch.zeros(3))
    for validation in (1, 2, 3):
        optimizer.end_epoch(validation)
    visited = []
    for step in range(5):
        weight.grad = torch.full((3,), float(step))
        optimizer.step(lr=1)
        visited.append(weight.detach().clone())
    with optimizer.averaged():
        torch.testing.assert_close(
            weight.detach(), torch.stack(visited[1:]).mean(dim=0)
        )  # torch skips the first
    assert torch.equal(weight, visited[-1])


def test_averages_of_a_gpu_go_on_on_a_cpu():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = NTASGD([weight], lr=1, weight_decay=0, nonmono=1)
    for validation in (1, 2, 3):
        optimizer.end_epoch(validation)
    weight.grad = torch.ones(3)
    optimizer.step(lr=1)
    state = optimizer.state_dict()
    state["optimizer"]["param_groups"][0]["capturable"] = True  # as a GPU leaves it
    optimizer.load_state_dict(state)
    optimizer.step(lr=1)
    assert optimizer.averages


def test_the_projection_is_the_embedding_where_they_are_tied():
    tied, apart = model(), model(tied=False)
    assert tied.projection.weight is tied.embedding.weight
    assert apart.projection.weight is not apart.embedding.weight
    assert [tuple(layer.weight_hh_l0.shape) for layer in tied.layers] == [
        (48, 12),
        (48, 12),
        (32, 8),
    ]


def test_each_layer_has_its_own_rate():
    lstm = model(
        policy=DropoutPolicy(
            nr=SiteDropout(Case.III, (0.4, 0.25, 0.3)), rh=SiteDropout(Case.III, 0.5)
        )
    )
    assert [layer.policy.nr.p for layer in lstm.layers] == [0.4, 0.25, 0.3]
    assert [layer.policy.rh.p for layer in lstm.layers] == [0.5, 0.5, 0.5]


def test_words_are_dropped_in_training_only():
    lstm = model()
    tokens = torch.randint(20, (9, 4))
    lstm.eval()
    torch.testing.assert_close(lstm(tokens)[0], lstm(tokens)[0])
    lstm.train()
    assert not torch.allclose(lstm(tokens)[0], lstm(tokens)[0])


def test_penalties():
    """Activation regularization sees what dropout leaves, the temporal one all of it."""
    h = torch.randn(6, 3, 8)
    projection = model(policy=DropoutPolicy(output=SiteDropout(Case.III, 0.5))).projection
    mask = projection.draw_mask(6, 3)
    left = h * mask.multiplier(h)
    change = h[1:] - h[:-1]
    torch.testing.assert_close(penalty(h, mask, 2, 0), 2 * (left**2).mean())
    torch.testing.assert_close(penalty(h, mask, 0, 3), 3 * (change**2).mean())
    torch.testing.assert_close(penalty(h, None, 1, 1), (h**2).mean() + (change**2).mean())


@pytest.mark.parametrize("dropout", ["nr_st", "nr_rh_st"])
def test_static_masks_train_as_the_step(compose, dropout):
    cfg = compose("task=ptb_awd", f"dropout={dropout}", *TINY)
    policy = settings.policy(cfg, layers=cfg.model.layers)
    tokens = torch.randint(20, (2, 7, 3), device=DEVICE)

    def trained(iterate):
        generator = torch.manual_seed(0).clone_state()
        given = {"policy": policy, "backend": "cuda", "generator": generator}
        lstm = AWDLanguageModel(20, **cfg.model, **given).to(DEVICE)
        optimizer = NTASGD(lstm.parameters(), cfg.train.lr, weight_decay=0, nonmono=5)
        step = partial(train_awd.step, lstm, optimizer, cfg.train, settings.autocast(cfg))
        return [loss.item() for loss, _ in iterate(step)], lstm.projection.weight.detach()

    def captured(step):
        masks = StaticMasks()
        with masks.recorded():
            yield step(tokens[0], tokens[1], None)
        masks.redraw()
        with masks.handed_out():
            yield step(tokens[1], tokens[0], None)

    with cuda_kernels():
        plain = trained(lambda step: [step(*pair, None) for pair in (tokens, tokens.flip(0))])
        torch.testing.assert_close(trained(captured), plain)
        assert plain[0][0] != plain[0][1]


@pytest.mark.skipif(DEVICE.type != "cuda", reason="CUDA graphs need a GPU")
def test_graphs_train_as_the_step_also_while_averaging(compose):
    """Two lengths of windows in turn."""
    no_words = "model.embedding_dropout=0"  # which the device draws
    cfg = compose("task=ptb_awd", "dropout=nr_rh_st", *TINY, no_words)
    policy = settings.policy(cfg, layers=cfg.model.layers)
    windows = [torch.randint(20, (2, 7 - 2 * (i % 2), 3), device=DEVICE) for i in range(12)]

    def trained(graphed):
        generator = torch.manual_seed(0).clone_state()
        given = {"policy": policy, "backend": "cuda", "generator": generator}
        lstm = AWDLanguageModel(20, **cfg.model, **given).to(DEVICE)
        optimizer = NTASGD(lstm.parameters(), cfg.train.lr, weight_decay=0, nonmono=1)
        step = partial(train_awd.step, lstm, optimizer, cfg.train, settings.autocast(cfg))
        losses = []
        for validation in (1, 2, 3, 4):  # it averages in the last round
            iterate = graphed(step)
            losses += [iterate(*window, None)[0] for window in windows]
            optimizer.end_epoch(validation)
        assert optimizer.averages
        with optimizer.averaged():
            return losses, lstm.projection.weight.detach().clone()

    torch.testing.assert_close(trained(Graphed), trained(lambda step: step))


# The loss of one epoch, pinned for this seed; that of a model which knows nothing is ln(21) = 3.04.
LOSSES = {"awd": 2.7514, "nr_st": 3.0313, "nr_rh_st": 2.8930}


@pytest.mark.parametrize("dropout", LOSSES)
def test_an_epoch(launch, counting_text, tmp_path, dropout):
    overrides = ["model.embedding_size=64", "train.lr=10", "train.epochs=1", "backend=dense"]
    launch("task=ptb_awd", *counting_text, *overrides, f"dropout={dropout}", f"run.dir={tmp_path}")
    assert result(tmp_path)["status"] == "finished"
    assert result(tmp_path)["metrics"]["train_loss"] == pytest.approx(LOSSES[dropout], abs=0.005)


@pytest.mark.parametrize("dropout", ["awd", "nr_rh_st"])
def test_a_training_that_was_stopped_while_averaging_ends_the_same(
    launch, tiny_text, tmp_path, monkeypatch, dropout
):
    """Bit for bit, best weights and averages included."""
    settings = ["train.epochs=4", "train.nonmono=1", "train.batch=9"]
    overrides = [*tiny_text, *TINY, f"dropout={dropout}", *settings]
    launch(*overrides, f"run.dir={tmp_path / 'unbroken'}")
    unbroken = torch.load(tmp_path / "unbroken" / "checkpoint.pt")
    assert unbroken["kept"]["optimizer"]["averages"]

    class Stopped(Exception):
        pass

    def stop(run, *_):
        if run._at.iterations in stops:
            run._save()
            raise Stopped

    last = unbroken["position"]["iterations"]
    for stop_at in (last - 3, last // 2):
        stops = {stop_at}
        folder = tmp_path / f"stopped at {stop_at}"
        with monkeypatch.context() as patch:
            patch.setattr(run_module.Run, "_after_iteration", stop)
            with pytest.raises(Stopped):
                launch(*overrides, f"run.dir={folder}")
        launch(*overrides, f"run.dir={folder}")
        assert result(folder)["resumed"]
        assert result(folder)["metrics"] == result(tmp_path / "unbroken")["metrics"]
        assert_equal(torch.load(folder / "checkpoint.pt")["kept"], unbroken["kept"])


def assert_equal(actual, expected) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key, value in expected.items():
            assert_equal(actual[key], value)
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(actual, expected)
    else:
        assert actual == expected
