"""The host's cost of a layer is measured with a launcher that has all that plans ask for."""

import launch_cost


def test_costs(monkeypatch):
    monkeypatch.setattr(launch_cost, "_ROUNDS", 20)
    monkeypatch.setattr(launch_cost, "_CALLS", 1)
    costs = launch_cost.costs()
    assert list(costs) == [
        "masks_us",
        "forward_us",
        "forward_and_backward_us",
        "linear_forward_and_backward_us",
    ]
    assert all(cost > 0 for cost in costs.values())
