"""Measures all pairs of all groups, and random dictionaries of the same shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import torch
from tqdm.auto import tqdm

from eval_recipes.cross_seed.aggregate import (
    Figures,
    Pairs,
    decoder_geometry,
    geometry_figures,
    pair_figures,
    stability_figures,
)
from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from eval_recipes.cross_seed.loading import Loaded, Shape
from eval_recipes.cross_seed.pairs import PairFigures, Weights, measure_pair
from eval_recipes.statistics import SeedPair


@dataclass(frozen=True)
class Group:
    """A measured group; everything by seed or by pair of seeds."""

    saes: Mapping[int, Loaded]
    pairs: Pairs
    stability: Mapping[int, Figures]
    geometry: Mapping[int, Figures]
    heldout: Mapping[int, Figures]

    @property
    def single(self) -> dict[int, Figures]:
        """Figures that describe one SAE alone."""
        return {seed: self.geometry[seed] | self.heldout[seed] for seed in self.saes}


@dataclass(frozen=True)
class Measured:
    """Everything a run measured."""

    groups: Mapping[str, Group]
    baselines: Mapping[Shape, Figures]


def random_weights(
    shape: Shape, generator: torch.Generator, *, alive_threshold: float
) -> Weights:
    """
    Draw a random SAE: decoder rows and encoder columns independent Gaussian vectors.

    Their directions are uniform, so for cosines they are random unit vectors.
    """
    d_sae, d_in = shape
    return Weights.of(
        torch.randn(d_in, d_sae, generator=generator),
        torch.randn(d_sae, d_in, generator=generator),
        alive_threshold=alive_threshold,
    )


def measure_groups(
    saes: Mapping[str, Mapping[int, Loaded]],
    heldout: Mapping[str, Figures],
    config: CrossSeedEvalConfig,
) -> Measured:
    """
    Measure groups of SAEs, and one pair of random SAEs for each shape.

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
    progress = tqdm(saes.items(), desc="cross-seed: intervals")
    return Measured(
        groups={
            name: _group(by_seed, pairs[name], heldout, config)
            for name, by_seed in progress
        },
        baselines={
            shape: _baseline(weights, pair, config)
            for shape, (weights, _), pair in zip(
                shapes, random, results[len(keys) :], strict=True
            )
        },
    )


def _measure_pairs(
    jobs: Sequence[tuple[Weights, Weights]], config: CrossSeedEvalConfig
) -> list[PairFigures]:
    # The assignment solver lets go of the interpreter lock.
    with ThreadPoolExecutor(config.matching_threads) as pool:
        measured = pool.map(lambda job: measure_pair(job[0], job[1], config), jobs)
        progress = tqdm(measured, desc="cross-seed: pairs", total=len(jobs))
        return list(progress)


def _baseline(
    random: Weights, pair: PairFigures, config: CrossSeedEvalConfig
) -> Figures:
    similarity, shared = pair_figures({(0, 1): pair}, 0, config)
    return {**similarity, **shared, **decoder_geometry(random.dec, "", config)}


def _group(
    saes: Mapping[int, Loaded],
    pairs: Pairs,
    heldout: Mapping[str, Figures],
    config: CrossSeedEvalConfig,
) -> Group:
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
    )
