"""A binary heap of nodes by distance, with decrease-key, in arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saereg_plugin.metrics.assignment.compiled import compiled

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]

OUTSIDE = -1
"""Place of a node that is not in the heap."""


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
