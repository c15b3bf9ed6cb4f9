"""Greedy union of dictionaries in plain Python."""

from __future__ import annotations

from tests.oracles.cross_seed_oracle import Vector, cosine


def greedy_union(
    rows: list[list[Vector]], rates: list[list[float]], threshold: float
) -> tuple[list[int], list[int]]:
    """Cluster of each candidate, and the candidates that represent clusters in their order."""
    source = [s for s, part in enumerate(rows) for _ in part]
    flat = [row for part in rows for row in part]
    rate = [r for part in rates for r in part]
    n = len(flat)

    def near(i: int, j: int) -> bool:
        return i != j and cosine(flat[i], flat[j]) > threshold

    shared = [
        len({source[j] for j in range(n) if source[j] != source[i] and near(i, j)})
        for i in range(n)
    ]
    cluster = [-1] * n
    chosen: list[int] = []
    for i in sorted(range(n), key=lambda i: (-shared[i], -rate[i], i)):
        if cluster[i] >= 0:
            continue
        for j in range(n):
            if cluster[j] < 0 and (j == i or near(i, j)):
                cluster[j] = len(chosen)
        chosen.append(i)
    return cluster, chosen
