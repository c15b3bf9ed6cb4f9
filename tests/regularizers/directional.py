"""Small SAEs on made-up activations, for penalties on decoder directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from saereg_plugin.component import Step
from saereg_plugin.regularizers.cosines import DirectionalPenalty, Directions
from tests.training import batches, component, make_sae, make_trainer, run_steps

WIDTH = 16
LATENTS = 24


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small_sae(*regularizers: Any, seed: int = 0, **fields: Any) -> Any:
    values: dict[str, Any] = {"d_in": WIDTH, "d_sae": LATENTS, "k": 4, **fields}
    return make_sae(seed=seed, regularizers=list(regularizers), **values)


def small_trainer(sae: Any, *, start: int = 0, **fields: Any) -> Any:
    data = random_rows(64 * 40, WIDTH, seed=7)
    return make_trainer(sae, batches(data, 64, start), steps=300, **fields)


def step_of(sae: Any, index: int = 0) -> Step:
    """A step whose activations these penalties must not need."""
    empty = torch.empty(0)
    return Step(sae, index, empty, empty, empty, empty, None)


def measured(sae: Any, label: str, index: int = 0) -> tuple[float, torch.Tensor]:
    """The penalty and its gradient, without coefficient."""
    part: DirectionalPenalty = component(sae, label)
    with torch.no_grad():
        value, gradient = part.measure(step_of(sae, index), Directions.of(sae.W_dec))
    assert gradient is not None
    return float(value), gradient


def assert_gradient(
    sae: Any,
    label: str,
    formula: Callable[[torch.Tensor], torch.Tensor],
    *,
    entries: int = 12,
) -> None:
    """In float64: the value, the gradient by autograd, and by finite differences."""
    value, gradient = measured(sae, label)
    rows = sae.W_dec.detach().clone().requires_grad_()
    expected = formula(rows)
    expected.backward()
    torch.testing.assert_close(value, float(expected.detach()), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradient, rows.grad, rtol=1e-9, atol=1e-12)
    assert float(gradient.abs().max()) > 1e-4
    flat, h = rows.detach().clone(), 1e-6
    for position in torch.linspace(0, flat.numel() - 1, entries).long().tolist():
        ends: list[torch.Tensor] = []
        for sign in (1, -1):
            moved = flat.clone()
            moved.view(-1)[position] += sign * h
            ends.append(formula(moved))
        slope = float(ends[0] - ends[1]) / (2 * h)
        assert abs(slope - float(gradient.view(-1)[position])) < 1e-7


def assert_resumes(
    make: Callable[[], Any], folder: Path, *, steps: int = 5
) -> tuple[Any, Any]:
    """Train 2 ``steps`` at once, and in two halves through a checkpoint: bit for bit alike."""
    whole = make()
    run_steps(small_trainer(whole), 2 * steps)
    first = make()
    trainer = small_trainer(first)
    run_steps(trainer, steps)
    trainer.save_checkpoint("half", base_path=folder)
    second = make()
    again = small_trainer(second, start=steps)
    again.load_trainer_state(folder / "half")
    second.load_weights_from_checkpoint(folder / "half")
    run_steps(again, steps)
    state, expected = second.state_dict(), whole.state_dict()
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(state[key], tensor), key
    return whole, second
