"""
Certified gap of a matching to the optimum, from prices.

For any prices v_j >= 0 of columns and any one-to-one matching M of weights S_ij,

    sum_M S_ij <= sum_i max(0, max_j (S_ij - v_j)) + sum_j v_j,

since every row gets at most its largest profit, and every price is paid at most once.
The right-hand side is therefore a bound on the best total, wherever the prices come from.
Its excess over a matching's total is the gap of that matching.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.scan import Ints, Longs, profitable
from saereg_plugin.metrics.assignment.search import SINGLE
from saereg_plugin.metrics.assignment.weights import LARGEST, RowWeights, Weights


@dataclass(frozen=True)
class Certificate:
    """
    Proof by prices of the quality of a matching.

    Attributes:
        total: similarity of all matched pairs.
        gap: the best total is at most this much larger; 0 proves the matching optimal.
        similarity: [n_a] of each row to its partner, 0 for none.
    """

    total: float
    gap: float
    similarity: NDArray[np.float64]

    @property
    def relative_gap(self) -> float:
        """``gap`` over |``total``|; 0 if both are, infinite if only the total is."""
        return relative(self.gap, self.total)


def relative(gap: float, total: float) -> float:
    """Return ``gap / |total|``, and 0 without a gap."""
    if gap == 0:
        return 0.0
    return gap / abs(total) if total else float("inf")


class Check(NamedTuple):
    """
    One pass over all pairs, in whole weights.

    Attributes:
        total: sum of the matched pairs' weights.
        bound: no matching's total is above this.
        weight: [n_a] weight of each row's pair, 0 for none.
        pair: row * n_b + column of pairs more profitable than rows were promised.
        pair_weight: weights of those.
    """

    total: int
    bound: int
    weight: Ints
    pair: Longs
    pair_weight: Ints


def check(
    weights: Weights,
    partner: Ints,
    prices: Longs,
    promised: Longs | None = None,
    *,
    room: int = 1,
) -> Check:
    """
    Compute total and bound in one pass over all pairs.

    Args:
        weights: of all pairs [n_a, n_b].
        partner: [n_a] column of each row, ``SINGLE`` for none; without a ``fault``.
        prices: [n_b] whole numbers from 0 to ``LARGEST``, see ``clipped``.
        promised: [n_a] profits that rows are said to have at the most; pairs above
            them are listed. By default none is.
        room: pairs to list of each row, the most profitable ones.

    Raises:
        RuntimeError: if the bound is below the total, which a ``fault`` can cause.
    """
    n_a, _ = weights.shape
    price = prices.astype(np.int32)
    floor = np.full(n_a, LARGEST) if promised is None else promised
    floor = floor.astype(np.int32)
    best = np.empty(n_a, np.int32)
    matched = np.zeros(n_a, np.int32)
    pairs: list[Longs] = []
    found: list[Ints] = []
    for rows, block in weights.blocks():
        listed = profitable(block, rows, price, floor[rows], best[rows], room)
        pairs.append(listed[0])
        found.append(listed[1])
        (taken,) = np.nonzero(partner[rows] != SINGLE)
        matched[rows.start + taken] = block[taken, partner[rows][taken]]
    profit = np.maximum(best.astype(np.int64), 0)
    total = int(matched.sum(dtype=np.int64))
    bound = int(profit.sum()) + int(prices.sum())
    if bound < total:
        raise RuntimeError(
            f"The bound {bound} is below the total {total} of a matching, which is a bug: the "
            "partners are no matching, or the prices no prices."
        )
    return Check(
        total=total,
        bound=bound,
        weight=matched,
        pair=np.concatenate(pairs),
        pair_weight=np.concatenate(found),
    )


def fault(partner: Longs | Ints, n_a: int, n_b: int) -> str | None:
    """
    Return the reason why partners are no one-to-one matching of the whole smaller side.

    None if they are such a matching; the bound holds for such matchings only.

    >>> fault(np.array([1, 1]), 2, 2)
    'partner matches 2 rows of a to 1 rows of b; expected 2 to as many different ones.'
    """
    if partner.shape != (n_a,):
        return f"partner has shape {[*partner.shape]}; expected one for each of {n_a} rows of a."
    taken = partner[partner != SINGLE]
    if len(taken) and not (taken.min() >= 0 and taken.max() < n_b):
        return (
            f"partner names rows {taken.min()} to {taken.max()} of b; expected 0 to "
            f"{n_b - 1}, or -1 for none."
        )
    different = int(np.count_nonzero(np.bincount(taken)))
    pairs = min(n_a, n_b)
    if not len(taken) == different == pairs:
        return (
            f"partner matches {len(taken)} rows of a to {different} rows of b; expected "
            f"{pairs} to as many different ones."
        )
    return None


def clipped(steps: Longs | NDArray[np.float64]) -> Longs:
    """Return whole prices that keep the bound true: 0 to ``LARGEST`` steps of the grid."""
    return np.clip(steps, 0, LARGEST).astype(np.int64)


def certify(
    a: Tensor,
    b: Tensor,
    partner: Tensor,
    prices: Tensor,
    *,
    absolute: bool = True,
    unit: bool = False,
) -> Certificate:
    """
    Prove the gap of a matching of the rows of ``a`` and ``b`` from its prices.

    Computes all similarities again, in blocks, and shares no result with the solver: a
    wrong partner lowers the total, a wrong price raises the bound, and either shows as a
    gap. The bound holds for any prices; they are clipped and rounded to the grid.

    Args:
        a: [n_a, d] rows.
        b: [n_b, d] rows.
        partner: [n_a] row of ``b`` matched to each row of ``a``, -1 for none.
        prices: [n_b] prices of rows of ``b``, in units of similarity (``Matching.prices``).
        absolute: whether similarity is |cos| or the signed cosine.
        unit: the rows come from ``unit_rows``.

    Raises:
        InputError: if ``partner`` is no one-to-one matching of the whole smaller side,
            or a matrix cannot be used.
    """
    weights = RowWeights(a, b, absolute=absolute, unit=unit, store_bytes=0)
    columns = _matching(partner, *weights.shape)
    if tuple(prices.shape) != (weights.shape[1],) or not bool(prices.isfinite().all()):
        raise InputError(
            f"prices have shape {[*prices.shape]}; expected {weights.shape[1]} finite "
            "numbers, one for each row of b."
        )
    if 0 in weights.shape:
        return Certificate(0.0, 0.0, np.zeros(weights.shape[0]))
    grid = weights.grid
    steps = np.rint(prices.double().numpy() / grid.step)
    seen = check(weights, columns, clipped(steps))
    pairs = min(weights.shape)
    similarity = np.where(columns == SINGLE, 0.0, grid.similarity(seen.weight))
    return Certificate(
        total=(seen.total - pairs * grid.shift) * grid.step,
        gap=(seen.bound - seen.total) * grid.step,
        similarity=similarity,
    )


def _matching(partner: Tensor, n_a: int, n_b: int) -> Ints:
    """Return the partners as an array after checking that they are a full matching."""
    if tuple(partner.shape) != (n_a,) or partner.dtype != torch.int64:
        raise InputError(
            f"partner has shape {[*partner.shape]} and type {partner.dtype}; expected "
            f"{n_a} numbers of type torch.int64, one for each row of a."
        )
    columns = partner.numpy()
    wrong = fault(columns, n_a, n_b)
    if wrong is not None:
        raise InputError(wrong)
    return columns.astype(np.int32)
