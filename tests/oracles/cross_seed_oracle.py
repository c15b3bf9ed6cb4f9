"""
Slow, independent versions of the cross-seed metrics: plain Python, another solver.

Vectors are lists of floats; nothing here comes from the package under test.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

Vector = list[float]


def cosine(a: Vector, b: Vector) -> float:
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(
        math.fsum(y * y for y in b)
    )
    return dot / norms if norms else 0.0


def similarities(a: list[Vector], b: list[Vector]) -> list[list[float]]:
    return [[abs(cosine(x, y)) for y in b] for x in a]


def best_assignment(scores: list[list[float]]) -> dict[int, int]:
    """Row -> column of the heaviest matching; sparse solver (LAPJVsp)."""
    # The solver minimises, and drops entries that are 0: shift both away.
    cost = csr_matrix(4.0 - np.array(scores))
    rows, columns = min_weight_full_bipartite_matching(cost)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True)}


def best_total_by_brute_force(scores: list[list[float]]) -> float:
    """Largest sum over all one-to-one assignments of rows to columns (rows <= columns)."""
    return max(
        math.fsum(row[j] for row, j in zip(scores, columns, strict=True))
        for columns in permutations(range(len(scores[0])), len(scores))
    )


def mean_max(a: list[Vector], b: list[Vector]) -> float:
    s = similarities(a, b)
    forward = sum(max(row) for row in s) / len(a)
    backward = sum(max(row[j] for row in s) for j in range(len(b))) / len(b)
    return (forward + backward) / 2


def paired(a: list[Vector], b: list[Vector], threshold: float = 0.7) -> float:
    return sum(max(row) > threshold for row in similarities(a, b)) / len(a)


def alive_ids(enc: list[Vector], dec: list[Vector]) -> list[int]:
    return [j for j in range(len(dec)) if cosine(enc[j], dec[j]) > 0.1]


def shared_pairs(
    dec_a: list[Vector],
    enc_a: list[Vector],
    dec_b: list[Vector],
    enc_b: list[Vector],
    ids_a: list[int],
    ids_b: list[int],
    threshold: float = 0.7,
) -> set[tuple[int, int]]:
    """Pairs of latent ids that decoder and encoder both match above the threshold."""
    matched = []
    for a, b in ((dec_a, dec_b), (enc_a, enc_b)):
        s = similarities([a[i] for i in ids_a], [b[j] for j in ids_b])
        matched.append(
            {
                (ids_a[i], ids_b[j])
                for i, j in best_assignment(s).items()
                if s[i][j] > threshold
            }
        )
    return matched[0] & matched[1]


def off_diagonal(rows: list[Vector]) -> list[float]:
    n = len(rows)
    return [cosine(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]


def mean_max_signed(rows: list[Vector]) -> float:
    n = len(rows)
    return (
        sum(max(cosine(rows[i], rows[j]) for j in range(n) if j != i) for i in range(n))
        / n
    )


def classes(shared_with: list[set[int]], n: int) -> tuple[set[int], set[int], set[int]]:
    """Always, sometimes and never shared latents, given those shared with each seed."""
    always, sometimes, never = set[int](), set[int](), set[int]()
    for latent in range(n):
        times = sum(latent in others for others in shared_with)
        if times == len(shared_with):
            always.add(latent)
        elif times:
            sometimes.add(latent)
        else:
            never.add(latent)
    return always, sometimes, never
