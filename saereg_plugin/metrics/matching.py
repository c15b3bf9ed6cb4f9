"""One-to-one matching of latents, and latents shared by SAEs of different seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.certificate import relative
from saereg_plugin.metrics.assignment.solve import assign
from saereg_plugin.metrics.assignment.weights import DenseWeights, RowWeights, Weights
from saereg_plugin.metrics.similarity import MaxCosine

SHARED_THRESHOLD = 0.7
"""Both similarities of a shared latent exceed this (arXiv 2603.04198)."""

_Found = TypeVar("_Found")

_AT_A_TIME = 2
"""Matchings solved side by side: one computes products while the other searches."""
UNMATCHED = -1


class Matching(NamedTuple):
    """A one-to-one matching of rows of A to rows of B of maximal total similarity."""

    partner: Tensor
    """[n_a] row of B matched to each row of A, -1 for none (A has more rows)."""
    similarity: Tensor
    """[n_a] similarity to the partner, 0 for none; float64 only of a float64 matrix."""
    gap: float
    """
    The largest total is at most this much above this matching's; 0 is proven optimal.

    Proven by ``prices`` and one pass over all pairs; ``certify`` repeats the proof.
    """
    prices: Tensor
    """[n_b] float64 prices of the rows of B, in units of similarity."""
    best: MaxCosine
    """
    Largest similarity of every row and every column, matched or not.

    By |cos| it is what ``mean_max_cos`` gives, from the matching's own first pass.
    """

    @property
    def mean(self) -> float:
        """Mean similarity over the matched rows; 0 if there are none."""
        matched = self.similarity[self.partner >= 0]
        return float(matched.double().mean()) if len(matched) else 0.0

    @property
    def relative_gap(self) -> float:
        """``gap`` over the total's absolute value; 0 if there is no gap."""
        return relative(self.gap, float(self.similarity.double().sum()))


def hungarian(similarity: Tensor, *, relative_gap: float = 0.0) -> Matching:
    """
    Match rows to columns of ``similarity`` [n_a, n_b], maximising the sum, exactly.

    Entries, float64 ones too, are rounded towards zero to 2^-30 (2^-29 if any is negative)
    of the least power of two that is not below the largest; the optimum and the gap are
    those of the rounded matrix.

    Raises:
        InputError: if it is no matrix, holds NaN or infinity, or has its largest entry
            outside of 2^-1000 to 2^1000.

    >>> hungarian(torch.tensor([[0.9, 0.8], [0.8, 0.1]])).partner.tolist()
    [1, 0]
    """
    exact = similarity.dtype == torch.float64
    return solved(
        DenseWeights(similarity),
        relative_gap,
        dtype=torch.float64 if exact else torch.float32,
    )


def match_rows(
    a: Tensor,
    b: Tensor,
    *,
    absolute: bool = True,
    relative_gap: float = 0.0,
    unit: bool = False,
) -> Matching:
    """
    Match the rows of ``a`` [n_a, d] and ``b`` [n_b, d] by |cos|, or by signed cosine.

    The whole smaller side is matched. Rows are scaled to norm 1 in their own precision
    (at least float32), then cast to float32. Cosines are its products, rounded towards zero
    to a multiple of 2^-30 (signed: 2^-29), which leaves those above 2^-7 (2^-6) as they
    are; for these similarities the matching is optimal exactly, and proven to be.

    The matrix of similarities is kept while it has at most 2 GiB, and computed again
    in every pass otherwise; there is never a float64 one.

    Args:
        a, b: rows; they need not have norm 1. A zero row has similarity 0 to all.
        absolute: match by |cos| instead of the signed cosine.
        relative_gap: accept a total proven to be within this share of the largest; 0
            demands the optimum.
        unit: the rows come from ``unit_rows``.

    Raises:
        InputError: for rows of different lengths, and for NaN or infinity.
    """
    return solved(RowWeights(a, b, absolute=absolute, unit=unit), relative_gap)


