"""Penalties on activations in plain Python, one number at a time."""

from __future__ import annotations

import math

Rows = list[list[float]]


def fires_in_batch(z: Rows) -> list[bool]:
    """Whether each latent is above 0 in at least one row."""
    return [any(row[j] > 0 for row in z) for j in range(len(z[0]))]


def off_support_l1(hidden_pre: Rows, z: Rows, mask: list[bool]) -> float:
    """``sum_i sum_j mu_j |relu(h_ij) - z_ij|``."""
    return sum(
        abs(max(h, 0.0) - kept)
        for pre, acts in zip(hidden_pre, z, strict=True)
        for h, kept, is_in in zip(pre, acts, mask, strict=True)
        if is_in
    )


def l1_l2_ratio(hidden_pre: Rows, mask: list[bool]) -> float:
    """``sum_i ||mu relu(h_i)||_1 / ||mu relu(h_i)||_2``, 0 for a row of zeros."""
    total = 0.0
    for pre in hidden_pre:
        acts = [max(h, 0.0) for h, is_in in zip(pre, mask, strict=True) if is_in]
        length = math.sqrt(math.fsum(a * a for a in acts))
        total += math.fsum(acts) / length if length > 0 else 0.0
    return total


def weighted_l1(z: Rows, rates: list[float], beta: float) -> float:
    """``mean_i sum_j (1 + beta f_j) |z_ij|``."""
    return sum(
        (1 + beta * rate) * abs(act)
        for row in z
        for act, rate in zip(row, rates, strict=True)
    ) / len(z)


def firing_rates(batches: list[Rows], decay: float) -> list[float]:
    """The running rates after all batches, from 0."""
    rates = [0.0] * len(batches[0][0])
    for z in batches:
        for j in range(len(rates)):
            fired = sum(row[j] > 0 for row in z) / len(z)
            rates[j] = decay * rates[j] + (1 - decay) * fired
    return rates


def squared_differences(z: Rows, length: int) -> tuple[float, int]:
    """The sum over neighbours of one sequence of ``length`` rows, and how many there are."""
    total, pairs = 0.0, 0
    for i in range(1, len(z)):
        if i // length == (i - 1) // length:
            total += sum((b - a) ** 2 for a, b in zip(z[i - 1], z[i], strict=True))
            pairs += 1
    return total, pairs


def adaptive_weights(
    errors: list[float], decay: float, sharpness: float, start: float
) -> list[tuple[float, float]]:
    """(alpha_t, beta_t) of each step."""
    beta, result = start, []
    for error in errors:
        beta = decay * beta + (1 - decay) * error
        result.append((1 / (1 + math.exp(-sharpness * (beta - error))), beta))
    return result
