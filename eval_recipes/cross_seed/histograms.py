"""Counts of cosines in equal bins, so that plots need no weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eval_recipes.cross_seed.aggregate import oriented
from eval_recipes.cross_seed.baseline import Baseline
from eval_recipes.cross_seed.measure import Group
from eval_recipes.cross_seed.pairs import Match

BINS = 40


def cosine_histogram(cosines: Tensor) -> dict[str, Any]:
    """Return counts of signed cosines in equal bins on [-1, 1]."""
    return _histogram(cosines, -1.0)


def sae_histograms(group: Group, seed: int) -> dict[str, Any]:
    """Return the histograms of one SAE; matched pairs are those with all other seeds."""
    matches = [pair.match[side] for _, pair, side in oriented(group.pairs, seed)]
    return {
        "encoder_decoder_cosine_histogram": cosine_histogram(
            group.saes[seed].weights.cosines
        ),
        "matched_similarity_histogram": _matched(matches),
    }


def baseline_histograms(baseline: Baseline) -> dict[str, Any]:
    """Return the same for two random SAEs of the same shape."""
    return {
        "encoder_decoder_cosine_histogram": cosine_histogram(baseline.weights.cosines),
        "matched_similarity_histogram": _matched([baseline.pair.match[0]]),
    }


def _matched(matches: list[Match]) -> dict[str, Any]:
    """Return |cosine| of latents and their partners, by decoder and by encoder."""
    sides = {
        "decoder": [match.decoder for match in matches],
        "encoder": [match.encoder for match in matches],
    }
    return {
        name: _histogram(
            torch.cat([found.similarity[found.partner >= 0] for found in matchings]),
            0.0,
        )
        for name, matchings in sides.items()
    }


def _histogram(values: Tensor, low: float) -> dict[str, Any]:
    # Rounding may put a cosine just outside its range.
    counts = torch.histc(values.clamp(low, 1.0), BINS, low, 1.0)
    return {"low": low, "high": 1.0, "counts": [int(count) for count in counts]}
