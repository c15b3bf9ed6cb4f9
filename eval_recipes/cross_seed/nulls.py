"""Nulls of unstable subspaces, and spans of another seed's latents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor

from eval_recipes.cross_seed.aggregate import Figures
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import Weights
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import SeedPair, bootstrap_mean_interval
from saereg_plugin.metrics import (
    LeadingDirections,
    gaussian_rows,
    leading_directions,
    mixed_rows,
    nearest_rows,
    overlap_ranks,
    principal_directions,
    span_shares,
    subspace_overlap,
)

Curve = list[float | None]
"""An overlap by rank."""

SPAN_SIZES = (1, 2, 4, 8)
"""Partners whose span a latent is projected on."""

KINDS = ("nearest", "random", "gaussian", "moments")
"""
Partners: the nearest unstable latents, random ones, the nearest of Gaussian rows: of rows with
the covariance of the activations, and of mixtures of the partners with their second moments.
"""

CHANCES = {"_chance": "gaussian", "_chance_moments": "moments"}
"""Kinds of partner that say what latents of each sort there are by chance."""

BASIS = ("single", "rotated", "apart")
"""Latents that one partner nearly equals; that only several partners span; neither."""


@dataclass(frozen=True)
class PairNulls:
    """Overlaps by rank that one pair of seeds is compared with; a list holds one a draw."""

    gaussian: list[Curve]
    """Of as many rows drawn from N(0, Sigma_x) as either SAE has unstable latents."""
    stable: list[Curve]
    """Of ``GroupNulls.number`` random stable latents of either SAE."""
    unstable: list[Curve]
    """Of as many random unstable latents."""


@dataclass(frozen=True)
class SaeNulls:
    """What one SAE is compared with."""

    pca: Curve
    """Overlap of its unstable subspace with the activations' principal directions."""
    gaussian_pca: list[Curve]
    """The same of rows drawn from N(0, Sigma_x), one a draw."""
    spans: Mapping[str, Tensor]
    """By kind of partner: [others, d_sae, sizes] shares of each unstable latent, else NaN."""


@dataclass(frozen=True)
class GroupNulls:
    """Nulls of a group of SAEs."""

    pairs: Mapping[SeedPair, PairNulls]
    saes: Mapping[int, SaeNulls]
    number: int
    """Stable or unstable latents in blocks of equal number."""
    rank: int
    """Rank at which blocks of equal number are compared; 0 without any."""


def measure_nulls(
    weights: Mapping[int, Weights],
    stable: Mapping[int, Tensor],
    covariances: Mapping[int, Tensor | None],
    *,
    headline: int,
    config: CrossSeedEvalConfig,
) -> GroupNulls:
    """
    Measure the nulls of one group; all maps are by seed.

    Args:
        weights: of the SAEs.
        stable: bool [d_sae].
        covariances: of the activations that each SAE reads, [d_in, d_in]; None if they were
            not measured, and figures that need them are then missing.
        headline: rank of the one overlap among the metrics.
        config: settings: number of draws, and seed.
    """
    generator = torch.Generator().manual_seed(config.random_seed)
    blocks = {
        s: _Blocks(
            own.dec,
            (own.alive & ~stable[s]).nonzero().flatten(),
            (own.alive & stable[s]).nonzero().flatten(),
            None if (found := covariances[s]) is None else principal_directions(found),
        )
        for s, own in sorted(weights.items())
    }
    number = min(min(len(b.unstable), len(b.stable)) for b in blocks.values())
    draws = {
        s: _Draws(
            gaussian=[block.gaussian(generator) for _ in range(config.null_draws)],
            stable=[
                block.some(block.stable, number, generator)
                for _ in range(config.null_draws)
            ],
            unstable=[
                block.some(block.unstable, number, generator)
                for _ in range(config.null_draws)
            ],
        )
        for s, block in blocks.items()
    }
    pairs = {
        (low, high): PairNulls(
            gaussian=_curves(draws[low].gaussian, draws[high].gaussian),
            stable=_curves(draws[low].stable, draws[high].stable),
            unstable=_curves(draws[low].unstable, draws[high].unstable),
        )
        for low, high in combinations(blocks, 2)
    }
    # of its own, so that the other draws do not depend on it
    of_moments = torch.Generator().manual_seed(config.random_seed)
    saes = {
        s: _sae_nulls(
            block,
            [other for t, other in blocks.items() if t != s],
            draws[s].gaussian,
            {kind: of_moments if kind == "moments" else generator for kind in KINDS},
        )
        for s, block in blocks.items()
    }
    return GroupNulls(pairs, saes, number, _rank(number, headline))


