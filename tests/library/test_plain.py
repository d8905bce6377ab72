"""Where nothing is dropped a module is as plain as torch's own: to exporters, transforms and
wrappers."""

import os
import subprocess
import sys
import warnings

import pytest
import torch
from cases import POLICIES
from torch import nn

from structured_dropout import (
    Case,
    DropoutPolicy,
    SiteDropout,
    StructuredLinear,
    StructuredLSTM,
    Zoneout,
    backends,
)

CPU = torch.device("cpu")
NR_RH_ST = POLICIES["nr_rh_st"]
PLAIN = {
    name: policy
    for name, policy in POLICIES.items()
    if not DropoutPolicy(zoneout=policy.zoneout).drops
}
CHOICES = [
    (name, backend)
    for name, policy in PLAIN.items()
    for backend in ("auto", *backends.names())
    if backend == "auto" or backends.get(backend).supports(policy, CPU, torch.float32) is None
]


class Model(nn.Module):
    """An LSTM and its projection."""

    def __init__(self, policy: DropoutPolicy, backend: str = "auto", dtype=torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        output = DropoutPolicy(output=SiteDropout(Case.III, 0.5))
        self.lstm = StructuredLSTM(5, 7, 2, policy=policy, backend=backend, dtype=dtype)
        self.linear = StructuredLinear(7, 3, policy=output, backend="compact", dtype=dtype)

    def forward(self, x):
        return self.linear(self.lstm(x)[0])


def of_torch(model: Model) -> nn.Module:
    """The same model of torch's modules."""
    plain = nn.Module()
    plain.lstm, plain.linear = model.lstm.to_torch(), model.linear.to_torch()
    plain.forward = lambda x: plain.linear(plain.lstm(x)[0])
    return plain


X = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "backend"), CHOICES)
def test_eval_mode_is_torchs_own(name, backend):
    model = Model(PLAIN[name], backend).eval()
    assert torch.equal(model(X), of_torch(model).forward(X))


def test_rates_of_zero_are_torchs_own_where_the_choice_is_free():
    policy = DropoutPolicy(nr=SiteDropout("III", 0.0), zoneout=Zoneout(0, 0))
    lstm = StructuredLSTM(5, 7, policy=policy)
    assert torch.equal(lstm(X)[0], lstm.to_torch()(X)[0])


def test_a_backend_that_was_asked_for_trains_though_nothing_is_dropped(monkeypatch):
    """It may be what is measured."""
    called = []
    dense = backends.get("dense")
    layer = dense.lstm_layer
    monkeypatch.setattr(dense, "lstm_layer", lambda *a: called.append(1) or layer(*a))
    StructuredLSTM(5, 7, 2, policy=DropoutPolicy(), backend="dense")(X)
    assert called == [1, 1]


@pytest.mark.parametrize(("name", "backend"), CHOICES)
def test_a_trace_holds_torchs_operators_only(name, backend):
    model = Model(PLAIN[name], backend).eval()
    trace = torch.jit.trace(model, X)
    kinds = {node.kind() for node in trace.inlined_graph.nodes()}
    assert "aten::lstm" in kinds
    assert not any("structured" in kind or "PythonOp" in kind for kind in kinds)
    assert torch.equal(trace(X), model(X))


def test_a_trace_loads_without_this_package(tmp_path):
    model = Model(NR_RH_ST).eval()
    torch.jit.trace(model, X).save(tmp_path / "model.pt")
    torch.save((X, model(X)), tmp_path / "expected.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['structured_dropout'] = None\n"
        "x, y = torch.load('expected.pt')\n"
        "assert torch.equal(torch.jit.load('model.pt')(x), y)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


@pytest.mark.parametrize("name", PLAIN)
def test_export(name):
    model = Model(PLAIN[name]).eval()
    program = torch.export.export(model, (X,))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not any("structured" in target for target in targets)
    torch.testing.assert_close(program.module()(X), model(X))


def test_onnx(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = Model(NR_RH_ST).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (X,), tmp_path / "model.onnx", dynamo=False)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sum(node.op_type == "LSTM" for node in graph.node) == 2
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}


def test_script():
    """torch would put what a module prepares in its place for good, so that it never dropped again:
    that is the user's to do."""
    model = Model(NR_RH_ST).eval()
    for module in (model, model.lstm, model.linear):
        with pytest.raises(RuntimeError, match=r"cannot read this module: call eval\(\) and take"):
            torch.jit.script(module)
    scripted = torch.jit.script(nn.Sequential(model.lstm.to_torch()))
    assert torch.equal(scripted(X)[0], model.lstm(X)[0])


