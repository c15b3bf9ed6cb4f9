"""Attribution in plain Python: every token, every latent, one number at a time."""

from __future__ import annotations

import math

Row = list[float]


def token_score(gradient: Row, direction: Row, z: float) -> float:
    """``|g . d / ||d||| z``; 0 for a direction of zeros."""
    norm = math.sqrt(math.fsum(d * d for d in direction))
    if norm == 0:
        return 0.0
    dot = math.fsum(g * d for g, d in zip(gradient, direction, strict=True))
    return abs(dot / norm) * z


def scores(gradient: list[Row], z: list[Row], directions: list[Row]) -> list[Row]:
    """Scores of every token and latent; 0 where a latent does not fire."""
    return [
        [token_score(g, directions[j], row[j]) for j in range(len(directions))]
        for g, row in zip(gradient, z, strict=True)
    ]


def quantile(values: Row, q: float) -> float:
    """Linear interpolation between the sorted values."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def smallest_core(total_of: Row, share: float) -> list[int]:
    """Adds the largest score until the share of the sum is reached."""
    whole = math.fsum(total_of)
    left = sorted(range(len(total_of)), key=lambda j: (-total_of[j], j))
    core: list[int] = []
    while left and math.fsum(total_of[j] for j in core) < share * whole - 1e-12 * whole:
        core.append(left.pop(0))
    return core


def overlap(own: list[int], other: list[int], partner: list[int]) -> float:
    """Share of the own latents whose partner is among the other's."""
    return sum(partner[j] in other for j in own) / len(own)
