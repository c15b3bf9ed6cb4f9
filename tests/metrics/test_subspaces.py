import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from saereg_plugin.metrics import (
    gaussian_rows,
    leading_directions,
    mixed_rows,
    nearest_rows,
    overlap_ranks,
    principal_directions,
    random_overlap,
    span_shares,
    subspace_overlap,
    unit_rows,
)
from tests.oracles import cross_seed_oracle as oracle


def gaussian(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def rotation(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(gaussian(d, d, seed=seed).double())[0]


def planted(basis: Tensor, n: int, seed: int) -> Tensor:
    """n rows in the span of the columns of ``basis`` [d, r], falling singular values."""
    r = basis.shape[1]
    strength = torch.linspace(2.0, 1.0, r).double()
    mixing = torch.linalg.qr(gaussian(n, r, seed=seed).double())[0]
    return ((mixing * strength) @ basis.T).float()


@pytest.mark.parametrize("common", [0, 2, 5])
def test_planted_subspaces_are_recovered(common: int) -> None:
    """Two blocks of rank 5 in 16 dimensions whose spans share ``common`` directions."""
    q = rotation(16, 0)
    a = leading_directions(planted(q[:, :5], 40, 1))
    own = q[:, 5 : 10 - common]
    b = leading_directions(planted(torch.cat([q[:, :common], own], dim=1), 30, 2))
    assert (a.rank, b.rank) == (5, 5)
    torch.testing.assert_close(
        a.singular_values, torch.linspace(2.0, 1.0, 5).double(), rtol=1e-6, atol=0
    )
    inside, outside = subspace_overlap(a, b, [5, 6])
    assert inside == pytest.approx(common / 5, abs=1e-6)
    assert outside is None
    # each direction in turn: they were planted in the same order of strength
    for r, found in enumerate(subspace_overlap(a, b, range(1, 6)), start=1):
        assert found == pytest.approx(min(r, common) / r, abs=1e-5)


@given(
    n_a=st.integers(3, 9),
    n_b=st.integers(3, 9),
    d=st.integers(2, 6),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_equals_a_plain_svd(n_a: int, n_b: int, d: int, seed: int) -> None:
    a, b = gaussian(n_a, d, seed=seed), gaussian(n_b, d, seed=seed + 1000)
    ranks = [r for r in range(1, d + 1) if r <= min(n_a, n_b)]
    found = subspace_overlap(leading_directions(a), leading_directions(b), ranks)
    for r, value in zip(ranks, found, strict=True):
        expected = oracle.subspace_overlap(a.tolist(), b.tolist(), r)
        assert value == pytest.approx(expected, abs=1e-4)


@given(scale=st.floats(1e-6, 1e6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_order_sign_scale_and_rotation_do_not_matter(scale: float, seed: int) -> None:
    a, b = gaussian(9, 5, seed=seed), gaussian(7, 5, seed=seed + 1000)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(9, generator=generator)
    signs = torch.randint(0, 2, (9, 1), generator=generator) * 2.0 - 1.0
    turn = rotation(5, seed)
    ranks = [1, 2, 3]
    expected = subspace_overlap(leading_directions(a), leading_directions(b), ranks)
    changed = subspace_overlap(
        leading_directions((a[order] * signs * scale).double() @ turn),
        leading_directions(b.double() @ turn),
        ranks,
    )
    assert changed == pytest.approx(expected, abs=1e-4)
    assert expected == pytest.approx(
        subspace_overlap(leading_directions(b), leading_directions(a), ranks)
    )


def test_random_subspaces_reach_the_baseline() -> None:
    """400 random pairs: mean within 4 standard errors, spread within 15 %."""
    for r, d in ((1, 4), (3, 12), (10, 16)):
        found = torch.tensor(
            [
                subspace_overlap(
                    leading_directions(gaussian(r, d, seed=2 * i)),
                    leading_directions(gaussian(r, d, seed=2 * i + 1)),
                    [r],
                )
                for i in range(400)
            ]
        )
        mean, std = random_overlap(r, d)
        assert mean == pytest.approx(r / d)
        assert float(found.mean()) == pytest.approx(mean, abs=4 * std / 20)
        assert float(found.std()) == pytest.approx(std, rel=0.15)
    assert random_overlap(7, 7) == (1.0, 0.0)


def test_float32_rounding_is_no_rank() -> None:
    rows = planted(rotation(64, 3)[:, :7], 5000, 4)
    assert leading_directions(rows).rank == 7


def test_empty_and_zero_blocks_have_no_directions() -> None:
    some = leading_directions(gaussian(4, 3, seed=0))
    for rows in (torch.zeros(0, 3), torch.zeros(5, 3)):
        none = leading_directions(rows)
        assert none.rank == 0
        assert subspace_overlap(none, some, [1, 2]) == [None, None]


def test_ranks() -> None:
    assert overlap_ranks(2) == [1]
    assert overlap_ranks(16) == [1, 2, 4, 8]
    assert overlap_ranks(20) == [1, 2, 4, 8, 10]


def test_unusable_arguments() -> None:
    a, b = (leading_directions(gaussian(4, d, seed=0)) for d in (3, 4))
    with pytest.raises(ValueError, match="3 and 4 dimensions"):
        subspace_overlap(a, b, [1])
    with pytest.raises(ValueError, match="at least 1"):
        subspace_overlap(a, a, [0])
    with pytest.raises(ValueError, match="1 <= r <= d"):
        random_overlap(4, 3)
    with pytest.raises(ValueError, match=r"\[n, d\]"):
        leading_directions(torch.zeros(3))
    assert not math.isnan(random_overlap(1, 2).std)


@given(n=st.integers(1, 12), d=st.integers(1, 12), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_few_rows_and_many_give_one_decomposition(n: int, d: int, seed: int) -> None:
    rows = gaussian(n, d, seed=seed)
    found = leading_directions(rows)
    # repeated rows have the same directions, from the d x d matrix
    many = leading_directions(rows.repeat(d + 1, 1))
    assert found.rank == many.rank
    torch.testing.assert_close(
        found.singular_values * math.sqrt(d + 1),
        many.singular_values,
        rtol=1e-6,
        atol=1e-9,
    )
    eye = torch.eye(found.rank).double()
    torch.testing.assert_close(found.basis.T @ found.basis, eye, atol=1e-9, rtol=0)
    inside = subspace_overlap(found, many, [found.rank])[0]
    assert inside == pytest.approx(1, abs=1e-6)


@given(
    n=st.integers(1, 6),
    n_others=st.integers(1, 9),
    d=st.integers(2, 7),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=60)
def test_span_shares_equal_least_squares(
    n: int, n_others: int, d: int, seed: int
) -> None:
    rows = unit_rows(gaussian(n, d, seed=seed))
    others = unit_rows(gaussian(n_others, d, seed=seed + 100))
    ids = nearest_rows(rows, others, n_others)
    found = span_shares(rows, others, ids, range(1, n_others + 1))
    for row, chosen, shares in zip(rows, ids, found, strict=True):
        assert chosen.tolist() == oracle.nearest(
            row.tolist(), others.tolist(), n_others
        )
        for m, share in enumerate(shares.tolist(), start=1):
            partners = others[chosen[:m]].tolist()
            expected = oracle.span_share(row.tolist(), partners)
            assert share == pytest.approx(expected, abs=1e-5)
    # more partners span more
    assert bool((found.diff(dim=1) > -1e-9).all())


def test_partners_that_depend_on_each_other_count_once() -> None:
    rows = torch.tensor([[1.0, 1.0, 0.0]])
    others = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = span_shares(rows, others, torch.tensor([[0, 1, 2]]), [1, 2, 3])
    assert found[0].tolist() == pytest.approx([0.5, 0.5, 1])


def test_gaussian_rows_have_the_directions_of_their_covariance() -> None:
    q = rotation(6, 0)
    spectrum = torch.tensor([9.0, 4.0, 1.0, 0.0, 0.0, 0.0]).double()
    principal = principal_directions((q * spectrum) @ q.T)
    assert principal.rank == 3
    generator = torch.Generator().manual_seed(0)
    rows = gaussian_rows(principal, 4000, generator)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4000))
    found = leading_directions(rows)
    assert found.rank == 3
    assert subspace_overlap(found, principal, [1, 2, 3]) == pytest.approx(
        [1, 1, 1], abs=1e-2
    )


def test_mixtures_of_rows_have_their_span_and_moments_and_no_order() -> None:
    rows = unit_rows(gaussian(60, 12, seed=0) * torch.linspace(0.2, 1, 12))

    def mixed(of: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return mixed_rows(leading_directions(of), len(of), generator)

    found = mixed(rows)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(60))
    # before they have norm 1 their moments are equal, so with it they are close
    torch.testing.assert_close(found.T @ found, rows.T @ rows, atol=1.5, rtol=0)
    signs = torch.ones(60, 1)
    signs[::2] = -1
    torch.testing.assert_close(mixed(rows.flip(0) * signs), found, atol=1e-4, rtol=0)
    # fewer rows than dimensions: in their span, and none of them
    few = mixed(rows[:5])
    ids = torch.arange(5).expand(5, 5)
    assert float(span_shares(few, rows[:5], ids, [5]).min()) > 1 - 1e-6
    assert float((few @ rows[:5].T).abs().max()) < 0.99
    assert mixed(rows[:0]).shape == (0, 12)


def test_impossible_numbers_of_partners_are_refused() -> None:
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="got m = 4"):
        nearest_rows(eye, eye, 4)
    with pytest.raises(ValueError, match="expected sizes in 1"):
        span_shares(eye, eye, torch.zeros(3, 1, dtype=torch.int64), [2])