def with_latent_ids(
    matching: Matching, ids_a: Tensor, ids_b: Tensor, *, n_a: int
) -> Matching:
    """
    Translate a matching of the rows ``ids_a`` of A and ``ids_b`` of B into latent ids.

    Latents of A that took no part have no partner. Positions in the output of two
    matchings of filtered rows can be different latents, so compare ids only. The gap is
    passed on; so are prices and ``best``, which stay those of the rows that took part.
    """
    partner = torch.full((n_a,), UNMATCHED, dtype=torch.int64)
    similarity = torch.zeros(n_a, dtype=matching.similarity.dtype)
    found = matching.partner >= 0
    partner[ids_a[found]] = ids_b[matching.partner[found]]
    similarity[ids_a] = matching.similarity
    return matching._replace(partner=partner, similarity=similarity)


def seen_from_b(matching: Matching, *, n_b: int) -> Matching:
    """
    Return the same matching by the rows of B.

    ``best`` is turned, gap and prices are passed on as they are.

    >>> seen_from_b(match_rows(torch.eye(3)[1:2], torch.eye(3)), n_b=3).partner.tolist()
    [-1, 0, -1]
    """
    partner = torch.full((n_b,), UNMATCHED, dtype=torch.int64)
    similarity = torch.zeros(n_b, dtype=matching.similarity.dtype)
    found = (matching.partner >= 0).nonzero().flatten()
    partner[matching.partner[found]] = found
    similarity[matching.partner[found]] = matching.similarity[found]
    best = MaxCosine(matching.best.b_to_a, matching.best.a_to_b)
    return matching._replace(partner=partner, similarity=similarity, best=best)


def solved(
    weights: Weights, relative_gap: float, *, dtype: torch.dtype = torch.float32
) -> Matching:
    """Match rows and columns of ``weights``; ``dtype`` is that of the similarities."""
    found = assign(weights, relative_gap=relative_gap)
    similarity, *best = (
        torch.from_numpy(values).to(dtype)
        for values in (found.similarity, found.row_best, found.column_best)
    )
    return Matching(
        partner=torch.from_numpy(found.partner).long(),
        similarity=similarity,
        gap=found.gap,
        prices=torch.from_numpy(found.prices),
        best=MaxCosine(*best),
    )


def match_many(
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    absolute: bool = True,
    relative_gap: float = 0.0,
    unit: bool = False,
) -> list[Matching]:
    """
    Match several pairs as ``match_rows`` does, two at a time.

    Products are computed for one matching at a time, with all of torch's threads,
    while the other one searches. Takes the memory of two matchings.
    """
    solve = partial(solved, relative_gap=relative_gap)
    return _side_by_side(solve, pairs, absolute=absolute, unit=unit)


def match_many_twice(
    pairs: Sequence[tuple[Tensor, Tensor]],
    ids_a: Tensor,
    ids_b: Tensor,
    *,
    absolute: bool = True,
    relative_gap: float = 0.0,
    unit: bool = False,
) -> list[tuple[Matching, Matching]]:
    """
    Match several pairs as ``match_many`` does, and each again by some of its rows only.

    The second matching takes its similarities from the first one, as long as they are
    kept, and is the first one where all rows are among the chosen.

    Args:
        pairs: as for ``match_many``; all of one number of rows a side.
        ids_a, ids_b: rows of either side (say the alive latents), ascending.
        absolute, relative_gap, unit: see ``match_rows``.

    Returns:
        For each pair the matching of all rows and that of the chosen, both by the
        numbers of all rows.

    Raises:
        InputError: as ``match_rows``, and for ids that do not ascend or are of no row.
    """
    for a, b in pairs:
        _check_ids(ids_a, len(a), "ids_a")
        _check_ids(ids_b, len(b), "ids_b")

    def solve(weights: RowWeights) -> tuple[Matching, Matching]:
        every = solved(weights, relative_gap)
        # ids ascend, so as many of them as there are rows are all of them
        if (len(ids_a), len(ids_b)) == weights.shape:
            return every, every
        chosen = solved(weights.take(ids_a, ids_b), relative_gap)
        return every, with_latent_ids(chosen, ids_a, ids_b, n_a=weights.shape[0])

    return _side_by_side(solve, pairs, absolute=absolute, unit=unit)


