"""The sparse graph of pairs that may be matched, and its best matching."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saereg_plugin.metrics.assignment.heap import Ints, Longs
from saereg_plugin.metrics.assignment.search import (
    SINGLE,
    augment,
    bid,
    tighten,
    transposed,
)

_BIDS_PER_ROW = 20


class Edges(NamedTuple):
    """Pairs with their weights, each pair once, by row and then by column."""

    pair: Longs
    """[edges] row * n_b + column, ascending."""
    weight: Ints
    """[edges]."""

    def merged(self, pair: Longs, weight: Ints) -> Edges:
        """Add pairs; of one that is there already, the weight stays."""
        pairs, first = np.unique(np.concatenate([self.pair, pair]), return_index=True)
        return Edges(pairs, np.concatenate([self.weight, weight])[first])


class State:
    """
    A matching and duals of a sparse graph, improved from one graph to the next.

    Attributes:
        u: [n_a] duals of rows, >= 0.
        v: [n_b] duals of columns, >= 0.
        mate: [n_a] column of each row or ``SINGLE``.
        back: [n_b] row of each column or ``SINGLE``.
    """

    def __init__(self, n_a: int, n_b: int) -> None:
        """Start without a matching, all columns at price 0."""
        self.u: Longs = np.zeros(n_a, np.int64)
        self.v: Longs = np.zeros(n_b, np.int64)
        self.mate: Ints = np.full(n_a, SINGLE, np.int32)
        self.back: Ints = np.full(n_b, SINGLE, np.int32)

    def solve(self, edges: Edges) -> None:
        """
        Find the heaviest matching of the graph, from what was the best of another one.

        Afterwards u_i + v_j >= weight for every edge, with equality if matched, and
        the dual of every single row and column is 0: all are optimal.
        """
        n_a, n_b = len(self.u), len(self.v)
        row = edges.pair // n_b
        start = np.searchsorted(row, np.arange(n_a + 1)).astype(np.int64)
        other = (edges.pair - row * n_b).astype(np.int32)
        graph = (start, other, edges.weight)
        tighten(*graph, self.u, self.v, self.mate, self.back)
        bid(*graph, self.u, self.v, self.mate, self.back, _BIDS_PER_ROW * n_a)
        augment(*graph, self.u, self.v, self.mate, self.back)
        if np.any((self.back == SINGLE) & (self.v > 0)):
            # columns that lost their row since the last graph
            by_column = transposed(*graph, n_b)
            augment(*by_column, self.v, self.u, self.back, self.mate)

    def completed(self) -> NDArray[np.int32]:
        """
        Return [n_a] the matching with single rows given to single columns, in order.

        No weight is below 0, so that the total does not fall; rows (or columns) stay
        single only where the other side has run out.
        """
        rows = np.flatnonzero(self.mate == SINGLE)
        columns = np.flatnonzero(self.back == SINGLE)
        both = min(len(rows), len(columns))
        full = self.mate.copy()
        full[rows[:both]] = columns[:both]
        return full
