"""Measures all pairs of all groups, and random dictionaries of the same shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.cross_seed.aggregate import (
    Figures,
    Pairs,
    figures_of_pair,
    geometry_figures,
    oriented,
    share_figure,
    stability_figures,
)
from eval_recipes.cross_seed.baseline import Baseline, measure_baseline, random_weights
from eval_recipes.cross_seed.groups import GroupFigures
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import PairFigures, measure_pair
from eval_recipes.cross_seed.weights import Loaded, Shape, Weights
from eval_recipes.statistics.seeds import SeedPair
from saereg_plugin.metrics import (
    latent_stability,
    leading_directions,
    overlap_ranks,
    stable_mask,
    subspace_overlap,
)


@dataclass(frozen=True)
class Group:
    """A measured group; everything by seed or by pair of seeds."""

    saes: Mapping[int, Loaded]
    pairs: Pairs
    stability: Mapping[int, Figures]
    geometry: Mapping[int, Figures]
    heldout: Mapping[int, Figures]
    pair_intervals: Mapping[SeedPair, tuple[Figures, Figures]]
    """Every pair's figures with intervals over latents, from either side."""
    latent_stability: Mapping[int, Tensor]
    """[d_sae] share of the other seeds in which each latent is shared."""
    stable: Mapping[int, Tensor]
    """[d_sae] bool: which latents are stable."""
    overlaps: Mapping[SeedPair, list[float | None]]
    """Overlap of the unstable subspaces by rank (``subspaces.overlap_ranks``)."""
    shares: Mapping[int, Figures]
    """Share of stable latents, and what they reconstruct where that was measured."""

    @property
    def compared(self) -> GroupFigures:
        """What groups are compared by."""
        dependent = {
            seed: {**self.stability[seed], **self.shares.get(seed, {})}
            for seed in self.saes
        }
        d_in = next(iter(self.saes.values())).shape[1]
        overlaps = headline_overlaps(self.overlaps, d_in)
        return GroupFigures(self.pairs, self.single, dependent, overlaps)

    @property
    def single(self) -> dict[int, Figures]:
        """Figures that describe one SAE alone."""
        return {seed: self.geometry[seed] | self.heldout[seed] for seed in self.saes}


@dataclass(frozen=True)
class Measured:
    """Everything a run measured."""

    groups: Mapping[str, Group]
    baselines: Mapping[Shape, Baseline]


def measure_groups(
    saes: Mapping[str, Mapping[int, Loaded]],
    heldout: Mapping[str, Figures],
    config: CrossSeedEvalConfig,
) -> Measured:
    """
    Measure groups of SAEs, and random SAEs of each shape, as many as a group has seeds.

    Args:
        saes: two or more SAEs of one shape by seed, by group.
        heldout: held-out figures by SAE id.
        config: settings of the run.
    """
    shapes = sorted({s.shape for by_seed in saes.values() for s in by_seed.values()})
    generator = torch.Generator().manual_seed(config.random_seed)
    random = [
        (
            random_weights(shape, generator, alive_threshold=config.alive_threshold),
            random_weights(shape, generator, alive_threshold=config.alive_threshold),
        )
        for shape in shapes
    ]
    keys = [
        (name, seeds)
        for name, by_seed in saes.items()
        for seeds in combinations(sorted(by_seed), 2)
    ]
    trained = [
        (saes[name][low].weights, saes[name][high].weights)
        for name, (low, high) in keys
    ]
    results = _measure_pairs(trained + random, config)
    pairs: dict[str, dict[SeedPair, PairFigures]] = {name: {} for name in saes}
    for (name, seeds), result in zip(keys, results, strict=False):
        pairs[name][seeds] = result
    shown = tqdm(
        zip(shapes, random, results[len(keys) :], strict=True),
        desc="cross-seed: random dictionaries",
        total=len(shapes),
    )
    baselines = {
        shape: measure_baseline(
            weights,
            pair,
            [by_seed for by_seed in saes.values() if _shape(by_seed) == shape],
            generator,
            config,
        )
        for shape, (weights, _), pair in shown
    }
    progress = tqdm(saes.items(), desc="cross-seed: intervals")
    return Measured(
        groups={
            name: _group(by_seed, pairs[name], heldout, config)
            for name, by_seed in progress
        },
        baselines=baselines,
    )


def _shape(saes: Mapping[int, Loaded]) -> Shape:
    return next(iter(saes.values())).shape


def _measure_pairs(
    jobs: Sequence[tuple[Weights, Weights]], config: CrossSeedEvalConfig
) -> list[PairFigures]:
    # The assignment solver lets go of the interpreter lock.
    with ThreadPoolExecutor(config.matching_threads) as pool:
        measured = pool.map(lambda job: measure_pair(job[0], job[1], config), jobs)
        progress = tqdm(measured, desc="cross-seed: pairs", total=len(jobs))
        return list(progress)


def _group(
    saes: Mapping[int, Loaded],
    pairs: Pairs,
    heldout: Mapping[str, Figures],
    config: CrossSeedEvalConfig,
) -> Group:
    stability = {
        seed: latent_stability(
            torch.stack(
                [pair.match[side].shared for _, pair, side in oriented(pairs, seed)]
            )
        )
        for seed in saes
    }
    stable = {
        seed: stable_mask(found, minimum=config.stable_minimum)
        for seed, found in stability.items()
    }
    return Group(
        saes=saes,
        pairs=pairs,
        stability={
            seed: stability_figures(pairs, seed, sae.weights.alive, config)
            for seed, sae in saes.items()
        },
        geometry={
            seed: geometry_figures(sae.weights, config) for seed, sae in saes.items()
        },
        heldout={seed: heldout[sae.subject.sae_id] for seed, sae in saes.items()},
        pair_intervals={
            seeds: (figures_of_pair(pair, 0, config), figures_of_pair(pair, 1, config))
            for seeds, pair in pairs.items()
        },
        latent_stability=stability,
        stable=stable,
        overlaps=unstable_overlaps(
            {seed: sae.weights for seed, sae in saes.items()}, stable
        ),
        shares={
            seed: {"stable_latents": share_figure(mask, config)}
            for seed, mask in stable.items()
        },
    )


def with_shares(measured: Measured, shares: Mapping[str, Figures]) -> Measured:
    """Return the same with reconstruction shares, given by SAE id."""
    groups = {
        name: replace(
            group,
            shares={
                seed: {**found, **shares.get(group.saes[seed].subject.sae_id, {})}
                for seed, found in group.shares.items()
            },
        )
        for name, group in measured.groups.items()
    }
    return replace(measured, groups=groups)


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
