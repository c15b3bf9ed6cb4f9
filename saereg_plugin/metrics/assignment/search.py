"""
Shortest augmenting paths on a sparse bipartite graph, in whole numbers.

The problem is the heaviest matching of a graph with weights S >= 0, whose dual is

    minimise sum_i u_i + sum_j v_j   subject to   u_i + v_j >= S_ij,  u, v >= 0.

A matching and duals are optimal together if matched edges are tight (u_i + v_j = S_ij)
and the dual of every unmatched node is 0. Every function here keeps the constraints
and the tightness of matched edges, and works towards the last condition. Rows and
columns play the same part, so a search from a row and one from a column are the same
code with the sides exchanged: "near" is the side that the search starts from.

Sources: R. Jonker and A. Volgenant, Computing 38 (1987) 325-340, for the two phases
(row reduction by bids, then shortest paths); D. P. Bertsekas for reading the bids as an
auction. Here the graph is sparse, nodes may stay single, and any duals may come in.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saereg_plugin.metrics.assignment.scan import Ints, Longs, compiled

OUTSIDE = -1
"""Place of a node that is not in the heap."""
SINGLE = -1
"""Mate of a node without one."""

_UNREACHED = np.int64(1) << np.int64(62)


@compiled
def tighten(
    start: Longs, other: Ints, weight: Ints, u: Longs, v: Longs, mate: Ints, back: Ints
) -> None:
    """
    Give every row the least feasible dual for the columns' duals; part what is not tight.

    Afterwards the constraints hold on the graph and every matched edge is tight.

    Args:
        start: [n_rows + 1] where each row's edges begin.
        other: [edges] columns.
        weight: [edges] S.
        u: [n_rows] rows' duals, written.
        v: [n_columns] columns' duals, >= 0.
        mate: [n_rows] column of each row or ``SINGLE``, changed in place.
        back: [n_columns] row of each column or ``SINGLE``, changed in place.
    """
    for row in range(len(u)):
        most = np.int64(0)
        own = np.int64(-1)
        for edge in range(start[row], start[row + 1]):
            column = other[edge]
            profit = weight[edge] - v[column]
            most = max(most, profit)
            if column == mate[row]:
                own = profit
        u[row] = most
        if mate[row] != SINGLE and own != most:
            back[mate[row]] = SINGLE
            mate[row] = SINGLE


@compiled
def bid(
    start: Longs,
    other: Ints,
    weight: Ints,
    u: Longs,
    v: Longs,
    mate: Ints,
    back: Ints,
    most_bids: int,
) -> int:
    """
    Let single rows take their best column, raising its dual until the second best ties.

    A row that loses its column bids again. Bids are cheap and settle most rows; ties
    and small steps, on which they would go round in circles, are left to the searches.

    Args:
        most_bids: bids to stop after; the other arguments are those of ``tighten``.

    Returns:
        the number of rows with a dual above 0 that are still single.
    """
    queue = np.empty(len(u), np.int32)
    waiting = 0
    for row in range(len(u) - 1, -1, -1):
        if mate[row] == SINGLE and u[row] > 0:
            queue[waiting] = row
            waiting += 1
    left = 0
    bids = 0
    while waiting > 0:
        waiting -= 1
        row = queue[waiting]
        best = np.int64(-1)
        second = np.int64(0)
        column = SINGLE
        for edge in range(start[row], start[row + 1]):
            profit = weight[edge] - v[other[edge]]
            if profit > best or (profit == best and back[other[edge]] == SINGLE):
                second = max(second, best)
                best = profit
                column = other[edge]
            elif profit > second:
                second = profit
        if best <= 0:
            u[row] = 0
            continue
        loser = back[column]
        if loser != SINGLE and (best == second or bids >= most_bids):
            u[row] = best
            left += 1
            continue
        bids += 1
        u[row] = second
        v[column] += best - second
        mate[row] = column
        back[column] = row
        if loser != SINGLE:
            mate[loser] = SINGLE
            queue[waiting] = loser
            waiting += 1
    return left


@compiled
def augment(
    start: Longs,
    other: Ints,
    weight: Ints,
    near: Longs,
    far: Longs,
    mate: Ints,
    back: Ints,
) -> int:
    """
    Match every single near node whose dual is above 0, or bring its dual to 0.

    From each such node a shortest path by slack (u + v - S) runs over edges to far
    nodes and along matched edges back. It ends at a single far node, which gets
    matched, or at the near node whose dual falls to 0 first, which is left single.

    Args:
        start, other, weight: the graph by near nodes, as in ``tighten``.
        near: duals of near nodes.
        far: duals of far nodes.
        mate: far node of each near node or ``SINGLE``.
        back: near node of each far node or ``SINGLE``.

    Returns:
        the number of near nodes visited in all searches.
    """
    n_far = len(far)
    distance = np.full(n_far, _UNREACHED, np.int64)
    came_from = np.empty(n_far, np.int32)
    heap = np.empty(n_far, np.int32)
    place = np.full(n_far, OUTSIDE, np.int32)
    reached = np.empty(n_far, np.int32)
    settled = np.empty(n_far, np.int32)
    visited = 0
    for root in range(len(near)):
        if mate[root] != SINGLE or near[root] == 0:
            continue
        n_reached = 0
        n_settled = 0
        size = 0
        length = near[root]
        end_near = np.int64(root)
        end_far = np.int64(SINGLE)
        here = np.int64(root)
        so_far = np.int64(0)
        while True:
            visited += 1
            if so_far + near[here] < length:
                length = so_far + near[here]
                end_near = here
                end_far = np.int64(SINGLE)
            offset = so_far + near[here]
            for edge in range(start[here], start[here + 1]):
                node = other[edge]
                found = offset + far[node] - weight[edge]
                if found < length and found < distance[node]:
                    if distance[node] == _UNREACHED:
                        reached[n_reached] = node
                        n_reached += 1
                    distance[node] = found
                    came_from[node] = here
                    if back[node] == SINGLE:
                        length = found
                        end_far = np.int64(node)
                    else:
                        size = push(heap, place, size, distance, node)
            if size == 0 or distance[heap[0]] >= length:
                break
            node = pop(heap, place, size, distance)
            size -= 1
            settled[n_settled] = node
            n_settled += 1
            so_far = distance[node]
            here = np.int64(back[node])
        near[root] -= length
        for index in range(n_settled):
            node = settled[index]
            far[node] += length - distance[node]
            near[back[node]] -= length - distance[node]
        if end_far == SINGLE and end_near != root:
            # the near node at the end gives up its mate
            end_far = np.int64(mate[end_near])
            mate[end_near] = SINGLE
        while end_far != SINGLE:
            taker = came_from[end_far]
            back[end_far] = taker
            given_up = mate[taker]
            mate[taker] = end_far
            end_far = np.int64(given_up)
        for index in range(size):
            place[heap[index]] = OUTSIDE
        for index in range(n_reached):
            distance[reached[index]] = _UNREACHED
    return visited


@compiled
def transposed(
    start: Longs, other: Ints, weight: Ints, n_columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """Return the same graph by columns."""
    begin = np.zeros(n_columns + 1, np.int64)
    for edge in range(len(other)):
        begin[other[edge] + 1] += 1
    for column in range(n_columns):
        begin[column + 1] += begin[column]
    fill = begin[:-1].copy()
    rows = np.empty(len(other), np.int32)
    weights = np.empty(len(other), np.int32)
    for row in range(len(start) - 1):
        for edge in range(start[row], start[row + 1]):
            at = fill[other[edge]]
            rows[at] = row
            weights[at] = weight[edge]
            fill[other[edge]] = at + 1
    return begin, rows, weights


@compiled
def push(heap: Ints, place: Ints, size: int, key: Longs, node: int) -> int:
    """
    Insert ``node``, or move it up after its key fell; return the heap's new size.

    Args:
        heap: the first ``size`` entries are nodes, the least key first.
        place: where in the heap each node is, or ``OUTSIDE``.
        size: nodes in the heap.
        key: of every node.
        node: to insert.
    """
    hole = place[node]
    if hole == OUTSIDE:
        hole = size
        size += 1
    value = key[node]
    while hole > 0:
        parent = (hole - 1) >> 1
        above = heap[parent]
        if key[above] <= value:
            break
        heap[hole] = above
        place[above] = hole
        hole = parent
    heap[hole] = node
    place[node] = hole
    return size


@compiled
def pop(heap: Ints, place: Ints, size: int, key: Longs) -> int:
    """Remove the node with the least key and return it; the size falls by one."""
    top = heap[0]
    place[top] = OUTSIDE
    size -= 1
    if size > 0:
        node = heap[size]
        value = key[node]
        hole = 0
        while True:
            child = 2 * hole + 1
            if child >= size:
                break
            if child + 1 < size and key[heap[child + 1]] < key[heap[child]]:
                child += 1
            below = heap[child]
            if key[below] >= value:
                break
            heap[hole] = below
            place[below] = hole
            hole = child
        heap[hole] = node
        place[node] = hole
    return top
