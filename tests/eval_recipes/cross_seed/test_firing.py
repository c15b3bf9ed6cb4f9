"""Firing, token forms and tenths of latents: against plain Python, and planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch import Tensor

from eval_recipes.cross_seed.firing import (
    Firing,
    FiringTally,
    Moments,
    firing_figures,
    matched_firing,
    shared_moments,
    surface_forms,
    tenths,
)
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.running.heldout_pass import _context_sums
from eval_recipes.running.passes import Passed
from eval_recipes.statistics.interval import concatenate
from eval_recipes.statistics.ranks import FEW_LATENTS, rank_correlation
from saereg_plugin.metrics import Codes
from tests.eval_recipes.cross_seed.test_shares import text, topk
from tests.oracles import cross_seed_oracle as oracle

CONFIG = CrossSeedEvalConfig(n_resamples=200)


@given(
    n=st.integers(1, 30),
    d_sae=st.integers(1, 5),
    n_tokens=st.integers(1, 4),
    seed=st.integers(0, 999),
)
@settings(deadline=None, max_examples=60)
def test_surface_forms_equal_plain_python(
    n: int, d_sae: int, n_tokens: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, d_sae, generator=generator).clamp_min(0)
    tokens = torch.randint(n_tokens, (n,), generator=generator)
    found = surface_forms(Codes.of(z), tokens)
    for latent in range(d_sae):
        expected = oracle.surface_form(z[:, latent].tolist(), tokens.tolist())
        if expected is None:
            assert found[latent].isnan()
        else:
            assert float(found[latent]) == pytest.approx(expected)


def tallied(
    sae: object, x: Tensor, keep: Tensor, tokens: Tensor, moments: Moments | None = None
) -> Firing:
    tally = FiringTally(sae, moments or Moments())  # type: ignore[arg-type]
    sums = []
    with torch.no_grad():
        for part, mask in zip(x.split(2), keep.split(2), strict=True):
            tally.update(part, mask)
            sums.append(_context_sums(part, mask))
    joined = concatenate(sums)
    return tally.result(Passed(joined, joined, x.shape[1], tokens), seed=0)


def test_rates_forms_and_covariance_equal_numpy() -> None:
    sae, (x, keep) = topk(), text()
    tokens = torch.randint(
        3, keep.shape, generator=torch.Generator().manual_seed(2), dtype=torch.int32
    )
    found = tallied(sae, x, keep, tokens)
    with torch.no_grad():
        z = sae.encode(x[keep])
    assert found.counts.tolist() == (z != 0).sum(0).tolist()
    torch.testing.assert_close(found.rate, (z != 0).double().mean(0))
    expected = np.cov(x[keep].double().numpy().T, bias=True)
    np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert found.form is not None and found.form_by_chance is not None
    for latent, form in enumerate(found.form.tolist()):
        plain = oracle.surface_form(z[:, latent].tolist(), tokens[keep].tolist())
        assert form == pytest.approx(plain) if plain is not None else np.isnan(form)
    assert not torch.equal(found.form, found.form_by_chance)
    # latents that never fired have no form in either
    assert torch.equal(found.form.isnan(), found.form_by_chance.isnan())


def test_without_text_there_are_no_forms() -> None:
    x, keep = text()
    found = tallied(topk(), x, keep, torch.zeros(0, 0, dtype=torch.int32))
    assert found.form is None and found.form_by_chance is None
    stable = torch.arange(12) < 6
    figures = firing_figures(
        found, torch.rand(12), torch.ones(12, dtype=torch.bool), stable, CONFIG
    )
    assert figures["firing_stability"] is not None
    assert figures["surface_form_stable"] is None


def test_saes_that_read_the_same_share_their_moments() -> None:
    x, keep = text()
    tokens = torch.zeros(keep.shape, dtype=torch.int32)
    moments: dict[tuple[object, str], Moments] = {}
    plain, normed = topk(), topk(normalize="layer_norm")
    place = ("model", "hook")
    first = tallied(plain, x, keep, tokens, shared_moments(moments, place, plain))
    again = tallied(topk(), x, keep, tokens, shared_moments(moments, place, plain))
    assert torch.equal(first.covariance, again.covariance)
    other = tallied(normed, x, keep, tokens, shared_moments(moments, place, normed))
    assert len(moments) == 2
    # a layer norm leaves nothing along the mean of the dimensions
    ones = torch.ones(6).double()
    assert float(ones @ other.covariance @ ones) == pytest.approx(0, abs=1e-4)
    assert float(ones @ first.covariance @ ones) > 1
    with pytest.raises(ValueError, match="no rows"):
        Moments().covariance()


def test_planted_forms_and_rates_follow_stability() -> None:
    """Latents 0 to 4 are stable and fire on one token often, 5 to 9 on any token at times."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(20, (2000,), generator=generator)
    z = torch.zeros(2000, 10)
    for latent in range(10):
        chance = torch.rand(2000, generator=generator)
        z[:, latent] = (tokens == latent) if latent < 5 else (chance < 0.02)
    codes = Codes.of(z)
    order = torch.randperm(2000, generator=generator)
    counts = codes.counts()
    stable = torch.arange(10) < 5
    found = Firing(
        rate=counts.double() / 2000,
        counts=counts,
        form=surface_forms(codes, tokens),
        form_by_chance=surface_forms(codes, tokens[order]),
        covariance=torch.eye(2).double(),
    )
    every = torch.ones(10, dtype=torch.bool)
    figures = firing_figures(found, stable.double(), every, stable, CONFIG)
    values = {name: figure.value for name, figure in figures.items() if figure}
    assert len(values) == 6
    assert values["surface_form_stable"] == 1
    # 5 equal values have no spread
    assert figures["surface_form_stable"].low is None  # type: ignore[union-attr]
    assert values["surface_form_unstable"] < 0.3
    for kind in ("stable", "unstable"):
        assert values[f"surface_form_{kind}_chance"] < 0.3
    # two groups of 5 of equal rank: the most that ties allow
    for name in ("firing_stability", "surface_form_stability"):
        assert values[name] == pytest.approx(0.870, abs=1e-3), name
        figure = figures[name]
        assert figure is not None and figure.distinguishable
    nothing = firing_figures(None, stable.double(), every, stable, CONFIG)
    assert set(nothing) == set(figures) and set(nothing.values()) == {None}