_Directions = Sequence[LeadingDirections | None]


class _Draws(NamedTuple):
    """Random blocks of one SAE, one a draw; None where there are no activations."""

    gaussian: _Directions
    stable: _Directions
    unstable: _Directions


@dataclass(frozen=True)
class _Blocks:
    """Decoder rows of one SAE, ids of its latents, and what the activations are like."""

    dec: Tensor
    unstable: Tensor
    stable: Tensor
    principal: LeadingDirections | None

    @property
    def rows(self) -> Tensor:
        """Decoder rows of the unstable latents."""
        return self.dec[self.unstable]

    def gaussian_rows(self, generator: torch.Generator) -> Tensor | None:
        """Draw as many rows of N(0, Sigma_x); None without activations that vary."""
        if self.principal is None or not self.principal.rank:
            return None
        return gaussian_rows(self.principal, len(self.unstable), generator)

    @cached_property
    def leading(self) -> LeadingDirections:
        """Directions of the unstable latents."""
        return leading_directions(self.rows)

    def mixed_rows(self, generator: torch.Generator) -> Tensor:
        """Draw as many rows with the second moments of the unstable rows, mixtures of these."""
        return mixed_rows(self.leading, len(self.unstable), generator)

    def gaussian(self, generator: torch.Generator) -> LeadingDirections | None:
        """Return the directions of such rows."""
        rows = self.gaussian_rows(generator)
        return None if rows is None else leading_directions(rows)

    def some(
        self, ids: Tensor, n: int, generator: torch.Generator
    ) -> LeadingDirections:
        """Return the directions of ``n`` of the latents ``ids``, drawn at random."""
        chosen = ids[torch.randperm(len(ids), generator=generator)[:n]]
        return leading_directions(self.dec[chosen])


def _sae_nulls(
    block: _Blocks,
    others: Sequence[_Blocks],
    gaussian: _Directions,
    generators: Mapping[str, torch.Generator],
) -> SaeNulls:
    """
    Compare one SAE with the activations, and its latents with those of the others.

    ``generators`` are by kind of partner.
    """
    ranks = overlap_ranks(block.dec.shape[1])
    return SaeNulls(
        pca=_curve(block.leading, block.principal, ranks),
        gaussian_pca=[_curve(drawn, block.principal, ranks) for drawn in gaussian],
        spans={
            kind: torch.stack([_spans(kind, block, o, generator) for o in others])
            for kind, generator in generators.items()
        },
    )


def _rank(number: int, headline: int) -> int:
    """Return the largest power of 2 up to ``number`` and ``headline``; 0 for none."""
    most = min(number, headline)
    return 1 << (most.bit_length() - 1) if most else 0


def _curves(a: _Directions, b: _Directions) -> list[Curve]:
    known = [block for block in (*a, *b) if block is not None]
    if not known:
        return []
    ranks = overlap_ranks(len(known[0].basis))
    return [_curve(one, other, ranks) for one, other in zip(a, b, strict=True)]


def _curve(
    a: LeadingDirections | None, b: LeadingDirections | None, ranks: list[int]
) -> Curve:
    """Return the overlap by rank; None where either block is missing or too small."""
    if a is None or b is None:
        return [None] * len(ranks)
    return subspace_overlap(a, b, ranks)


