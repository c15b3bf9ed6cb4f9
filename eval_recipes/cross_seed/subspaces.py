"""Overlap of the subspaces that two seeds' unstable latents span."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from torch import Tensor

from eval_recipes.cross_seed.weights import Weights
from eval_recipes.statistics.seeds import SeedPair
from saereg_plugin.metrics import leading_directions, overlap_ranks, subspace_overlap


def unstable_overlaps(
    weights: Mapping[int, Weights], stable: Mapping[int, Tensor]
) -> dict[SeedPair, list[float | None]]:
    """
    Return the overlap of every pair's unstable subspaces, by ``overlap_ranks(d_in)``.

    Unstable are the latents that are alive by weights and not stable: the vectors of dead
    ones are what they were drawn as. Their unit decoder rows form the block, so that a
    long row counts no more than a short one. Each SAE is decomposed once for all pairs.

    Args:
        weights: the SAEs of a group by seed.
        stable: [d_sae] bool by seed.
    """
    blocks = {
        seed: leading_directions(sae.dec[sae.alive & ~stable[seed]])
        for seed, sae in weights.items()
    }
    return {
        (low, high): subspace_overlap(
            blocks[low], blocks[high], overlap_ranks(weights[low].dec.shape[1])
        )
        for low, high in combinations(sorted(weights), 2)
    }


def headline_rank(d_in: int) -> int:
    """
    Return the rank of the one overlap among the metrics: the largest power of 2 in d_in / 8.

    >>> headline_rank(576)
    64
    """
    eighth = max(1, d_in // 8)
    return 1 << (eighth.bit_length() - 1)


def headline_overlaps(
    overlaps: Mapping[SeedPair, list[float | None]], d_in: int
) -> dict[SeedPair, float]:
    """Return each pair's overlap at the headline rank, where it is defined."""
    index = overlap_ranks(d_in).index(headline_rank(d_in))
    found = {seeds: curve[index] for seeds, curve in overlaps.items()}
    return {seeds: value for seeds, value in found.items() if value is not None}
