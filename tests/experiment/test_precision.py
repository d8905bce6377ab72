"""precision=bf16: every recipe trains in it, near fp32 but not in its bits, and resumes bit for
bit. precision=tf32: what torch is told, for there is no GPU here."""

import subprocess
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch
from cases import needs_autocast
from running import command, result, rows

from structured_dropout import DropoutPolicy, backends
from structured_dropout.experiment import checkpoint, settings
from structured_dropout.experiment.errors import UsageError
from structured_dropout.experiment.run import Run

ROOT = Path(__file__).parents[2]
TASKS = {
    "ptb": lambda folder: ["task=ptb_small", *tiny.text(folder)],
    "awd": lambda folder: ["task=ptb_awd", "model.embedding_size=8", *tiny.text(folder)],
    "ner": tiny.columns,
    "nmt": tiny.pairs,
}
NEEDS = {"ner": "torchcrf", "nmt": "onmt"}


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    """A tiny training of a task, of two epochs."""
    made = {}

    def overrides(task: str) -> list[str]:
        if find_spec(NEEDS.get(task, "torch")) is None:
            pytest.skip(f"needs {NEEDS[task]}")
        if task not in made:
            made[task] = TASKS[task](tmp_path_factory.mktemp(task))
        return [*made[task], "train.epochs=2", "train.lr=.1", "train.threads=1"]

    return overrides


@needs_autocast
@pytest.mark.parametrize(
    ("dropout", "backend"), [("nr_random", "fused"), ("nr_rh_st", "dense"), ("nr_rh_st", "auto")]
)
@pytest.mark.parametrize("task", TASKS)
def test_a_training_in_bf16_is_near_one_in_fp32(
    launch, overrides, tmp_path, task, dropout, backend
):
    chosen = [*overrides(task), f"dropout={dropout}", f"backend={backend}"]
    for precision in ("fp32", "bf16"):
        launch(*chosen, f"precision={precision}", f"run.dir={tmp_path / precision}")
    fp32, bf16 = result(tmp_path / "fp32"), result(tmp_path / "bf16")
    assert (fp32["precision"], bf16["precision"]) == ("fp32", "bf16")
    assert bf16["metrics"]["train_loss"] != fp32["metrics"]["train_loss"]
    assert bf16["metrics"]["train_loss"] == pytest.approx(fp32["metrics"]["train_loss"], rel=0.01)
    state = checkpoint.load(tmp_path / "bf16/checkpoint.pt")["kept"]["model"]
    assert {weight.dtype for weight in state.values() if weight.is_floating_point()} == {
        torch.float32
    }


class Stopped(Exception):
    """Stands for whatever ends a process."""


@needs_autocast
@pytest.mark.parametrize("task", TASKS)
def test_a_training_in_bf16_resumes_to_the_same_bits(
    launch, overrides, tmp_path, monkeypatch, task
):
    command = [*overrides(task), "precision=bf16", "train.checkpoint_iterations=4"]
    launch(*command, f"run.dir={tmp_path / 'unbroken'}")
    record, calls = Run.record, []

    def stopping(*args, **options):
        calls.append(args)
        if len(calls) == 7:
            raise Stopped
        record(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Run, "record", stopping)
        launch(*command, f"run.dir={tmp_path / 'stopped'}")
    launch(*command, f"run.dir={tmp_path / 'stopped'}")
    assert result(tmp_path / "stopped")["resumed"]
    assert rows(tmp_path / "stopped") == rows(tmp_path / "unbroken")
    assert weights(tmp_path / "stopped") == weights(tmp_path / "unbroken")


def weights(folder: Path) -> dict[str, bytes]:
    model = checkpoint.load(folder / "checkpoint.pt")["kept"]["model"]
    return {name: weight.numpy().tobytes() for name, weight in model.items()}


def test_a_processor_that_cannot_evaluate_in_bf16_is_told_before_a_training(compose, monkeypatch):
    for takes in (True, False):
        monkeypatch.setattr(settings, "autocasts_lstm", lambda takes=takes: takes)
        settings.backend(compose("backend=dense", "device=cpu"), DropoutPolicy())
        cfg = compose("backend=dense", "device=cpu", "precision=bf16")
        with nullcontext() if takes else pytest.raises(UsageError, match="choose precision=fp32"):
            settings.backend(cfg, DropoutPolicy())


def test_a_backend_that_cannot_compute_in_bf16_is_refused_and_passed_over(compose, monkeypatch):
    backend = type(backends.get("cpu"))
    supports = backend.supports

    def fp32_only(self, policy, device, dtype):
        return "no bfloat16" if dtype == torch.bfloat16 else supports(self, policy, device, dtype)

    monkeypatch.setattr(backend, "supports", fp32_only)
    monkeypatch.setattr(settings, "autocasts_lstm", lambda: True)
    backends._auto.cache_clear()
    monkeypatch.setattr(backends, "_auto", backends._auto.__wrapped__)
    chosen = ["dropout=nr_st", "device=cpu", "precision=bf16"]
    cfg = compose(*chosen, "backend=cpu")
    policy = settings.policy(cfg, layers=2)
    with pytest.raises(UsageError, match="backend cpu cannot run this on cpu: no bfloat16"):
        settings.backend(cfg, policy)
    assert settings.backend(compose(*chosen, "backend=auto"), policy) == "fused"


def test_fp32_is_the_same_context_as_none(compose):
    with settings.autocast(compose("device=cpu")):
        assert not torch.is_autocast_enabled("cpu")
    with settings.autocast(compose("device=cpu", "precision=bf16")):
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16


LIBRARIES = (torch.backends.cuda.matmul, torch.backends.cudnn.rnn, torch.backends.cudnn.conv)


def may_use_tf32() -> list[bool]:
    return [library.fp32_precision == "tf32" for library in LIBRARIES]


@pytest.fixture
def gpu(monkeypatch):
    """As if there were one, of some compute capability."""

    def gpu(*capability: int) -> None:
        monkeypatch.setattr(settings, "device", lambda cfg: torch.device("cuda"))
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")

    yield gpu
    settings.allow_tf32(False)


def test_a_gpu_multiplies_in_tf32_where_precision_says_so_and_nowhere_else(compose, gpu):
    gpu(9, 0)
    for precision, allowed in (("tf32", True), ("fp32", False), ("tf32", True)):
        settings.set_precision(compose(f"precision={precision}"))
        assert may_use_tf32() == [allowed] * 3
    assert settings.dtype(compose("precision=tf32")) == torch.float32
    settings.set_precision(compose("precision=bf16"))
    assert may_use_tf32() == [False] * 3


def test_tf32_is_refused_where_there_is_none(compose, gpu):
    on_cpu = compose("precision=tf32", "backend=dense", "device=cpu")
    with pytest.raises(UsageError, match="and this is a CPU: choose precision=fp32"):
        settings.backend(on_cpu, DropoutPolicy())
    gpu(7, 5)
    with pytest.raises(UsageError, match="and this is Some GPU: choose precision=fp32"):
        settings.backend(compose("precision=tf32", "backend=dense"), DropoutPolicy())


def test_a_training_is_in_its_own_precision(launch, overrides, tmp_path):
    settings.allow_tf32(True)
    launch(*overrides("ptb"), "backend=dense", "train.max_iterations=1", f"run.dir={tmp_path}")
    assert may_use_tf32() == [False] * 3


def test_so_is_what_uses_a_trained_model(tmp_path):
    use = ["mode=evaluate", f"checkpoint={tmp_path / 'none'}", "device=cpu", "precision=tf32"]
    done = subprocess.run(command(*use), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: precision=tf32: TF32 is a GPU's" in done.stderr
