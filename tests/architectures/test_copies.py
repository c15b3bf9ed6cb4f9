"""Copies and pickles of an SAE in the middle of training stand on their own."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

import saereg_plugin as sr
from tests.regularizers.throwaway import DecoderDrift, NoisyFiring
from tests.training import (
    ARCHITECTURES,
    D_SAE,
    assert_same_state,
    batches,
    component,
    make_sae,
    make_trainer,
    row_norms,
    run_steps,
)

pytestmark = pytest.mark.slow

FIELDS: dict[str, Any] = {
    "regularizers": [
        sr.WeightPenalty(coefficient=1.0, mode="decoupled", target="encoder"),
        NoisyFiring(coefficient=0.1),
        DecoderDrift(coefficient=0.2),
    ],
    "decoder_constraint": "unit_norm",
}


def in_the_middle(architecture: str, activations: torch.Tensor) -> tuple[Any, Any]:
    sae = make_sae(architecture, **FIELDS)
    trainer = make_trainer(sae, batches(activations))
    run_steps(trainer, 3)
    return sae, trainer


def rebuilt(obj: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(obj, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_deepcopied_trainer_goes_on_as_the_original(
    architecture: str, activations: torch.Tensor
) -> None:
    sae, trainer = in_the_middle(architecture, activations)
    twin = copy.deepcopy(sae)
    at_copy = copy.deepcopy(sae.state_dict())
    other = make_trainer(twin, batches(activations, start=3))
    other.optimizer.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
    other.n_forward_passes_since_fired = trainer.n_forward_passes_since_fired.clone()
    other.n_training_steps = 3
    run_steps(trainer, 2)
    for key, value in at_copy.items():
        assert torch.equal(twin.state_dict()[key], value), key
    run_steps(other, 2)
    assert_same_state(twin, sae)
    assert component(twin, "test_noisy_firing").sae is twin
    assert component(sae, "test_noisy_firing").sae is sae
    assert torch.equal(
        component(twin, "test_noisy_firing").noise,
        component(sae, "test_noisy_firing").noise,
    )


def test_training_the_copy_alone_leaves_the_original(
    activations: torch.Tensor,
) -> None:
    sae, _ = in_the_middle("topk", activations)
    before = copy.deepcopy(sae.state_dict())
    twin = copy.deepcopy(sae)
    run_steps(make_trainer(twin, batches(activations)), 3)
    for key, value in sae.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert twin.step_index == 6 and sae.step_index == 3
    assert (row_norms(twin) - 1).abs().max() < 1e-6


def test_components_survive_pickling(activations: torch.Tensor) -> None:
    sae, _ = in_the_middle("topk", activations)
    again = rebuilt(sae.components)
    assert again.state_dict().keys() == sae.components.state_dict().keys()
    for key, value in sae.components.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    drawn = [
        torch.rand(4, generator=parts["test_noisy_firing"].generator)
        for parts in (again, sae.components)
    ]
    assert torch.equal(*drawn)
    with pytest.raises(RuntimeError, match="unit_norm is not attached to an SAE"):
        _ = again["unit_norm"].sae


@pytest.mark.parametrize("architecture", ["topk", "gated"])
def test_pickled_sae_goes_on_training(
    architecture: str, activations: torch.Tensor
) -> None:
    sae, trainer = in_the_middle(architecture, activations)
    # with SAELens' lambdas, all of them identities, its own SAEs cannot be pickled either
    for name, value in list(vars(sae).items()):
        if getattr(value, "__name__", None) == "<lambda>":
            setattr(sae, name, identity)
    again = rebuilt(sae)
    assert_same_state(again, sae)
    other = make_trainer(again, batches(activations, start=3))
    other.optimizer.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
    other.n_forward_passes_since_fired = trainer.n_forward_passes_since_fired.clone()
    run_steps(trainer, 2)
    run_steps(other, 2)
    assert_same_state(again, sae)
    assert again.step_index == 5
    assert component(again, "test_noisy_firing").rate.shape == (D_SAE,)


def identity(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return x


def test_several_saes_step_independently(activations: torch.Tensor) -> None:
    fields: list[dict[str, Any]] = [
        FIELDS,
        {},
        {"regularizers": [DecoderDrift(coefficient=0.1)]},
    ]
    alone = [make_sae(**field) for field in fields]
    for sae in alone:
        run_steps(make_trainer(sae, batches(activations)), 4)
    together = [make_sae(**field) for field in fields]
    trainers = [make_trainer(sae, batches(activations)) for sae in together]
    for _ in range(4):
        for trainer in trainers:
            run_steps(trainer, 1)
    for sae, other in zip(together, alone, strict=True):
        assert_same_state(sae, other)


def test_other_optimizers_are_left_alone() -> None:
    layer = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    before = layer.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before - 0.1)
