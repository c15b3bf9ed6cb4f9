"""Examples of latents by plain loops over the whole matrix of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

MASK = (1 << 64) - 1


def draw(latent: int, token: int, seed: int) -> int:
    """A number below 2^32 by SplitMix64, in Python's integers."""

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) & MASK
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    mixed = mix((token + mix(seed)) & MASK)
    return mix(mixed ^ mix((latent + (1 << 40)) & MASK)) >> 32


def sixteenth(value: float) -> tuple[int, int]:
    """Power of two below a value, and the sixteenth of the way to the next."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1, int((2 * mantissa - 1) * 16)


def latent_row(
    latent: int,
    activations: np.ndarray[Any, Any],
    ids: np.ndarray[Any, Any],
    n_tokens: int,
    options: Any,
    text: Callable[[int], str],
) -> dict[str, Any]:
    """
    Everything but the logits of one latent.

    ``activations`` [contexts, tokens] are 0 at special tokens; ``ids`` are the tokens.
    """
    contexts, size = activations.shape
    places = [
        (context, position)
        for context in range(contexts)
        for position in range(size)
        if activations[context, position] > 0
    ]
    values = [float(activations[place]) for place in places]
    row: dict[str, Any] = {"latent": latent, "active": len(places)}
    row["density"] = len(places) / n_tokens
    row["mean_activation"] = math.fsum(values) / len(values) if values else None
    row["max_activation"] = max(values, default=None)
    row["histogram"] = linear_histogram(values)
    top: list[tuple[float, int, int]] = []
    for context in range(contexts):
        best = max(range(size), key=lambda p: (activations[context, p], -p))
        if activations[context, best] > 0:
            top.append((-float(activations[context, best]), context, best))
    shown = [("top", c, p) for _, c, p in sorted(top)[: options.top_examples]]
    drawn = sorted((draw(latent, c * size + p, options.random_seed), c, p) for c, p in places)
    bands: dict[int, list[tuple[float, int, int]]] = {b: [] for b in range(options.bands)}
    for _, c, p in drawn[: options.drawn]:
        if ("top", c, p) in shown:
            continue
        value = float(activations[c, p])
        below = sum(sixteenth(v) < sixteenth(value) for v in values)
        same = sum(sixteenth(v) == sixteenth(value) for v in values)
        quantile = (2 * below + same) * options.bands // (2 * len(values))
        band = bands[min(quantile, options.bands - 1)]
        if len(band) < options.band_examples:
            band.append((-value, c, p))
    for band in reversed(range(options.bands)):
        low, high = (round(100 * b / options.bands) for b in (band, band + 1))
        shown += [(f"{low}-{high} %", c, p) for _, c, p in sorted(bands[band])]
    row["examples"] = [
        example(name, c, p, activations, ids, options, text) for name, c, p in shown
    ]
    return row


def linear_histogram(values: list[float]) -> tuple[list[float], list[int]]:
    """Bins of equal width, a sixteenth of the power of two below the maximum."""
    if not values:
        return [], []
    width = 2.0 ** (sixteenth(max(values))[0] - 4)
    counts = [0] * (int(max(values) // width) + 1)
    for value in values:
        counts[int(value // width)] += 1
    return [width * edge for edge in range(len(counts) + 1)], counts


def example(
    band: str,
    context: int,
    position: int,
    activations: np.ndarray[Any, Any],
    ids: np.ndarray[Any, Any],
    options: Any,
    text: Callable[[int], str],
) -> dict[str, Any]:
    """One example with its text."""
    start = max(0, position - options.tokens_before)
    end = min(activations.shape[1], position + options.tokens_after + 1)
    return {
        "band": band,
        "activation": float(activations[context, position]),
        "peak": position - start,
        "tokens": [text(int(i)) for i in ids[context, start:end]],
        "values": [float(v) for v in activations[context, start:end]],
        "context": context,
        "position": position,
    }
