"""NT-ASGD: stochastic gradient descent that averages its weights once the validation
stops improving."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_log = logging.getLogger(__name__)


class NTASGD:
    """Non-monotonically triggered averaged SGD (Merity et al., 2018, algorithm 1), as their code
    has it.

    Args:
        nonmono: averaging starts after an epoch whose validation is worse than the best one that is
            more than this many epochs older.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float, nonmono: int
    ) -> None:
        self._parameters = list(parameters)
        self._nonmono = nonmono
        self._options = {"lr": lr, "weight_decay": weight_decay}
        self._validations: list[float] = []
        self._optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self._parameters, **self._options, fused=True
        )

    @property
    def averages(self) -> bool:
        """Whether averaging has started."""
        return isinstance(self._optimizer, torch.optim.ASGD)

    def zero_grad(self) -> None:
        self._optimizer.zero_grad()

    def step(self, lr: float) -> None:
        """Descend at this rate; once it averages, torch's ASGD does so at the rate of the step
        before, as in theirs."""
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()

    def end_epoch(self, validation: float) -> bool:
        """Start averaging if it is time, and tell whether it was; a lower validation is better."""
        if self.averages:
            return False
        before = self._validations[: -self._nonmono]
        if before and validation > min(before):
            _log.info("no better than %d epochs ago: averaging from here", self._nonmono)
            self._average()
        self._validations.append(validation)
        return self.averages

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are their averages, if averaging has started."""
        if not self.averages:
            yield
            return
        last = [parameter.detach().clone() for parameter in self._parameters]
        self._set(self._optimizer.state[parameter]["ax"] for parameter in self._parameters)
        try:
            yield
        finally:
            self._set(last)

    def state_dict(self) -> dict[str, Any]:
        return {
            "averages": self.averages,
            "validations": self._validations,
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["averages"]:
            self._average()
        self._validations = state["validations"]
        saved = state["optimizer"]
        if self.averages:  # it may come from another device
            groups = [group | self._capturable for group in saved["param_groups"]]
            saved = {**saved, "param_groups": groups}
        self._optimizer.load_state_dict(saved)

    def _average(self) -> None:
        self._optimizer = torch.optim.ASGD(
            self._parameters,
            **self._options,
            t0=0,
            lambd=0,
            **self._capturable,
        )

    @property
    def _capturable(self) -> dict[str, bool]:
        """ASGD's option for CUDA graphs, which it takes on a GPU only."""
        return {"capturable": self._parameters[0].is_cuda}

    @torch.no_grad()
    def _set(self, values: Iterable[torch.Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)
