"""Ablation sparsity: planted effects come out exactly; a real model agrees with the plain version."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from saereg_plugin.metrics import NORMAL_EFFECT, ablation_sparsity, effect_sparsity
from tests.conftest import HOOK_NAME
from tests.oracles import ablation_oracle as oracle


def test_single_logit_moves_the_smallest_share() -> None:
    effect = torch.zeros(4, 50)
    effect[2, 7] = -3.0
    assert float(effect_sparsity(effect)) == pytest.approx(1 / 200, rel=1e-12)
    # one logit of each token, all by the same amount
    effect = torch.zeros(4, 50)
    effect[:, 7] = 0.5
    assert float(effect_sparsity(effect)) == pytest.approx(1 / 50, rel=1e-12)


def test_half_up_and_half_down_moves_all() -> None:
    effect = torch.ones(3, 10)
    effect[:, :5] = -1
    assert float(effect_sparsity(effect)) == pytest.approx(1.0)


def test_a_constant_moves_nothing() -> None:
    assert math.isnan(float(effect_sparsity(torch.full((2, 9), 4.0))))
    effect = torch.zeros(2, 9)
    effect[0, 3] = 1.0
    shifted = effect + torch.tensor([[5.0], [-2.0]])
    torch.testing.assert_close(effect_sparsity(shifted), effect_sparsity(effect))


def test_size_of_the_effect_does_not_matter() -> None:
    effect = torch.randn(5, 3, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(effect_sparsity(1e3 * effect), effect_sparsity(effect))
    assert effect_sparsity(effect).shape == (5,)


def test_normal_noise_has_its_closed_form() -> None:
    noise = torch.randn(16, 50_000, generator=torch.Generator().manual_seed(0))
    assert float(effect_sparsity(noise)) == pytest.approx(NORMAL_EFFECT, rel=5e-3)


@settings(deadline=None, max_examples=80)
@given(
    tokens=st.integers(1, 4), vocabulary=st.integers(2, 9), seed=st.integers(0, 10_000)
)
def test_agrees_with_the_plain_version(tokens: int, vocabulary: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    effect = torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64)
    expected = oracle.effect_sparsity(effect.tolist())
    assert float(effect_sparsity(effect)) == pytest.approx(expected, rel=1e-9)


def test_planted_latent_of_a_linear_model() -> None:
    """Direction j moves logit j alone, on its own token: 1 of V T numbers."""
    activations = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(1))
    places = torch.tensor([[0, 1], [1, 4]])
    contributions = torch.eye(8)[[3, 5]] * 2
    found = ablation_sparsity(
        lambda x: x.clone(), activations, places, contributions, future_tokens=3
    )
    # the second place has two tokens left
    assert found.tolist() == pytest.approx([1 / (3 * 8), 1 / (2 * 8)], rel=1e-5)
    spread = ablation_sparsity(
        lambda x: x.cumsum(dim=1), activations, places, contributions, future_tokens=3
    )
    assert spread.tolist() == pytest.approx([1 / 8, 1 / 8], rel=1e-5)


def test_contribution_of_nothing_has_no_sparsity() -> None:
    found = ablation_sparsity(
        lambda x: x.clone(),
        torch.ones(1, 3, 4),
        torch.tensor([[0, 1]]),
        torch.zeros(1, 4),
    )
    assert math.isnan(float(found))


@pytest.mark.slow
def test_language_model_agrees_with_the_plain_version(
    model: HookedTransformer, contexts: torch.Tensor
) -> None:
    tokens = contexts[:2, :20]
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=HOOK_NAME)
    activations = cache[HOOK_NAME].clone()

    def logits(given: torch.Tensor) -> torch.Tensor:
        def replace(_: torch.Tensor, hook: Any) -> torch.Tensor:
            del hook
            return given

        # the tokens only give the shape: the hook replaces what comes of them
        shape = torch.zeros(given.shape[:2], dtype=torch.int64)
        with torch.no_grad():
            return model.run_with_hooks(shape, fwd_hooks=[(HOOK_NAME, replace)])

    places = torch.tensor([[0, 3], [1, 10], [0, 18]])
    generator = torch.Generator().manual_seed(0)
    contributions = torch.randn(3, activations.shape[-1], generator=generator)
    found = ablation_sparsity(logits, activations, places, contributions, at_once=2)
    for number, (context, position) in enumerate(places.tolist()):
        expected = oracle.ablation_sparsity(
            logits, activations, (context, position), contributions[number], 16
        )
        assert float(found[number]) == pytest.approx(expected, rel=1e-3)
        assert 0 < expected < 1
