"""The certificate holds for anything, and catches what is not optimal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import certify, match_rows
from saereg_plugin.metrics.assignment.solve import assign
from saereg_plugin.metrics.assignment.weights import RowWeights
from tests.metrics.assignment.problems import KINDS, ROUNDING, certified, problem
from tests.oracles import assignment_oracle as oracle


@given(
    kind=st.sampled_from(KINDS),
    n_a=st.integers(1, 25),
    n_b=st.integers(1, 25),
    absolute=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=150)
def test_the_bound_holds_for_any_matching_and_any_prices(
    kind: str, n_a: int, n_b: int, absolute: bool, seed: int
) -> None:
    assert_bound_holds(kind, n_a, n_b, absolute, seed)


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_a", "n_b"), [(300, 700), (700, 300), (40, 256), (40, 257), (260, 512)]
)
def test_the_bound_holds_beyond_one_chunk_of_columns(
    n_a: int, n_b: int, kind: str, absolute: bool
) -> None:
    """A pass looks at 256 columns at a time."""
    for seed in range(2):
        assert_bound_holds(kind, n_a, n_b, absolute, seed)


def assert_bound_holds(
    kind: str, n_a: int, n_b: int, absolute: bool, seed: int
) -> None:
    a, b = problem(kind, n_a, n_b, 5, seed)
    draw = np.random.default_rng(seed)
    partner = np.full(n_a, -1)
    pairs = min(n_a, n_b)
    rows = draw.permutation(n_a)[:pairs]
    partner[rows] = draw.permutation(n_b)[:pairs]
    prices = draw.random(n_b) * draw.choice([0.1, 1.0])
    proof = certify(
        a, b, torch.from_numpy(partner), torch.from_numpy(prices), absolute=absolute
    )
    scores = oracle.similarity(
        a.double().numpy(), b.double().numpy(), absolute=absolute
    )
    slack = ROUNDING * (n_a + n_b)
    total = scores[rows, partner[rows]].sum()
    lowest = 0.0 if absolute else -1.0
    assert proof.total == pytest.approx(total, abs=slack)
    assert proof.gap == pytest.approx(
        oracle.bound(scores, prices, lowest=lowest) - total, abs=slack
    )
    assert oracle.best_total(scores) <= proof.total + proof.gap + slack


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize(("n_a", "n_b"), [(120, 120), (90, 120), (120, 90)])
def test_a_perturbed_solution_is_caught(n_a: int, n_b: int, absolute: bool) -> None:
    a, b = problem("random", n_a, n_b, 16, 5)
    good = match_rows(a, b, absolute=absolute)
    best = certify(a, b, good.partner, good.prices, absolute=absolute)
    assert best.gap == 0
    draw = np.random.default_rng(0)
    matched = (good.partner >= 0).nonzero().flatten().numpy()
    for _ in range(20):
        one, other = draw.choice(matched, 2, replace=False).tolist()
        partner = good.partner.clone()
        partner[[one, other]] = good.partner[[other, one]]
        swapped = certify(a, b, partner, good.prices, absolute=absolute)
        assert swapped.gap > 0
        assert swapped.gap == pytest.approx(best.total - swapped.total, abs=1e-9)

        prices = good.prices.clone()
        prices[good.partner[one]] = 1.0 if absolute else 2.0
        assert certify(a, b, good.partner, prices, absolute=absolute).gap > 0
    none = torch.zeros_like(good.prices)
    assert certify(a, b, good.partner, none, absolute=absolute).gap > 0
    # a dictionary other than the one that was matched
    assert certify(a.flip(0), b, good.partner, good.prices, absolute=absolute).gap > 0


@pytest.mark.parametrize(
    ("partner", "message"),
    [
        ([0, 0, 1], "matches 3 rows of a to 2 rows of b"),
        ([0, 1, -1], "matches 2 rows of a"),
        ([0, 1, 3], "names rows 0 to 3 of b"),
        ([0, -2, 1], "names rows -2 to 1 of b"),
        ([0, 1], r"partner has shape \[2\]"),
    ],
)
def test_what_is_no_matching_is_refused(partner: list[int], message: str) -> None:
    eye = torch.eye(3)
    with pytest.raises(InputError, match=message):
        certify(eye, eye, torch.tensor(partner), torch.zeros(3))
    with pytest.raises(InputError, match="prices have shape"):
        certify(eye, eye, torch.arange(3), torch.full((3,), float("nan")))


def test_a_tolerated_gap_is_stated_and_true() -> None:
    a, b = problem("random", 800, 800, 48, 6)
    exact = assign(RowWeights(a, b, absolute=True), candidates=1)
    total = exact.similarity.sum()
    rounds = []
    for share in (0.2, 0.01, 1e-4):
        found = assign(
            RowWeights(a, b, absolute=True), candidates=1, relative_gap=share
        )
        own = found.similarity.sum()
        assert found.gap <= share * own
        assert own <= total <= own + found.gap + 1e-9
        assert certified(a, b, found, absolute=True).gap == found.gap
        rounds.append(found.rounds)
    assert rounds == sorted(rounds)
    assert rounds[0] < exact.rounds
    found = match_rows(a, b, relative_gap=0.5)
    assert found.relative_gap == found.gap / float(found.similarity.double().sum())
