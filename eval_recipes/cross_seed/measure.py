"""Measurement of all pairs of all groups, and of random SAEs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations

import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.cross_seed.aggregate import (
    Figures,
    Pairs,
    decoder_geometry,
    figures_of_pair,
    geometry_figures,
    oriented,
    pair_figures,
    share_figure,
    shared_masks,
    stability_figures,
)
from eval_recipes.cross_seed.firing import Firing, firing_figures, tenths
from eval_recipes.cross_seed.groups import GroupFigures
from eval_recipes.cross_seed.nulls import (
    GroupNulls,
    measure_nulls,
    pair_nulls,
    span_figures,
)
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import (
    Loaded,
    PairFigures,
    Shape,
    Weights,
    measure_pair,
)
from eval_recipes.statistics.seeds import SeedPair
from saereg_plugin.metrics import (
    latent_stability,
    leading_directions,
    mean_max_cos,
    overlap_ranks,
    stable_mask,
    subspace_overlap,
)


@dataclass(frozen=True)
class Baseline:
    """Random SAEs of one shape, measured as trained ones are."""

    figures: Figures
    """Of the first against the second, and of the first alone."""
    stability: Mapping[int, Figures]
    """Of the first against several others, by their number."""
    alive_geometry: Mapping[int, Figures]
    """Of as many decoder rows as an SAE has alive latents, by their number."""
    pair: PairFigures
    weights: Weights

    def of(self, weights: Weights, *, n_others: int) -> Figures:
        """Return the figures to compare with those of an SAE with ``n_others`` other seeds."""
        alive = self.alive_geometry[len(weights.alive_ids)]
        return {**self.figures, **self.stability[n_others], **alive}


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


def measure_baseline(
    random: Weights,
    pair: PairFigures,
    groups: Sequence[Mapping[int, Loaded]],
    generator: torch.Generator,
    config: CrossSeedEvalConfig,
) -> Baseline:
    """Return the figures of a random SAE to compare with those of ``groups``."""
    d_sae, d_in = random.dec.shape
    similarity, shared = pair_figures({(0, 1): pair}, 0, config)
    geometry = geometry_figures(random, config)
    # its number of alive rows and its norms are not those of a trained SAE
    of_alive = [name for name in geometry if name.endswith("_alive")]
    left_out = {*of_alive, "decoder_norm"}
    own = {name: geometry[name] for name in geometry if name not in left_out}

    def of_first(n: int) -> Figures:
        if n < d_sae:
            return decoder_geometry(random.dec[:n], "_alive", config)
        return {name: geometry[name.removesuffix("_alive")] for name in of_alive}

    n_others = sorted({len(saes) - 1 for saes in groups})
    n_alive = {len(sae.weights.alive_ids) for saes in groups for sae in saes.values()}
    masks = [(pair.match[0].shared, pair.match_alive[0].shared)]
    for _ in range(n_others[-1] - 1):
        other = random_weights(
            (d_sae, d_in), generator, alive_threshold=config.alive_threshold
        )
        masks.append(_shared_by_chance(random, other, config))
    return Baseline(
        figures={**similarity, **shared, **own},
        stability={
            n: _stability_by_chance(masks[:n], random.alive, config) for n in n_others
        },
        alive_geometry={n: of_first(n) for n in n_alive},
        pair=pair,
        weights=random,
    )


def _shared_by_chance(
    a: Weights, b: Weights, config: CrossSeedEvalConfig
) -> tuple[Tensor, Tensor]:
    """
    Return which latents of A are shared with B, with all and with alive latents matched.

    The matching is skipped if no latent has a |cosine| above the threshold by both decoder
    and encoder, as in nearly all random SAEs: then nothing is shared.
    """
    near = torch.ones(len(a.dec), dtype=torch.bool)
    for own, others in ((a.dec, b.dec), (a.enc, b.enc)):
        if near.any():
            near &= (
                mean_max_cos(own, others, unit=True).a_to_b > config.shared_threshold
            )
    if not near.any():
        return near, near
    pair = measure_pair(a, b, config)
    return pair.match[0].shared, pair.match_alive[0].shared


def _stability_by_chance(
    masks: Sequence[tuple[Tensor, Tensor]], alive: Tensor, config: CrossSeedEvalConfig
) -> Figures:
    """Return stability and stable latents, given those shared with each other SAE."""
    everything, filtered = (torch.stack(found) for found in zip(*masks, strict=True))
    stable = stable_mask(latent_stability(everything), minimum=config.stable_minimum)
    return {
        **stability_figures(everything, filtered, alive, config),
        "stable_latents": share_figure(stable, config),
    }


@dataclass(frozen=True)
class Group:
    """Measurements of a group, by seed or by pair of seeds."""

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
    firing: Mapping[int, Firing] = field(default_factory=dict[int, Firing])
    """What latents did on held-out inputs, where that was measured."""
    forms: Mapping[int, Figures] = field(default_factory=dict[int, Figures])
    """Firing and token forms against stability."""
    nulls: GroupNulls | None = None
    """What unstable subspaces and latents are compared with."""
    spans: Mapping[int, Figures] = field(default_factory=dict[int, Figures])
    """Shares of unstable latents in spans of the other seeds."""
    losses: Mapping[int, Figures] = field(default_factory=dict[int, Figures])
    """Loss of the language model by parts, where that was measured."""

    @property
    def d_in(self) -> int:
        """Dimensions of the activations."""
        return next(iter(self.saes.values())).shape[1]

    @property
    def compared(self) -> GroupFigures:
        """Figures by which groups are compared."""
        dependent = {
            seed: {
                **self.stability[seed],
                **self.shares.get(seed, {}),
                **_starting(self.spans.get(seed, {}), "basis_"),
                **self.forms.get(seed, {}),
                **_starting(self.losses.get(seed, {}), "ce_", "kl_"),
            }
            for seed in self.saes
        }
        overlaps = headline_overlaps(self.overlaps, self.d_in)
        index = overlap_ranks(self.d_in).index(headline_rank(self.d_in))
        compared = pair_nulls(self.nulls, overlaps, index)
        return GroupFigures(
            self.pairs,
            self.single,
            dependent,
            {"unstable_overlap": overlaps, **compared},
        )

    def tenths(self, seed: int) -> Tensor:
        """
        Return the tenth by stability of each latent of one SAE, int64 [d_sae]; see ``tenths``.

        Latents of equal stability are ordered by the smaller |cosine| of their decoder's and
        encoder's partner, mean over the other seeds.
        """
        matches = [pair.match[side] for _, pair, side in oriented(self.pairs, seed)]
        nearest = [
            torch.minimum(match.decoder.similarity, match.encoder.similarity)
            for match in matches
        ]
        alive = self.saes[seed].weights.alive
        similarity = torch.stack(nearest).double().mean(0)
        return tenths(self.latent_stability[seed], similarity, alive)

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

    ``saes`` holds two or more SAEs of one shape by seed, by group; ``heldout`` figures by SAE id.
    """
    shapes = sorted({s.shape for by_seed in saes.values() for s in by_seed.values()})
    generator = torch.Generator().manual_seed(config.random_seed)
    draw = partial(
        random_weights, generator=generator, alive_threshold=config.alive_threshold
    )
    random = [(draw(shape), draw(shape)) for shape in shapes]
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
    # the assignment solver releases the interpreter lock
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
    masks = {seed: shared_masks(pairs, seed) for seed in saes}
    stability = {seed: latent_stability(found) for seed, (found, _) in masks.items()}
    stable = {
        seed: stable_mask(found, minimum=config.stable_minimum)
        for seed, found in stability.items()
    }
    return Group(
        saes=saes,
        pairs=pairs,
        stability={
            seed: stability_figures(*masks[seed], sae.weights.alive, config)
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


def _starting(figures: Figures, *beginnings: str) -> Figures:
    """Return the figures whose names start with one of the beginnings."""
    return {n: figure for n, figure in figures.items() if n.startswith(beginnings)}


def with_nulls(
    measured: Measured, firing: Mapping[str, Firing], config: CrossSeedEvalConfig
) -> Measured:
    """
    Return the same with nulls, and firing against stability.

    ``firing`` is by SAE id; for SAEs without it, figures that need the activations are missing.
    """
    progress = tqdm(measured.groups.items(), desc="cross-seed: nulls")
    groups = {name: _with_nulls(group, firing, config) for name, group in progress}
    return replace(measured, groups=groups)


def _with_nulls(
    group: Group, firing: Mapping[str, Firing], config: CrossSeedEvalConfig
) -> Group:
    ids = {seed: sae.subject.sae_id for seed, sae in group.saes.items()}
    found = {seed: firing[ids[seed]] for seed in ids if ids[seed] in firing}
    nulls = measure_nulls(
        {seed: sae.weights for seed, sae in group.saes.items()},
        group.stable,
        {seed: found[seed].covariance if seed in found else None for seed in ids},
        headline=headline_rank(group.d_in),
        config=config,
    )
    forms = {
        seed: firing_figures(
            found.get(seed),
            group.latent_stability[seed],
            sae.weights.alive,
            group.stable[seed],
            config,
        )
        for seed, sae in group.saes.items()
    }
    spans = {seed: span_figures(nulls, seed, config) for seed in group.saes}
    return replace(group, firing=found, forms=forms, nulls=nulls, spans=spans)


def with_losses(measured: Measured, losses: Mapping[str, Figures]) -> Measured:
    """Return the same with losses of the language model, given by SAE id."""
    groups = {
        name: replace(
            group,
            losses={
                seed: losses[sae.subject.sae_id]
                for seed, sae in group.saes.items()
                if sae.subject.sae_id in losses
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

    A latent is unstable if it is alive by weights and not stable: dead latents keep their
    initial vectors. A block holds the unit decoder rows of the unstable latents. Each SAE is
    decomposed once for all pairs.

    ``weights`` and ``stable``, bool [d_sae], are by seed.
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
