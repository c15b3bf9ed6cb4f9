"""Several pairs matched at a time, again by some of their rows, and what matchings share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import (
    certify,
    match_many,
    match_many_twice,
    match_rows,
    mean_max_cos,
    seen_from_b,
    unit_rows,
    with_latent_ids,
)
from tests.metrics.assignment.problems import KINDS, ROUNDING, problem
from tests.oracles import assignment_oracle as oracle


def test_several_pairs_are_matched_as_one_is() -> None:
    pairs = [problem(kind, 200, 150, 16, 8) for kind in KINDS]
    for pair, found in zip(pairs, match_many(pairs, absolute=False), strict=True):
        alone = match_rows(*pair, absolute=False)
        assert torch.equal(found.partner, alone.partner)
        assert torch.equal(found.similarity, alone.similarity)
        assert found.gap == 0


def some(n: int, seed: int) -> Tensor:
    """About two thirds of the numbers below ``n``, ascending."""
    drawn = torch.rand(n, generator=torch.Generator().manual_seed(seed))
    return (drawn < 0.67).nonzero().flatten()


@given(
    kind=st.sampled_from(KINDS),
    n_a=st.integers(1, 40),
    n_b=st.integers(1, 40),
    absolute=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_chosen_rows_are_matched_as_if_alone(
    kind: str, n_a: int, n_b: int, absolute: bool, seed: int
) -> None:
    pairs = [problem(kind, n_a, n_b, 8, seed + more) for more in range(2)]
    ids_a, ids_b = some(n_a, seed), some(n_b, seed + 1)
    both = match_many_twice(pairs, ids_a, ids_b, absolute=absolute)
    for (a, b), (every, chosen) in zip(pairs, both, strict=True):
        assert torch.equal(every.partner, match_rows(a, b, absolute=absolute).partner)
        alone = match_rows(a[ids_a], b[ids_b], absolute=absolute)
        alone = with_latent_ids(alone, ids_a, ids_b, n_a=n_a)
        assert chosen.gap == 0
        total, expected = (
            float(one.similarity.double().sum()) for one in (chosen, alone)
        )
        assert total == pytest.approx(expected, abs=ROUNDING * n_a)
        matched = chosen.partner >= 0
        assert int(matched.sum()) == min(len(ids_a), len(ids_b))
        assert set(matched.nonzero().flatten().tolist()) <= set(ids_a.tolist())
        assert set(chosen.partner[matched].tolist()) <= set(ids_b.tolist())
        proof = certify(
            a[ids_a],
            b[ids_b],
            torch.where(
                matched[ids_a], torch.searchsorted(ids_b, chosen.partner[ids_a]), -1
            ),
            chosen.prices,
            absolute=absolute,
        )
        assert proof.gap <= ROUNDING * (n_a + n_b)


def test_all_rows_chosen_is_the_first_matching() -> None:
    a, b = problem("random", 30, 20, 8, 1)
    ((every, chosen),) = match_many_twice([(a, b)], torch.arange(30), torch.arange(20))
    assert chosen is every


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 2, 1], "ids_a goes from 0 to 2, not ascending; expected .* 0 to 3"),
        ([1, 1], "not ascending"),
        ([0, 4], "from 0 to 4, ascending"),
        ([-1, 2], "from -1 to 2"),
    ],
)
def test_ids_of_no_row_are_refused(ids: list[int], message: str) -> None:
    eye = torch.eye(4)
    with pytest.raises(InputError, match=message):
        match_many_twice([(eye, eye)], torch.tensor(ids), torch.arange(4))
    with pytest.raises(InputError, match="ids_b"):
        match_many_twice([(eye, eye)], torch.arange(4), torch.tensor(ids))


@given(
    kind=st.sampled_from(KINDS),
    n_a=st.integers(1, 60),
    n_b=st.integers(1, 60),
    d=st.integers(1, 40),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=60)
def test_largest_similarities_are_those_of_mean_max_cos(
    kind: str, n_a: int, n_b: int, d: int, seed: int
) -> None:
    a, b = (unit_rows(rows) for rows in problem(kind, n_a, n_b, d, seed))
    found = match_rows(a, b, unit=True)
    expected = mean_max_cos(a, b, unit=True)
    for own, other in zip(found.best, expected, strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(own, other, rtol=0, atol=5e-7)
    turned = seen_from_b(found, n_b=n_b)
    assert torch.equal(turned.best.a_to_b, found.best.b_to_a)
    signed = match_rows(a, b, absolute=False, unit=True).best
    scores = oracle.similarity(a.double().numpy(), b.double().numpy(), absolute=False)
    for own, axis in zip(signed, (1, 0), strict=True):
        torch.testing.assert_close(
            own.double(), torch.from_numpy(scores.max(axis)), rtol=0, atol=ROUNDING
        )


def test_a_tolerated_gap_does_not_touch_the_largest_similarities() -> None:
    a, b = problem("random", 300, 400, 32, 2)
    loose, exact = match_rows(a, b, relative_gap=0.5), match_rows(a, b)
    assert all(map(torch.equal, loose.best, exact.best))
