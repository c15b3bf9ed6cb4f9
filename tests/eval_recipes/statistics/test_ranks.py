"""The size of a rank correlation that chance reaches."""

from __future__ import annotations

import pytest
import torch

from eval_recipes.statistics.ranks import permuted_correlation


def test_chance_is_the_normal_limit_for_many_latents() -> None:
    x, y = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    found = permuted_correlation(x, y, permutations=4000, seed=0)
    assert found == pytest.approx(1.96 / 399**0.5, rel=0.06)


def test_figures_that_do_not_vary_have_no_chance_level() -> None:
    assert (
        permuted_correlation(torch.ones(9), torch.rand(9), permutations=9, seed=0)
        is None
    )


def test_few_latents_reach_any_correlation_by_chance() -> None:
    x = torch.tensor([1.0, 2.0])
    assert permuted_correlation(x, x, permutations=50, seed=0) == pytest.approx(1)
