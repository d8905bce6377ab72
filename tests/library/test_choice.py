"""The choice among backends: an explicit one runs or is refused; what is advised instead runs."""

import logging
import re

import pytest
import torch
from cases import POLICIES

from structured_dropout import backends

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", backends.names())
def test_what_is_advised_is_not_refused(name, policy, dtype):
    if backends.get(name).supports(policy, CPU, dtype) is None:
        assert backends.resolve(name, policy, CPU, dtype) == name
        return
    with pytest.raises(RuntimeError, match=f"backend {name} cannot run this on cpu: ") as refusal:
        backends.resolve(name, policy, CPU, dtype)
    advised = re.search(r"; choose (.*)$", str(refusal.value))[1].split(" or ")
    for other in advised:
        assert backends.resolve(other, policy, CPU, dtype) == other


def test_an_unknown_name():
    for choose in (backends.get, lambda name: backends.resolve(name, None, CPU, torch.float32)):
        with pytest.raises(ValueError, match="unknown backend 'magic': choose auto, dense, fused"):
            choose("magic")


def test_auto_logs_its_choice_once(caplog):
    backends._auto.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            backends.resolve("auto", POLICIES["nr_random"], CPU, torch.float32)
    assert caplog.messages == ["backend auto: fused"]
    backends._auto.cache_clear()