def _check_ids(ids: Tensor, n: int, name: str) -> None:
    """Refuse ids that do not ascend from 0 or more to ``n - 1`` or less."""
    if len(ids) == 0:
        return
    ascending = bool((ids.diff() > 0).all())
    low, high = int(ids.min()), int(ids.max())
    if not ascending or low < 0 or high >= n:
        order = "ascending" if ascending else "not ascending"
        raise InputError(
            f"{name} goes from {low} to {high}, {order}; expected row numbers from 0 to "
            f"{n - 1}, each above the one before."
        )


def _side_by_side(
    solve: Callable[[RowWeights], _Found],
    pairs: Sequence[tuple[Tensor, Tensor]],
    *,
    absolute: bool,
    unit: bool,
) -> list[_Found]:
    """Solve several pairs, two at a time, with one of them in a product."""
    products = Lock()

    def one(pair: tuple[Tensor, Tensor]) -> _Found:
        return solve(RowWeights(*pair, absolute=absolute, unit=unit, products=products))

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        return list(pool.map(one, pairs))


class ShareClasses(NamedTuple):
    """Masks over the latents of one SAE, [n] bool each; every latent is in one."""

    always: Tensor
    """Shared with every other seed."""
    sometimes: Tensor
    """Shared with some, not all."""
    never: Tensor
    """Shared with none."""


def shared_mask(
    decoder: Matching, encoder: Matching, *, threshold: float = SHARED_THRESHOLD
) -> Tensor:
    """
    Latents of A with one partner by decoder and encoder, both above ``threshold``.

    [n_a] bool, from two matchings by the same latent ids (arXiv 2603.04198). From
    ``seen_from_b`` of both it is the mask over B's latents.
    """
    return (
        (decoder.partner >= 0)
        & (decoder.partner == encoder.partner)
        & (decoder.similarity > threshold)
        & (encoder.similarity > threshold)
    )


def latent_stability(shared: Tensor) -> Tensor:
    """
    Share of the other seeds in which each latent is shared, [n] float32.

    Args:
        shared: [n_others, n] bool; row t has the latents of this SAE that are shared
            with the t-th other seed, by this SAE's latent ids.
    """
    if shared.ndim != 2 or len(shared) == 0:
        raise ValueError(f"expected masks [n_others >= 1, n], got {[*shared.shape]}")
    return shared.float().mean(dim=0)


def stable_mask(stability: Tensor, *, minimum: float) -> Tensor:
    """
    Latents shared with at least the share ``minimum`` of the other seeds, [n] bool.

    A rounding error of float32 does not exclude a latent: 2 of 3 is 2/3.

    >>> stable_mask(torch.tensor([0.0, 0.5, 1.0]), minimum=0.5).tolist()
    [False, True, True]
    """
    if not 0 < minimum <= 1:
        raise ValueError(f"expected 0 < minimum <= 1, got {minimum}")
    return stability.double() >= minimum - 1e-6


def share_classes(shared: Tensor) -> ShareClasses:
    """
    Always, sometimes and never shared latents of one SAE.

    The masks [n_others, n] must all be by this SAE's own latent ids: the code
    published with arXiv 2603.04198 adds latent i of SAE 0 in the pairs (0, 1) and
    (0, 2) to latent i of SAE 1 in the pair (1, 2), which is another latent.
    """
    stability = latent_stability(shared)
    # Exact: a mean of n ones is 1 and of n zeros is 0.
    always, never = shared.all(dim=0), stability == 0
    return ShareClasses(always, ~(always | never), never)
