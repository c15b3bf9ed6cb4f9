"""The switch to fused Adam: where it happens, and that the weights do not notice."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from saereg_plugin.mechanics.optimizer_steps import use_fused_adam


def parameters(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(40, 7), (40,), (3, 5)]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def step(optimizer: torch.optim.Optimizer, number: int) -> None:
    """One step with gradients that depend on the number only, of sizes 1e-6 to 1e2."""
    generator = torch.Generator().manual_seed(number)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            scale = 10 ** torch.empty(()).uniform_(-6, 2, generator=generator)
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = scale * drawn
    optimizer.step()


def run(optimizer: torch.optim.Optimizer, start: int, end: int) -> None:
    for number in range(start, end):
        step(optimizer, number)


def assert_close(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
    for actual, expected in zip(ours, theirs, strict=True):
        assert (actual - expected).norm() < 1e-6 * expected.norm()


def flags(optimizer: torch.optim.Optimizer) -> list[bool]:
    return [bool(group["fused"]) for group in optimizer.param_groups]


def test_every_group_of_adam_is_switched_once() -> None:
    first, second, third = parameters()
    optimizer = torch.optim.Adam([{"params": [first, second]}, {"params": [third]}])
    assert flags(optimizer) == [False, False]
    use_fused_adam(optimizer)
    assert flags(optimizer) == [True, True]
    run(optimizer, 0, 2)
    before = copy.deepcopy(optimizer.state_dict())
    steps = [optimizer.state[each]["step"] for each in (first, second, third)]
    use_fused_adam(optimizer)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    for each, count in zip((first, second, third), steps, strict=True):
        assert optimizer.state[each]["step"] is count


@pytest.mark.parametrize("switch_at", [0, 1, 20])
@pytest.mark.parametrize(
    "options", [{}, {"betas": (0.0, 0.999)}, {"weight_decay": 0.1, "amsgrad": True}]
)
def test_weights_after_fifty_steps_are_those_of_plain_adam(
    switch_at: int, options: dict[str, Any]
) -> None:
    start, ours, theirs = parameters(), parameters(), parameters()
    fused = torch.optim.Adam(ours, lr=1e-2, **options)
    plain = torch.optim.Adam(theirs, lr=1e-2, **options)
    run(fused, 0, switch_at)
    use_fused_adam(fused)
    run(fused, switch_at, 50)
    run(plain, 0, 50)
    assert flags(fused) == [True] and flags(plain) == [False]
    assert_close(ours, theirs)
    for actual, expected in zip(ours, theirs, strict=True):
        assert fused.state[actual]["step"] == plain.state[expected]["step"] == 50
    assert all((a - b).norm() > 0.1 for a, b in zip(ours, start, strict=True))


def test_fused_adam_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = torch._fused_adam_

    def noted(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(args[0]))
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "_fused_adam_", noted)
    optimizer = torch.optim.Adam(parameters())
    step(optimizer, 0)
    assert calls == []
    use_fused_adam(optimizer)
    step(optimizer, 1)
    assert calls == [3]


@pytest.mark.parametrize("flag", ["foreach", "differentiable"])
def test_groups_with_an_implementation_of_their_own_are_left_alone(flag: str) -> None:
    first, second, third = parameters()
    groups: list[dict[str, Any]] = [
        {"params": [first, second], flag: True},
        {"params": [third]},
    ]
    optimizer = torch.optim.Adam(groups)
    use_fused_adam(optimizer)
    assert flags(optimizer) == [False, True]
    assert optimizer.param_groups[0][flag]


@pytest.mark.parametrize(
    "kind", [torch.optim.AdamW, torch.optim.SGD, torch.optim.NAdam, torch.optim.Adamax]
)
def test_other_optimisers_are_left_alone(kind: Any) -> None:
    optimizer = kind(parameters(), lr=1e-3)
    run(optimizer, 0, 2)
    before = copy.deepcopy(optimizer.state_dict())
    use_fused_adam(optimizer)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]


def test_step_counts_move_to_the_parameters_device() -> None:
    """On the meta device, since a test machine need not have another one."""
    parameter = nn.Parameter(torch.empty(3, device="meta"))
    untouched = nn.Parameter(torch.empty(3, device="meta"))
    optimizer = torch.optim.Adam([parameter, untouched])
    optimizer.state[parameter] = {"step": torch.tensor(5.0)}
    use_fused_adam(optimizer)
    assert optimizer.state[parameter]["step"].device.type == "meta"
    assert list(optimizer.state) == [parameter]


def test_state_goes_on_in_a_plain_adam() -> None:
    ours = parameters()
    fused = torch.optim.Adam(ours, lr=1e-2)
    use_fused_adam(fused)
    run(fused, 0, 10)
    resumed = [nn.Parameter(each.detach().clone()) for each in ours]
    again = torch.optim.Adam(resumed, lr=1e-2)
    again.load_state_dict(copy.deepcopy(fused.state_dict()))
    # the choice is part of the state, so a resumed run is the same to the last bit
    assert flags(again) == [True]
    run(again, 10, 20)
    run(fused, 10, 20)
    for actual, expected in zip(resumed, ours, strict=True):
        assert torch.equal(actual, expected)
        assert again.state[actual]["step"] == 20


def test_state_of_a_plain_adam_goes_on_fused() -> None:
    theirs = parameters()
    plain = torch.optim.Adam(theirs, lr=1e-2)
    run(plain, 0, 10)
    resumed = [nn.Parameter(each.detach().clone()) for each in theirs]
    again = torch.optim.Adam(resumed, lr=1e-2)
    again.load_state_dict(copy.deepcopy(plain.state_dict()))
    use_fused_adam(again)
    run(again, 10, 30)
    run(plain, 10, 30)
    assert_close(resumed, theirs)