@given(values=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3))
@settings(deadline=None, max_examples=40)
def test_rank_correlation_is_spearmans(values: list[tuple[int, int]]) -> None:
    x, y = (torch.tensor(column).double() for column in zip(*values))
    found = rank_correlation(x, y, CONFIG)
    if len(x.unique()) == 1 or len(y.unique()) == 1:
        assert found is None
    else:
        assert found is not None and found.n == len(x)
        assert found.value == pytest.approx(spearmanr(x, y).statistic)


def test_too_few_latents_have_no_rank_correlation() -> None:
    assert rank_correlation(torch.zeros(0), torch.zeros(0), CONFIG) is None
    two = rank_correlation(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), CONFIG)
    assert two == (1, None, None, 2, FEW_LATENTS)


@given(n=st.integers(1, 40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_tenths_equal_plain_python(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    stability = torch.randint(3, (n,), generator=generator) / 2
    similarity = torch.rand(n, generator=generator)
    alive = torch.rand(n, generator=generator) < 0.8
    found = tenths(stability, similarity, alive).tolist()
    assert found == oracle.stability_tenths(
        stability.tolist(), similarity.tolist(), alive.tolist()
    )
    sizes = [found.count(tenth) for tenth in range(1, 11)]
    assert max(sizes) - min(sizes) <= 1


def test_random_latents_fire_as_often_as_the_stable_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 50, (400,), generator=generator)
    alive = torch.arange(400) < 350
    stable = (torch.arange(400) % 10 == 0) & alive
    chosen = matched_firing(counts, alive, stable, seed=0)
    assert not chosen[~alive].any()
    wanted = int(counts[stable].sum())
    # one latent more or less
    assert wanted <= int(counts[chosen].sum()) < wanted + 50
    none = matched_firing(counts, alive, torch.zeros_like(stable), seed=0)
    assert not none.any()