def test_dynamic_quantization_of_what_to_torch_gives():
    lstm = StructuredLSTM(5, 7, policy=NR_RH_ST).eval()
    model = nn.Sequential(lstm.to_torch())
    assert model[0].weight_ih_l0 is lstm.weight_ih_l0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.quantization.quantize_dynamic(model, {nn.LSTM}, torch.qint8)
    torch.testing.assert_close(quantized(X)[0], lstm(X)[0], rtol=0, atol=0.1)
    with pytest.raises(ValueError, match=r"nn\.LSTM has no zoneout"):
        StructuredLSTM(5, 7, policy=DropoutPolicy(zoneout=Zoneout(0.1, 0.1))).to_torch()


def test_second_derivatives():
    model = Model(NR_RH_ST, "dense", torch.float64).eval()
    assert torch.autograd.gradgradcheck(model, X[:2, :2].double().requires_grad_())


def test_transforms():
    model = Model(NR_RH_ST).eval()
    parameters = dict(model.named_parameters())

    def loss(parameters, x):
        return torch.func.functional_call(model, parameters, (x,)).square().sum()

    gradients = torch.func.grad(loss)(parameters, X)
    expected = torch.autograd.grad(model(X).square().sum(), list(parameters.values()))
    for found, gradient in zip(gradients.values(), expected, strict=True):
        torch.testing.assert_close(found, gradient)


@pytest.mark.parametrize("backend", ["auto", "dense", "compact"])
def test_transforms_of_a_module_that_drops_are_refused(backend):
    model = Model(NR_RH_ST, backend)
    parameters = dict(model.named_parameters())
    with pytest.raises(RuntimeError, match=r"torch\.func cannot transform a module while it drops"):
        torch.func.grad(lambda p: torch.func.functional_call(model, p, (X,)).sum())(parameters)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_replicas_of_data_parallel(mode):
    """They have attributes in the place of parameters."""
    model = getattr(Model(NR_RH_ST, "compact"), mode)()
    torch.manual_seed(2)
    expected = model(X)
    for name in ("lstm", "linear"):
        module = getattr(model, name)
        replica = module._replicate_for_data_parallel()
        for parameter, value in module.named_parameters():
            setattr(replica, parameter, value.detach() * 1)
        assert not list(replica.parameters())
        model._modules[name] = replica
    torch.manual_seed(2)
    torch.testing.assert_close(model(X), expected)


@pytest.mark.parametrize(
    "name",
    [
        n
        for n, p in POLICIES.items()
        if backends.get("compact").supports(p, CPU, torch.float32) is None
    ],
)
def test_another_default_device(name):
    """As with torch.set_default_device("cuda") and a model on the CPU."""
    packed = nn.utils.rnn.pack_sequence([torch.randn(n, 5) for n in (3, 2)])
    for backend in ("auto", "dense", "compact"):
        lstm = StructuredLSTM(5, 7, bidirectional=True, policy=POLICIES[name], backend=backend)
        linear = StructuredLinear(14, 3, policy=DropoutPolicy(output=POLICIES[name].nr))
        try:
            torch.set_default_device("meta")
            for x in (X, packed):
                y = linear(lstm(x)[0])
                (y if isinstance(y, torch.Tensor) else y.data).sum().backward()
        finally:
            torch.set_default_device(None)


@pytest.mark.parametrize("backend", ["auto", "cpu", "dense"])
def test_made_on_the_meta_device(backend):
    if backend == "cpu" and backends.get("cpu").supports(NR_RH_ST, CPU, torch.float32):
        pytest.skip("needs a compiler")
    with torch.device("meta"):
        lstm = StructuredLSTM(5, 7, policy=NR_RH_ST, backend=backend)
        linear = StructuredLinear(7, 3, policy=NR_RH_ST, backend=backend)
    for module in (lstm, linear):
        module.to_empty(device="cpu")
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    assert (linear(lstm(X)[0]) == 0).all()


def test_choosing_builds_and_registers_nothing(tmp_path):
    code = (
        "import torch\n"
        "from structured_dropout import *\n"
        "from structured_dropout import backends\n"
        "from scripts import report_env\n"
        "policy = DropoutPolicy(nr=SiteDropout('III', .5), output=SiteDropout('III', .5))\n"
        "for backend in ('auto', 'cpu'):\n"
        "    StructuredLSTM(3, 4, policy=policy, backend=backend)\n"
        "    StructuredLinear(3, 4, policy=policy, backend=backend)\n"
        "    backends.resolve(backend, policy, torch.device('cpu'), torch.float32)\n"
        "report_env.main()\n"
        "for name in ('linear_fp', 'lstm_fp', 'cuda_linear_fp', 'cuda_lstm_fp'):\n"
        "    assert not hasattr(torch.ops.structured_dropout, name), name\n"
    )
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []
