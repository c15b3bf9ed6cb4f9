"""Figures of one SAE with intervals, from its pairs and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eval_recipes.cross_seed.metrics import PAIR_METRICS
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import (
    BY_ENCODER,
    SYMMETRIC,
    UNBOUNDED,
    PairFigures,
    Side,
    Weights,
)
from eval_recipes.statistics.seeds import Interval, SeedPair, bootstrap_mean_interval
from saereg_plugin.metrics import dead_count, row_geometry, share_classes

if TYPE_CHECKING:
    from eval_recipes.running.heldout import HeldOut

Figures = dict[str, Interval | None]
Pairs = Mapping[SeedPair, PairFigures]
"""The pairs of one group, by (lower seed, higher seed)."""


def oriented(pairs: Pairs, seed: int) -> list[tuple[int, PairFigures, Side]]:
    """Return (other seed, figures, this seed's side) of the pairs with ``seed``."""
    return [
        (high, pair, 0) if seed == low else (low, pair, 1)
        for (low, high), pair in sorted(pairs.items(), key=lambda item: item[0])
        if seed in (low, high)
    ]


def _bootstrap(
    arrays: Sequence[Tensor],
    config: CrossSeedEvalConfig,
    caps: Sequence[float] | None = None,
) -> Interval:
    found = bootstrap_mean_interval(
        [array.numpy() for array in arrays],
        caps=caps,
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )
    return found if caps is None else found.within_one()


def share_figure(mask: Tensor, config: CrossSeedEvalConfig) -> Interval:
    """Return the share of latents for which ``mask``, bool [n], holds."""
    return _bootstrap([mask], config, caps=[1.0])


def partners(pair: PairFigures, metric: str, side: Side) -> Tensor:
    """Return [n] partners of one side's latents, by the vectors that the metric compares."""
    match = pair.match[side]
    return (match.encoder if metric in BY_ENCODER else match.decoder).partner


def with_partners(pair: PairFigures, metric: str, side: Side) -> Tensor:
    """
    Return one value per latent of one side, [n], whose mean is the pair's figure.

    If the metric averages both sides, it is the mean of a latent's value and its partner's,
    in float64: these are nearly equal and must be resampled together.

    Raises:
        ValueError: if it averages both sides and their numbers of latents differ.
    """
    own, other = pair.values[metric][side], pair.values[metric][1 - side]
    if metric not in SYMMETRIC:
        return own
    if len(own) != len(other):
        raise ValueError(f"{len(own)} and {len(other)} latents: not all have partners")
    return (own.double() + other.double()[partners(pair, metric, side)]) / 2


def figures_of_pair(
    pair: PairFigures, side: Side, config: CrossSeedEvalConfig
) -> Figures:
    """
    Return every metric of one pair as seen from one side.

    The bootstrap resamples latents together with their partners.
    """
    return {metric: _figure([(pair, side)], metric, config) for metric in PAIR_METRICS}


def pair_figures(
    pairs: Pairs, seed: int, config: CrossSeedEvalConfig
) -> tuple[Figures, Figures]:
    """
    Return similarity and shared figures of one SAE, each a mean over the other seeds.

    Each bootstrap resample of its latents, with their partners, is used for all other seeds.
    """
    figures: Figures = {}
    for metric in PAIR_METRICS:
        sides: list[tuple[PairFigures, Side]] = [
            (pair, side)
            for _, pair, side in oriented(pairs, seed)
            if len(pair.values[metric][side])
        ]
        figures[metric] = _figure(sides, metric, config) if sides else None
    shared = {name: figures.pop(name) for name in ("shared", "shared_alive")}
    return figures, shared


def _figure(
    sides: Sequence[tuple[PairFigures, Side]], metric: str, config: CrossSeedEvalConfig
) -> Interval | None:
    """Return one metric of one SAE against others, resampled together."""
    values = [with_partners(pair, metric, side) for pair, side in sides]
    if not len(values[0]):
        return None
    cap = sum(pair.cap(metric, side) for pair, side in sides) / len(sides)
    caps = None if metric in UNBOUNDED else [cap]
    figure = _bootstrap([torch.stack(values).mean(dim=0)], config, caps=caps)
    if metric in SYMMETRIC:
        return figure._replace(value=_mean_of_sides(sides, metric))
    return figure


def _mean_of_sides(sides: Sequence[tuple[PairFigures, Side]], metric: str) -> float:
    """Return the figure from both sides, without rounding of the matched values."""
    own = torch.stack([pair.values[metric][side] for pair, side in sides]).mean(dim=0)
    others = [pair.values[metric][1 - side] for pair, side in sides]
    means = [float(values.double().numpy().mean()) for values in (own, *others)]
    return sum((0.5 / len(others) * mean for mean in means[1:]), 0.5 * means[0])


def shared_masks(pairs: Pairs, seed: int) -> tuple[Tensor, Tensor]:
    """
    Return bool masks [others, d_sae] of the latents shared with each other seed.

    The first is of all latents matched, the second of alive latents matched.
    """
    sides = oriented(pairs, seed)
    everything = [pair.match[side].shared for _, pair, side in sides]
    filtered = [pair.match_alive[side].shared for _, pair, side in sides]
    return torch.stack(everything), torch.stack(filtered)


def stability_figures(
    everything: Tensor, filtered: Tensor, alive: Tensor, config: CrossSeedEvalConfig
) -> Figures:
    """
    Return the shares of always, sometimes and never shared latents of one SAE.

    ``everything`` is bool [others, d_sae] with all latents matched, ``filtered`` the same without
    latents that are not ``alive``, bool [d_sae].
    """
    return {
        f"{name}_shared{suffix}": share_figure(mask, config) if len(mask) else None
        for suffix, shared in (("", everything), ("_alive", filtered[:, alive]))
        for name, mask in share_classes(shared)._asdict().items()
    }


def _exact(value: float, n: int) -> Interval:
    return Interval(value, None, None, n, "not a mean over latents")


def decoder_geometry(dec: Tensor, suffix: str, config: CrossSeedEvalConfig) -> Figures:
    """Return the cosines between unit decoder rows; None for fewer than two rows."""
    n = len(dec)
    geometry = row_geometry(dec, unit=True) if n > 1 else None
    if geometry is None:
        names = ("c_dec", "mean_cos_sim", "max_abs_cos")
        quantiles = ("median_abs_cos", "p90_abs_cos", "p99_abs_cos")
        return {f"{name}{suffix}": None for name in names + quantiles}
    # c_dec is a mean over pairs of latents, a U-statistic of order 2: one latent moves it
    # by twice its row's mean, so row means alone would halve the interval
    influence = 2 * geometry.row_mean_abs - geometry.mean_abs
    return {
        f"c_dec{suffix}": _bootstrap([influence], config),
        f"mean_cos_sim{suffix}": _bootstrap([geometry.row_max], config),
        f"max_abs_cos{suffix}": _exact(geometry.max_abs, n),
        f"median_abs_cos{suffix}": _exact(geometry.median_abs, n),
        f"p90_abs_cos{suffix}": _exact(geometry.p90_abs, n),
        f"p99_abs_cos{suffix}": _exact(geometry.p99_abs, n),
    }


def geometry_figures(weights: Weights, config: CrossSeedEvalConfig) -> Figures:
    """Return the geometry of one SAE."""
    n, dead = len(weights.alive), dead_count(weights.alive)
    everything = decoder_geometry(weights.dec, "", config)
    alive = (
        decoder_geometry(weights.dec[weights.alive], "_alive", config)
        if dead
        else {f"{name}_alive": figure for name, figure in everything.items()}
    )
    return {
        **everything,
        **alive,
        "encoder_decoder_cos": _bootstrap([weights.cosines], config),
        "decoder_norm": _bootstrap([weights.decoder_norms], config),
        "alive_by_weights": _exact(n - dead, n),
        "dead_by_weights": _exact(dead, n),
    }


def heldout_figures(heldout: HeldOut) -> Figures:
    """Return the held-out figures in the form of the others."""
    figures: Figures = {
        name: Interval(
            getattr(heldout, name),
            getattr(heldout, f"{name}_ci_low"),
            getattr(heldout, f"{name}_ci_high"),
            getattr(heldout, f"{name}_n"),
        )
        # there are no special tokens without text
        if getattr(heldout, name) is not None
        else None
        for name in ("explained_variance", "explained_variance_with_bos", "l0")
    }
    return {**figures, "alive": _exact(heldout.alive, heldout.n_tokens)}
