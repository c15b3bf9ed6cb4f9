"""One-to-one matching of several pairs of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.weights import RowWeights
from saereg_plugin.metrics.matching import Matching, solved, with_latent_ids

_Found = TypeVar("_Found")

_AT_A_TIME = 2
"""Matchings solved side by side: one computes products while the other searches."""


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

    def solve(weights: RowWeights) -> Matching:
        return solved(weights, relative_gap)

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
