"""
Slow, independent versions of the cross-seed metrics: plain Python, another solver.

Vectors are lists of floats; nothing here comes from the package under test.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
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


def subspace_overlap(a: list[Vector], b: list[Vector], r: int) -> float:
    """||U_r' V_r||_F^2 / r from numpy's SVD of the blocks whose columns are the vectors."""
    u = np.linalg.svd(np.array(a, dtype=np.float64).T)[0][:, :r]
    v = np.linalg.svd(np.array(b, dtype=np.float64).T)[0][:, :r]
    return float(sum(np.dot(x, y) ** 2 for x in u.T for y in v.T)) / r


def reconstruction_shares(
    x: list[Vector], z: list[Vector], dec: list[Vector], b: Vector, stable: set[int]
) -> dict[str, float]:
    """Shares of the stable latents, token by token in plain numpy."""
    X, Z, D, B = (np.array(value, dtype=np.float64) for value in (x, z, dec, b))
    chosen = [j in stable for j in range(len(D))]
    part, rest = Z[:, chosen] @ D[chosen], Z @ D - Z[:, chosen] @ D[chosen]
    whole = part + rest + B
    total = ((X - X.mean(0)) ** 2).sum()
    centred = whole - whole.mean(0)
    squares = (Z**2) * (D**2).sum(1)
    return {
        "explained_variance_stable": 1 - ((X - B - part) ** 2).sum() / total,
        "explained_variance_unstable": 1 - ((X - B - rest) ** 2).sum() / total,
        "variance_share_stable": ((part - part.mean(0)) * centred).sum()
        / (centred**2).sum(),
        "contribution_share_stable": squares[:, chosen].sum() / squares.sum(),
        "firing_share_stable": (Z[:, chosen] != 0).sum() / (Z != 0).sum(),
    }


def span_share(row: Vector, partners: list[Vector]) -> float:
    """Share of a row's squared norm in the span of others, by numpy's least squares."""
    d, p = np.array(row, dtype=np.float64), np.array(partners, dtype=np.float64)
    weights = np.linalg.lstsq(p.T, d, rcond=1e-6)[0]
    return float(((p.T @ weights) ** 2).sum() / (d**2).sum())


def nearest(row: Vector, others: list[Vector], m: int) -> list[int]:
    """Ids of the m others with the largest |cosine| to a row, all of norm 1."""
    cosines = [abs(float(np.dot(row, other))) for other in others]
    return sorted(range(len(others)), key=lambda j: -cosines[j])[:m]


def gaussian_overlap(
    covariance: NDArray[np.float64], n: int, r: int, *, draws: int, seed: int
) -> list[float]:
    """Overlaps of pairs of n unit rows of N(0, covariance), numpy's own draws."""
    generator = np.random.default_rng(seed)
    zero = np.zeros(len(covariance))
    found: list[float] = []
    for _ in range(draws):
        rows = generator.multivariate_normal(zero, covariance, size=(2, n))
        rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
        found.append(subspace_overlap(rows[0].tolist(), rows[1].tolist(), r))
    return found


def nearest_span_of_mixtures(
    rows: list[Vector], partners: list[Vector], m: int, *, seed: int
) -> float:
    """
    Mean share of rows in the span of the m nearest of as many random mixtures of partners.

    The mixtures are turned rows Q D, Q orthogonal, so that their second moments are those of D.
    """
    generator = np.random.default_rng(seed)
    d = np.array(partners, dtype=np.float64)
    turn = np.linalg.qr(generator.standard_normal((len(d), len(d))))[0]
    mixed = turn @ d
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    others: list[Vector] = mixed.tolist()
    shares = [
        span_share(row, [others[j] for j in nearest(row, others, m)]) for row in rows
    ]
    return float(np.mean(shares))


def surface_form(z: list[float], tokens: list[int]) -> float | None:
    """Share of one latent's activation on the token on which it fires most often."""
    times: dict[int, int] = {}
    mass: dict[int, float] = {}
    for value, token in zip(z, tokens, strict=True):
        if value != 0:
            times[token] = times.get(token, 0) + 1
            mass[token] = mass.get(token, 0.0) + abs(value)
    if not times:
        return None
    form = max(times, key=lambda token: (times[token], mass[token]))
    return mass[form] / sum(mass.values())


def stability_tenths(
    stability: list[float], similarity: list[float], alive: list[bool]
) -> list[int]:
    """Tenth of each alive latent, ordered by stability and then by similarity; 0 for others."""
    ids = [i for i in range(len(alive)) if alive[i]]
    ids.sort(key=lambda i: (stability[i], similarity[i]))
    found = [0] * len(alive)
    for place, i in enumerate(ids):
        found[i] = place * 10 // len(ids) + 1
    return found
