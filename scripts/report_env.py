"""Print what a bug report needs: python scripts/report_env.py"""

from __future__ import annotations

import torch

from structured_dropout import Case, DropoutPolicy, SiteDropout, backends
from structured_dropout.experiment import provenance


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts = {"commit": provenance.commit(), **provenance.machine(device), **provenance.versions()}
    site = SiteDropout(Case.III, 0.5)
    policies = {"nr": DropoutPolicy(nr=site), "nr and rh": DropoutPolicy(nr=site, rh=site)}
    for name, policy in policies.items():
        for backend in backends.names():
            facts[f"backend {backend}, {name}"] = usable(backend, policy, device)
    for name, value in facts.items():
        print(f"{name}: {value}")


def usable(backend: str, policy: DropoutPolicy, device: torch.device) -> str:
    """``yes``, or why this backend cannot run this policy here."""
    try:
        backends.resolve(backend, policy, device, torch.float32)
    except RuntimeError as error:
        return f"no: {error}"
    return "yes"


if __name__ == "__main__":
    main()
