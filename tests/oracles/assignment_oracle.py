"""
Slow, independent versions of the assignment's figures: dense float64 and scipy's solver.

Nothing here comes from the package under test.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Matrix = NDArray[np.float64]


def similarity(a: Matrix, b: Matrix, *, absolute: bool) -> Matrix:
    """|cos| or cosine of every pair of rows; 0 where a row is zero."""
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)
    cosine = (a @ b.T) / np.where(norms > 0, norms, 1.0)
    return np.abs(cosine) if absolute else cosine


def best_total(scores: NDArray[np.generic]) -> float | int:
    """Largest total of a matching of the whole smaller side."""
    rows, columns = linear_sum_assignment(scores, maximize=True)
    return scores[rows, columns].sum().item()


def heaviest_total(scores: NDArray[np.generic]) -> float | int:
    """Largest total of any matching, in which anyone may stay single."""
    return best_total(np.maximum(scores, 0))


def bound(scores: Matrix, prices: Matrix, *, lowest: float) -> float:
    """Upper bound of the best total from prices; no score is below ``lowest``."""
    raised = scores - lowest
    pairs = min(scores.shape)
    profit = np.maximum((raised - prices).max(axis=1), 0)
    return float(profit.sum() + prices.sum()) + pairs * lowest


def sorted_by_heap(keys: list[int]) -> list[int]:
    """Keys in ascending order."""
    heap = list(keys)
    heapq.heapify(heap)
    return [heapq.heappop(heap) for _ in keys]
