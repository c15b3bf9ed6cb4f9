"""Scores of attribution agree with the plain version; streams agree with everything at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from saereg_plugin.metrics.attribution import (
    Ordered,
    ScoreTally,
    codes_of,
    cumulative_shares,
    first_order_effects,
    next_token_losses,
    ranking,
    smallest_core,
    token_scores,
)
from tests.oracles import attribution_oracle as oracle


def drawn(tokens: int, d_sae: int, d_in: int, seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(tokens, d_sae, generator=generator).clamp(min=0)
    directions = torch.randn(d_sae, d_in, generator=generator)
    return torch.randn(tokens, d_in, generator=generator), z, directions


shapes = {
    "tokens": st.integers(1, 9),
    "d_sae": st.integers(1, 7),
    "d_in": st.integers(1, 5),
    "seed": st.integers(0, 10_000),
}


@settings(deadline=None, max_examples=60)
@given(**shapes)
def test_scores_of_entries_agree_with_the_plain_version(
    tokens: int, d_sae: int, d_in: int, seed: int
) -> None:
    gradient, z, directions = drawn(tokens, d_sae, d_in, seed)
    expected = torch.tensor(
        oracle.scores(gradient.tolist(), z.tolist(), directions.tolist())
    )
    for given_z in (z, z.to_sparse()):
        codes = codes_of(given_z)
        found = codes.selected.to_coo(token_scores(gradient, codes, directions))
        torch.testing.assert_close(found.to_dense(), expected, atol=1e-5, rtol=1e-4)
        signed = first_order_effects(gradient, codes, directions)
        dense = (gradient @ directions.T) * z
        torch.testing.assert_close(
            codes.selected.to_coo(signed).to_dense(), dense, atol=1e-5, rtol=1e-4
        )


@settings(deadline=None, max_examples=60)
@given(
    q=st.sampled_from([0.0, 0.3, 0.5, 0.9, 0.99, 1.0]),
    cuts=st.lists(st.integers(0, 9), max_size=3),
    **shapes,
)
def test_quantiles_of_a_stream_agree_with_the_plain_version(
    q: float, cuts: list[int], tokens: int, d_sae: int, d_in: int, seed: int
) -> None:
    del d_in
    _, z, _ = drawn(tokens, d_sae, 1, seed)
    tally = ScoreTally(d_sae, tokens=tokens, quantile=q)
    ends = sorted({0, tokens, *(min(cut, tokens) for cut in cuts)})
    for start, end in zip(ends, ends[1:], strict=False):
        codes = codes_of(z[start:end])
        tally.update(codes, codes.values)
        tally.quantiles()
    columns = [column.tolist() for column in z.T]
    every = [oracle.quantile(column, q) for column in columns]
    active = [oracle.quantile([x for x in c if x > 0], q) for c in columns]
    assert tally.quantiles().tolist() == pytest.approx(every, abs=1e-6)
    assert tally.quantiles(over="active").tolist() == pytest.approx(active, abs=1e-6)
    torch.testing.assert_close(tally.fires, (z > 0).sum(0))


@settings(deadline=None, max_examples=40)
@given(
    q=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    tokens=st.integers(1, 8),
    seed=st.integers(0, 10_000),
)
def test_weighted_quantiles_are_those_of_repeated_tokens(
    q: float, tokens: int, seed: int
) -> None:
    _, z, _ = drawn(tokens, 4, 1, seed)
    generator = torch.Generator().manual_seed(seed)
    times = torch.randint(0, 3, (tokens,), generator=generator)
    times[0] = 1
    codes = codes_of(z)
    ordered = Ordered(codes.latents, codes.values, 4)
    repeated = codes_of(z.repeat_interleave(times, dim=0))
    expected = Ordered(repeated.latents, repeated.values, 4)
    n = int(times.sum())
    for over in ("all", "active"):
        found = ordered.quantiles(
            q, n, over=over, weights=times[codes.images][ordered.order]
        )
        torch.testing.assert_close(found, expected.quantiles(q, n, over=over))


def test_stream_holds_no_more_entries_than_the_quantile_needs() -> None:
    tokens, d_sae = 40_000, 8
    tally = ScoreTally(d_sae, tokens=tokens, quantile=0.99)
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(tokens, d_sae, generator=generator)
    for part in z.split(1000):
        codes = codes_of(part)
        tally.update(codes, codes.values)
    expected = torch.quantile(z.double(), 0.99, dim=0)
    torch.testing.assert_close(tally.quantiles(), expected)
    assert tally.entries <= d_sae * (0.01 * tokens + 3)


def test_unusable_scores_are_refused() -> None:
    codes = codes_of(torch.ones(2, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        ScoreTally(2, tokens=2).update(codes, torch.full((4,), torch.nan))
    with pytest.raises(ValueError, match="2 tokens, where 1 were announced"):
        ScoreTally(2, tokens=1).update(codes, codes.values)
    with pytest.raises(ValueError, match="no token was read"):
        ScoreTally(2, tokens=1).quantiles()
    with pytest.raises(ValueError, match=r"quantile 1\.5"):
        ScoreTally(2, tokens=1, quantile=1.5)
    with pytest.raises(ValueError, match="share 0"):
        smallest_core(torch.ones(2), 0)


@settings(deadline=None, max_examples=60)
@given(
    numbers=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    share=st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]),
)
def test_core_is_the_smallest_prefix(numbers: list[int], share: float) -> None:
    scores = torch.tensor(numbers).double()
    core = smallest_core(scores, share)
    assert core.tolist() == oracle.smallest_core([float(x) for x in numbers], share)
    assert len(ranking(scores)) == len(cumulative_shares(scores))


def test_gradient_of_the_summed_loss_holds_that_of_each_context() -> None:
    """The planted loss depends on direction 0 alone, so only that latent scores."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 6, (3, 5), generator=generator)
    readout = torch.zeros(4, 6)
    readout[0] = torch.randn(6, generator=generator)
    losses = next_token_losses(x @ readout, tokens)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    for context in range(3):
        own = functional.cross_entropy(
            (x[context] @ readout)[:-1], tokens[context, 1:], reduction="sum"
        )
        (alone,) = torch.autograd.grad(own, x, retain_graph=True)
        torch.testing.assert_close(gradient[context], alone[context])
    codes = codes_of(torch.ones(15, 4))
    scores = token_scores(gradient.flatten(0, 1), codes, torch.eye(4))
    tally = ScoreTally(4, tokens=15, quantile=0.5)
    tally.update(codes, scores)
    assert smallest_core(tally.quantiles(), 0.999).tolist() == [0]
