"""Closed-form gradients against autograd, whichever way the products are done."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.studies.mnist.autoencoder import (
    Weights,
    initial_weights,
    step_gradients,
)
from eval_recipes.studies.mnist.settings import SETTINGS, Run, Setting, Training
from eval_recipes.studies.mnist.training import _step, add_penalty_, new_state
from saereg_plugin.sources.inputs.mnist import Images
from tests.eval_recipes.studies.mnist.few_images import few_images
from tests.oracles import mnist_oracle

TRAINING = Training(d_sae=96)
WAYS = {
    "as chosen": {},
    "all dense": {"all_dense": 0.0},
    "all pairs": {"busy": 2.0},
    "half and half": {"busy": 0.5},
    "all busy, split": {"busy": 0.0, "all_dense": 2.0},
}
IDS = [setting.name for setting in SETTINGS]


@pytest.fixture(scope="module")
def images() -> Images:
    return few_images()


def sparser(weights: Weights, dtype: torch.dtype) -> Weights:
    """Some latents dead, some rare, some on most images; biases away from 0."""
    enc = weights.enc.to(dtype, copy=True)
    enc[:16] = -enc[:16].abs()
    enc[16:60] -= 0.04
    enc[60:70] = enc[60:70].abs()
    generator = torch.Generator().manual_seed(5)
    biases = [
        None
        if bias is None
        else 0.1 * torch.randn(len(bias), generator=generator, dtype=dtype)
        for bias in (weights.b_enc, weights.b_dec)
    ]
    return Weights(enc, weights.dec.to(dtype, copy=True), *biases)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_gradients_equal_autograd(
    setting: Setting, way: dict[str, float], images: Images
) -> None:
    weights = sparser(initial_weights(setting, TRAINING, seed=1), torch.float64)
    x = images.pixels[:200].double() / 255
    step = step_gradients(weights, x, activation_l1=0.1, **way)
    acts = weights.encode(weights.centered(x))
    counts = (acts > 0).sum(dim=0)
    assert 0 < int((counts == 0).sum()) < int((counts < 100).sum()) < len(counts)
    assert step.density == pytest.approx(int(counts.sum()) / acts.numel())
    add_penalty_(setting, weights, step.grads)
    leaves = [*weights.tensors.values()]
    expected = mnist_oracle.gradients(leaves, x, setting.penalty, setting.strength)
    for found, wanted in zip(step.grads.tensors.values(), expected, strict=True):
        torch.testing.assert_close(
            found, wanted, rtol=1e-10, atol=1e-10 * float(wanted.abs().max())
        )
    penalised = mnist_oracle.loss(leaves, x, "none", 0.0)
    total = step.mse + 0.1 * step.mean_activation
    assert total == pytest.approx(float(penalised), rel=1e-12)


@given(busy=st.floats(0, 1), all_dense=st.floats(0, 1.01), shift=st.floats(-1, 0.2))
@settings(max_examples=25, deadline=None)
def test_how_it_is_computed_changes_nothing(
    busy: float, all_dense: float, shift: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    enc, dec = torch.randn(2, 40, 16, generator=generator, dtype=torch.float64)
    x = torch.rand(30, 16, generator=generator, dtype=torch.float64)
    # far below 0 no latent fires at all
    bias = torch.full((40,), 8 * shift, dtype=torch.float64)
    b_dec = torch.randn(16, generator=generator, dtype=torch.float64)
    weights = Weights(enc, dec, bias, b_dec)
    step = step_gradients(weights, x, activation_l1=0.1, busy=busy, all_dense=all_dense)
    expected = mnist_oracle.gradients([enc, dec, bias, b_dec], x, "none", 0.0)
    for found, wanted in zip(step.grads.tensors.values(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("setting", SETTINGS, ids=IDS)
def test_steps_in_float32_follow_plain_adam(setting: Setting, images: Images) -> None:
    run, start = Run(setting, 0), initial_weights(setting, TRAINING, seed=0)
    initial = [tensor.clone() for tensor in start.tensors.values()]
    batches = [images.pixels[i : i + 100].float() / 255 for i in range(0, 300, 100)]
    state = new_state(start, TRAINING.learning_rate)
    for x in batches:
        _step(run, TRAINING, state, x)
    expected = mnist_oracle.train(
        initial,
        batches,
        setting.penalty,
        setting.strength,
        unit_norm=setting.tied,
    )
    for found, wanted, begun in zip(
        state.weights.tensors.values(), expected, initial, strict=True
    ):
        moved = (wanted - begun).norm()
        assert float(moved) > 0
        # Adam turns the last bits of gradients near 0 into visible steps
        assert float((found - wanted).norm() / moved) < 1e-3
    norms = state.weights.dec.norm(dim=1)
    assert bool(torch.allclose(norms, torch.ones(96), atol=1e-6)) == setting.tied
