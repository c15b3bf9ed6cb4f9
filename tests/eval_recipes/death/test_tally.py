"""Causes of death of planted latents, and counts without each context."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import (
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from torch import Tensor

from eval_recipes.death.activations import PointSums
from eval_recipes.death.main import _categories, _pathways
from eval_recipes.death.tally import DeathTally, State, pre_activations
from tests.oracles import death_oracle as oracle

D_IN = 6


def topk(biases: list[float], *, k: int = 1) -> TopKSAE:
    """A TopK SAE whose latent j answers to dimension j, with these biases."""
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=len(biases), k=k))
    with torch.no_grad():
        sae.W_enc.zero_()
        for latent in range(len(biases)):
            sae.W_enc[latent % D_IN, latent] = 1.0
        sae.W_dec.copy_(sae.W_enc.T)
        sae.b_enc.copy_(torch.tensor(biases))
    return sae


def tally_of(sae: Any, x: Tensor, keep: Tensor | None = None) -> DeathTally:
    tally = DeathTally(sae, None, scale=None, sums=PointSums())
    kept = torch.ones(x.shape[:2], dtype=torch.bool) if keep is None else keep
    for start in range(0, len(x), 2):
        tally.update(x[start : start + 2], kept[start : start + 2])
    return tally


def pathways(tally: DeathTally) -> list[str | None]:
    alive = tally.end.fired.numpy()
    return _pathways(alive, (tally.end.largest > 0).numpy())


def one_hot(*dimensions: int) -> Tensor:
    """One context per dimension, of two tokens that have it alone."""
    x = torch.zeros(len(dimensions), 2, D_IN)
    for context, dimension in enumerate(dimensions):
        x[context, :, dimension] = 1.0
    return x


def test_each_planted_latent_is_dead_by_its_own_pathway() -> None:
    # 0 wins; 1 is positive but second; 2 is negative everywhere; 3 wins in one context
    sae = topk([1.0, 0.5, -9.0, 0.25, -9.0, -9.0])
    tally = tally_of(sae, one_hot(0, 0, 3, 0))
    assert pathways(tally) == [None, "selection", "relu", None, "relu", "relu"]
    assert tally.end.contexts.tolist() == [3, 0, 0, 1, 0, 0]
    # in the third context latent 3 has 1.25
    assert float(tally.gap[1]) == 0.75


def test_the_gap_is_to_the_kth_largest() -> None:
    sae = topk([3.0, 2.0, 1.0, -9.0, -9.0, -9.0], k=2)
    tally = tally_of(sae, torch.zeros(2, 2, D_IN))
    assert pathways(tally)[:3] == [None, None, "selection"]
    assert float(tally.gap[2]) == 1.0


def test_a_pre_activation_of_exactly_zero_is_never_positive() -> None:
    tally = tally_of(topk([1.0, 0.0, -1.0]), torch.zeros(1, 2, D_IN))
    assert pathways(tally) == [None, "relu", "relu"]


def test_special_tokens_do_not_count() -> None:
    keep = torch.ones(2, 2, dtype=torch.bool)
    keep[1] = False
    tally = tally_of(topk([0.0, 0.0, 0.0]), one_hot(0, 1), keep)
    assert pathways(tally) == [None, "relu", "relu"]


def test_a_latent_below_its_threshold_is_not_selected() -> None:
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=3))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.tensor([1.0, 0.25, -1.0]))
        sae.threshold.fill_(0.5)
    tally = tally_of(sae, torch.zeros(1, 2, D_IN))
    assert pathways(tally) == [None, "selection", "relu"]
    assert float(tally.gap[1]) == 0.25


def test_a_standard_latent_is_dead_by_relu_alone() -> None:
    sae = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=2))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.copy_(torch.tensor([0.5, -0.5]))
    assert pathways(tally_of(sae, torch.zeros(1, 2, D_IN))) == [None, "relu"]


def test_a_gated_latent_fires_where_gate_and_magnitude_are_positive() -> None:
    sae = GatedSAE(GatedSAEConfig(d_in=D_IN, d_sae=3))
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_gate.copy_(torch.tensor([1.0, 1.0, -1.0]))
        sae.b_mag.copy_(torch.tensor([1.0, -1.0, 1.0]))
    assert pathways(tally_of(sae, torch.zeros(1, 2, D_IN))) == [None, "relu", "relu"]


@settings(deadline=None, max_examples=25)
@given(
    contexts=st.integers(1, 7),
    tokens=st.integers(1, 4),
    d_sae=st.integers(2, 12),
    k=st.integers(1, 3),
    seed=st.integers(0, 50),
)
def test_pathways_and_gaps_equal_the_plain_version(
    contexts: int, tokens: int, d_sae: int, k: int, seed: int
) -> None:
    k = min(k, d_sae)
    generator = torch.Generator().manual_seed(seed)
    sae = topk([0.0] * d_sae, k=k)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(D_IN, d_sae, generator=generator))
        sae.b_enc.copy_(torch.randn(d_sae, generator=generator) - 1)
    x = torch.randn(contexts, tokens, D_IN, generator=generator)
    keep = torch.rand(contexts, tokens, generator=generator) < 0.8
    tally = tally_of(sae, x, keep)
    pre = pre_activations(sae, x.flatten(0, 1))[0].detach().view(*x.shape[:2], -1)
    expected, gaps = oracle.causes(pre.double().numpy(), k, keep.numpy())
    assert pathways(tally) == expected
    for latent, gap in enumerate(gaps):
        if gap is not None:
            assert float(tally.gap[latent]) == pytest.approx(gap, rel=1e-5)
    for name, values in tally.left_out(
        lambda state: _categories(state, None, None)
    ).items():
        assert values.tolist() == [
            counts_of(sae, x, keep, without)[name] for without in range(contexts)
        ], name


def counts_of(sae: Any, x: Tensor, keep: Tensor, without: int) -> dict[str, int]:
    """Counts of a new tally over the other contexts."""
    left = [c for c in range(len(x)) if c != without]
    tally = DeathTally(sae, None, scale=None, sums=PointSums())
    for c in left:
        tally.update(x[c : c + 1], keep[c : c + 1])
    found = _categories(tally.whole(), None, None)
    return {name: int(mask.sum()) for name, mask in found.items()}


def test_causes_of_training_are_told_apart() -> None:
    state = State(
        torch.arange(4),
        torch.tensor([True, False, False, False]),
        torch.tensor([1.0, 0.5, -1.0, -1.0]),
        torch.tensor([False, True, False, True]),
        torch.tensor([-1.0, 1.0, -1.0, 1.0]),
    )
    never = np.array([True, False, True, False])
    collapsed = np.array([True, True, False, False])
    found = _categories(state, never, collapsed)
    assert {name: int(mask.sum()) for name, mask in found.items()} == {
        "alive": 1,
        "dead": 3,
        "dead_by_relu": 2,
        "dead_by_selection": 1,
        "dead_share": 3,
        "never_fired": 1,
        "fired_then_died": 2,
        "dead_collapsed": 1,
        "born_dead": 2,
        "born_dead_by_relu": 2,
        "born_dead_revived": 1,
    }