def _spans(
    kind: str, block: _Blocks, other: _Blocks, generator: torch.Generator
) -> Tensor:
    """
    Return the share of unstable latents in the span of m partners, [d_sae, sizes].

    Sizes above the number of partners are NaN, as are latents that are not unstable.
    """
    ids = block.unstable
    shape = len(block.dec), len(SPAN_SIZES)
    shares = torch.full(shape, torch.nan, dtype=torch.float64)
    partners: Tensor | None = other.rows
    if kind == "gaussian":
        partners = other.gaussian_rows(generator)
    elif kind == "moments":
        partners = other.mixed_rows(generator)
    if partners is None:
        return shares
    sizes = [m for m in SPAN_SIZES if m <= len(partners)]
    if not sizes or not len(ids):
        return shares
    if kind == "random":
        chosen = _random_ids(len(ids), len(partners), sizes[-1], generator)
    else:
        chosen = nearest_rows(block.rows, partners, sizes[-1])
    shares[ids, : len(sizes)] = span_shares(block.rows, partners, chosen, sizes)
    return shares


def _random_ids(n: int, n_others: int, m: int, generator: torch.Generator) -> Tensor:
    """Draw ``m`` different ids of ``n_others`` for each of ``n`` rows, [n, m]."""
    step = max(1, (1 << 24) // n_others)
    sizes = [min(step, n - start) for start in range(0, n, step)]
    parts = [
        torch.rand(size, n_others, generator=generator).topk(m, 1).indices
        for size in sizes
    ]
    return torch.cat(parts)


def one_more_draw(draws: Sequence[float]) -> Interval:
    """
    Return the mean of independent draws, and where one more lies with 95 % probability.

    mean -+ t s sqrt(1 + 1 / n), with Student's t of n - 1 degrees of freedom. None of the two
    ends for a single draw. ``n`` counts the draws.

    >>> [round(x, 3) for x in one_more_draw([0.1, 0.2, 0.3])[:3]]
    [0.2, -0.297, 0.697]
    """
    n, mean = len(draws), float(np.mean(draws))
    if n < 2:
        return Interval(mean, None, None, n, "one draw has no spread")
    spread = float(np.std(draws, ddof=1)) * math.sqrt(1 + 1 / n)
    reach = float(student_t.ppf(0.975, n - 1)) * spread
    return Interval(mean, mean - reach, mean + reach, n)


def mean_at(curves: Sequence[Sequence[Curve]], index: int) -> Interval | None:
    """
    Return one rank's overlap, averaged over pairs or SAEs draw by draw.

    ``curves`` holds for each pair a list of draws. None if a pair lacks the rank.
    """
    values = [[curve[index] for curve in draws] for draws in curves]
    numbers = [[value for value in draws if value is not None] for draws in values]
    complete = all(a and len(a) == len(b) for a, b in zip(numbers, values))
    if not numbers or not complete:
        return None
    return one_more_draw(np.mean(np.array(numbers), axis=0).tolist())


def pair_nulls(
    nulls: GroupNulls | None, overlaps: Mapping[SeedPair, float], index: int
) -> dict[str, dict[SeedPair, float]]:
    """
    Return each pair's mean null and what its overlap has above it, where both are defined.

    ``overlaps`` are the pairs' own at the rank with that ``index``.
    """
    pairs = {} if nulls is None else nulls.pairs
    found = {seeds: mean_at([pair.gaussian], index) for seeds, pair in pairs.items()}
    means = {seeds: figure.value for seeds, figure in found.items() if figure}
    return {
        "unstable_overlap_gaussian": means,
        "unstable_overlap_excess": {
            seeds: overlaps[seeds] - mean
            for seeds, mean in means.items()
            if seeds in overlaps
        },
    }


def subspace_figures(
    nulls: GroupNulls | None, seed: int, overlap: Interval | None, d_in: int, rank: int
) -> Figures:
    """
    Return the overlap of one SAE with the other seeds, and its nulls.

    Intervals of nulls are where one more draw lies; ``unstable_overlap_excess`` excludes 0 if
    the overlap is outside of that.

    Args:
        nulls: of its group; None if they were not measured.
        seed: of the SAE.
        overlap: mean over the other seeds at the headline rank.
        d_in: dimensions of the activations.
        rank: the headline rank.
    """
    figures: Figures = {
        "unstable_overlap": overlap,
        "unstable_overlap_gaussian": None,
        "unstable_overlap_excess": None,
        "unstable_overlap_pca": None,
        "gaussian_overlap_pca": None,
        "stable_overlap_matched": None,
        "unstable_overlap_matched": None,
    }
    if nulls is None:
        return figures
    ranks = overlap_ranks(d_in)
    index, own = ranks.index(rank), nulls.saes[seed]
    mine = [pair for seeds, pair in nulls.pairs.items() if seed in seeds]
    chance = mean_at([pair.gaussian for pair in mine], index)
    figures["unstable_overlap_gaussian"] = chance
    if overlap is not None and chance is not None:
        figures["unstable_overlap_excess"] = _minus(overlap.value, chance)
    pca = own.pca[index]
    if pca is not None:
        figures["unstable_overlap_pca"] = Interval(pca, None, None, 1, "one subspace")
    figures["gaussian_overlap_pca"] = mean_at([own.gaussian_pca], index)
    if nulls.rank in ranks:
        index = ranks.index(nulls.rank)
        for name in ("stable", "unstable"):
            curves = [getattr(pair, name) for pair in mine]
            figures[f"{name}_overlap_matched"] = mean_at(curves, index)
    return figures


def _minus(value: float, null: Interval) -> Interval:
    """Return a value minus a null, with the null's interval turned round."""
    low = None if null.high is None else value - null.high
    high = None if null.low is None else value - null.low
    return Interval(value - null.value, low, high, null.n, null.reason)


def span_figures(
    nulls: GroupNulls | None, seed: int, config: CrossSeedEvalConfig
) -> Figures:
    """
    Return mean shares in spans, and the shares of latents by what the spans say.

    With T the square of the shared threshold and R2(m) the share in the span of the m nearest:
    ``basis_single`` have R2(1) >= T, ``basis_rotated`` R2(1) < T <= R2(8), ``basis_apart``
    R2(8) < T. ``_chance`` is the same with the nearest of rows drawn from N(0, Sigma_x),
    ``_chance_moments`` of mixtures of the other seed's unstable latents.
    """
    names = [f"span_{kind}_{m}" for kind in KINDS for m in SPAN_SIZES]
    kinds = {"": "nearest"} | CHANCES
    basis = [f"basis_{name}{end}" for name in BASIS for end in kinds]
    figures: Figures = dict.fromkeys([*names, *basis])
    if nulls is None:
        return figures
    spans = nulls.saes[seed].spans
    for kind in KINDS:
        for column, m in enumerate(SPAN_SIZES):
            figures[f"span_{kind}_{m}"] = _mean(spans[kind][:, :, column], config)
    threshold = config.shared_threshold**2
    for end, kind in kinds.items():
        one, eight = spans[kind][:, :, 0], spans[kind][:, :, -1]
        single, inside = (one >= threshold).double(), (eight >= threshold).double()
        undefined = eight.isnan()
        shares = (single, (1 - single) * inside, 1 - inside)
        for name, values in zip(BASIS, shares, strict=True):
            figures[f"basis_{name}{end}"] = _mean(
                values.masked_fill(undefined, torch.nan), config
            )
    return figures


def _mean(values: Tensor, config: CrossSeedEvalConfig) -> Interval | None:
    """Return the mean of values [others, d_sae] over latents, those with NaN left out."""
    over_others = values.mean(0)
    known = over_others[~over_others.isnan()]
    if not len(known):
        return None
    return bootstrap_mean_interval(
        [known.numpy()],
        caps=[1.0],
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    ).within_one()
