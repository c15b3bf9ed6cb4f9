"""
Exact assignment of large dictionaries: candidates, sparse optimum, proof, repeat.

1. A pass over all pairs lists the k largest weights of every row and of every column.
2. The heaviest matching of that sparse graph is found, with duals (``search``).
3. A pass over all pairs with the columns' prices bounds the best total of the complete
   problem (``certificate``) and lists pairs that would be worth more to a row than what
   it has. If there are none the bound is the matching's total, and it is optimal.
4. Otherwise the pairs join the graph, which is solved from the prices at hand.

Every round adds a pair, so the rounds end; in practice there are a few.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saereg_plugin.errors import InputError
from saereg_plugin.metrics.assignment.certificate import (
    Check,
    check,
    clipped,
    fault,
    relative,
)
from saereg_plugin.metrics.assignment.scan import (
    NONE,
    in_parts,
    profitable,
    scan_columns,
)
from saereg_plugin.metrics.assignment.search import (
    SINGLE,
    Ints,
    Longs,
    augment,
    bid,
    tighten,
    transposed,
)
from saereg_plugin.metrics.assignment.weights import Grid, Weights

CANDIDATES = 16
"""Pairs that each row and each column proposes in one pass."""


_BIDS_PER_ROW = 20
_LISTED = 1 << 24
"""Pairs that one pass may list at the most, for memory: 8 bytes each, twice."""


class Assignment(NamedTuple):
    """A full matching of the smaller side, with its proof."""

    partner: Ints
    """[n_a] column of each row, -1 for none."""
    similarity: NDArray[np.float64]
    """[n_a] float64, 0 for none."""
    gap: float
    """The best total is at most this much larger."""
    prices: NDArray[np.float64]
    """[n_b] float64, in units of similarity; what ``certify`` needs."""
    rounds: int
    """Graphs solved."""
    row_best: NDArray[np.float64]
    """[n_a] float64 largest similarity of each row, matched or not."""
    column_best: NDArray[np.float64]
    """[n_b] float64 largest similarity of each column."""


def assign(
    weights: Weights, *, candidates: int = CANDIDATES, relative_gap: float = 0.0
) -> Assignment:
    """
    Match rows to columns so that the total similarity is the largest.

    Args:
        weights: of all pairs.
        candidates: pairs that each row and column proposes in a pass.
        relative_gap: stop once the best total is proven to be above this one's by at
            most this share of it.

    Raises:
        InputError: for a number of candidates below 1 or a negative gap.
        RuntimeError: if the search gave what is no matching, which is a bug of its own.
    """
    if candidates < 1:
        raise InputError(f"candidates is {candidates}; expected 1 or more.")
    if not relative_gap >= 0:
        raise InputError(f"relative_gap is {relative_gap}; expected 0 or more.")
    n_a, n_b = weights.shape
    if n_a == 0 or n_b == 0:
        return Assignment(
            partner=np.full(n_a, NONE, np.int32),
            similarity=np.zeros(n_a),
            gap=0.0,
            prices=np.zeros(n_b),
            rounds=0,
            row_best=np.zeros(n_a),
            column_best=np.zeros(n_b),
        )
    edges, row_best, column_best = _first_edges(weights, candidates)
    state = State(n_a, n_b)
    rounds, room = 0, candidates
    while True:
        state.solve(edges)
        rounds += 1
        partner = state.completed()
        # the gap trusts nothing of the search: neither its partners nor its prices
        wrong = fault(partner, n_a, n_b)
        if wrong is not None:
            raise RuntimeError(
                f"The assignment's search gave no matching, which is a bug of it: {wrong}"
            )
        steps = clipped(state.v)
        seen = check(weights, partner, steps, state.u, room=room)
        gap, share = _gap(seen, weights.grid, min(n_a, n_b))
        more = edges
        if share > relative_gap:
            (taken,) = np.nonzero(partner != NONE)
            pair = np.concatenate([taken * n_b + partner[taken], seen.pair])
            weight = np.concatenate([seen.weight[taken], seen.pair_weight])
            more = edges.merged(pair, weight)
        # a pass that finds nothing new can prove no more
        if len(more.pair) == len(edges.pair):
            similarity = weights.grid.similarity(seen.weight)
            similarity[partner == NONE] = 0
            prices = steps.astype(np.float64) * weights.grid.step
            return Assignment(
                partner,
                similarity,
                gap,
                prices,
                rounds,
                weights.grid.similarity(row_best),
                weights.grid.similarity(column_best),
            )
        edges = more
        room = _next_room(seen, room, n_a, n_b)


def _next_room(seen: Check, room: int, n_a: int, n_b: int) -> int:
    """
    Double the room of rows if most of those that listed pairs ran out of it.

    Many similar rows that want the same columns would need a round for every few.
    """
    listed = np.bincount(seen.pair // n_b)
    listing = int((listed > 0).sum())
    full = int((listed == room).sum())
    most = max(room, min(n_b, _LISTED // n_a))
    return min(2 * room, most) if 2 * full > listing else room


def _gap(seen: Check, grid: Grid, pairs: int) -> tuple[float, float]:
    """Return the absolute and the relative gap of a matching of ``pairs`` pairs."""
    gap = (seen.bound - seen.total) * grid.step
    return gap, relative(gap, (seen.total - pairs * grid.shift) * grid.step)


def _first_edges(weights: Weights, room: int) -> tuple[Edges, Ints, Ints]:
    """List the largest weights of rows and columns; also return the largest of each."""
    n_a, n_b = weights.shape
    row_best = np.empty(n_a, np.int32)
    free: Ints = np.zeros(n_b, np.int32)
    least: Ints = np.full(n_b, -1, np.int32)
    row_of: Ints = np.full((n_b, room), NONE, np.int32)
    row_weight: Ints = np.full((n_b, room), -1, np.int32)
    pairs: list[Longs] = []
    found: list[Ints] = []
    for rows, block in weights.blocks():

        def by_columns(
            part: slice, block: Ints = block, first: int = rows.start
        ) -> None:
            scan_columns(block, first, part.start, part.stop, least, row_of, row_weight)

        floor = np.full(len(block), -1, np.int32)
        listed = profitable(block, rows, free, floor, row_best[rows], room)
        pairs.append(listed[0])
        found.append(listed[1])
        in_parts(by_columns, n_b)
    column, place = np.nonzero(row_of != NONE)
    pairs.append(row_of[column, place].astype(np.int64) * n_b + column)
    found.append(row_weight[column, place])
    nothing = Edges(np.empty(0, np.int64), np.empty(0, np.int32))
    edges = nothing.merged(np.concatenate(pairs), np.concatenate(found))
    return edges, row_best, row_weight.max(axis=1)


class Edges(NamedTuple):
    """Pairs with their weights, each pair once, by row and then by column."""

    pair: Longs
    """[edges] row * n_b + column, ascending."""
    weight: Ints
    """[edges]."""

    def merged(self, pair: Longs, weight: Ints) -> Edges:
        """Add pairs; pairs that are there already keep their weight."""
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
        Find the heaviest matching of the graph, from the best matching of another graph.

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
