"""Description length in plain Python: every row, every latent, one number at a time."""

from __future__ import annotations

import math
from collections import Counter

Rows = list[list[float]]


def entropy(counts: list[int]) -> float:
    """Entropy of frequencies in bits."""
    whole = sum(counts)
    return -math.fsum(n / whole * math.log2(n / whole) for n in counts if n)


def bin_of(z: float, width: float) -> int:
    """Bin of an activation that is not 0: the n with (n - 1) w < |z| <= n w, signed."""
    number = 1
    while number * width < abs(z):
        number += 1
    return number if z > 0 else -number


def quantised(z: float, width: float) -> float:
    """Middle of the bin; 0 for 0."""
    if z == 0:
        return 0.0
    return math.copysign((abs(bin_of(z, width)) - 0.5) * width, z)


def latent_bits(column: list[float], width: float) -> tuple[float, float]:
    """``H_b(p)`` and ``p H(bin | fired)`` of one latent's activations."""
    fired = [z for z in column if z != 0]
    if not fired:
        return 0.0, 0.0
    bins = Counter(bin_of(z, width) for z in fired)
    silent = len(column) - len(fired)
    share = len(fired) / len(column)
    return entropy([len(fired), silent]), share * entropy([*bins.values()])


def reconstruction(z: list[float], directions: Rows, factor: float) -> list[float]:
    """``f sum_j z_j d_j``."""
    d_in = len(directions[0])
    return [
        factor * math.fsum(a * row[i] for a, row in zip(z, directions, strict=True))
        for i in range(d_in)
    ]


def squared_error(x: Rows, z: Rows, directions: Rows, bias: list[float]) -> float:
    """Sum over rows of ``||x - b - sum_j z_j d_j||^2``."""
    return math.fsum(
        (value - offset - part) ** 2
        for row, codes in zip(x, z, strict=True)
        for value, offset, part in zip(
            row, bias, reconstruction(codes, directions, 1.0), strict=True
        )
    )


def without(z: Rows, latent: int) -> Rows:
    """Codes with one latent set to zero."""
    return [[0.0 if j == latent else v for j, v in enumerate(row)] for row in z]


def worth(error: float, error_without: float, d_in: int, rate: float | None) -> float:
    """Bits that a latent is worth, from the error with and without it."""
    if rate is None:
        return d_in / 2 * math.log2(error_without / error)
    return rate * 100 * (error_without / error - 1)


def crossed_bits(columns: Rows, widths: list[float], halves: list[int]) -> float:
    """Bits of all rows, each by the table of the other half with half a count added."""
    total = 0.0
    for column, width in zip(columns, widths, strict=True):
        numbers = [0 if z == 0 else bin_of(z, width) for z in column]
        bins = max(1, max(0, *numbers) + max(0, *[-n for n in numbers]))
        for half in (0, 1):
            table = [n for n, h in zip(numbers, halves, strict=True) if h != half]
            counts = Counter(table)
            fired = len(table) - counts[0]
            for n in (n for n, h in zip(numbers, halves, strict=True) if h == half):
                share = (fired + 0.5) / (len(table) + 1)
                if n == 0:
                    total -= math.log2(1 - share)
                else:
                    total -= math.log2(share)
                    total -= math.log2((counts[n] + 0.5) / (fired + bins / 2))
    return total


def error_of_mean(sums: list[float], rows: list[int]) -> float:
    """Standard error of a ratio of sums over contexts."""
    n, whole = len(sums), sum(rows)
    mean = math.fsum(sums) / whole
    squares = math.fsum((s - mean * r) ** 2 for s, r in zip(sums, rows, strict=True))
    return math.sqrt(n / (n - 1) * squares) / whole
