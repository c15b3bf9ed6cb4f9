"""Similarity of two SAEs on MNIST, trained or untrained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from eval_recipes.cross_seed.aggregate import figures_of_pair
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.pairs import Match, PairFigures
from eval_recipes.cross_seed.pairs import Weights as Directions
from eval_recipes.cross_seed.pairs import measure_pair as measure_cross_seed
from eval_recipes.statistics.seeds import Interval, SeedPair, bootstrap_mean_interval
from eval_recipes.studies.mnist.autoencoder import Weights, initial_weights
from eval_recipes.studies.mnist.finished import Finished
from eval_recipes.studies.mnist.settings import PIXELS, Setting, Training
from saereg_plugin.metrics import PAIRED_THRESHOLD, SHARED_THRESHOLD

COLUMNS = ("mean_max_cos", "paired", "shared", "shared_alive")
"""Columns of the paper's table."""

EXTRA_COLUMNS = ("mean_max_cos_decoder", "mean_max_cos_encoder", "paired_encoder")
"""Parts of the first two columns, and the paired share by the encoder."""

LARGER_FIRST = "shared_alive_larger_first"

_PUBLISHED_EPS = 1e-8
"""Added to a vector's norm by the public notebook before division."""

_METRICS = {
    "mean_max_cos": "mean_max_cos",
    "paired": "fraction_paired",
    "shared": "shared",
    "mean_max_cos_decoder": "mean_max_cos_decoder",
    "mean_max_cos_encoder": "mean_max_cos_encoder",
}
"""Columns by their names in the cross-seed evaluation."""


@dataclass(frozen=True)
class Pair:
    """Two SAEs, matched once."""

    figures: dict[str, Interval]
    """Figures by column with 95 % intervals over latents; ``shared_alive`` if any is alive."""
    as_published: dict[str, float]
    """
    By column, as the public notebook computes it: 1e-8 added to norms, so that a vanishing
    vector is like nothing, and ``shared_alive`` ``by_position``; that only if any is alive.
    ``LARGER_FIRST`` is the same with the SAE first that has more alive latents.
    """
    match: Match
    """All latents matched, by the ids of the first SAE."""
    gaps: Mapping[str, float]
    """Certified bound on each matching's distance from the optimal total similarity."""


def measure_pair(
    a: Weights, b: Weights, *, seed: int = 0, n_resamples: int = 1000
) -> Pair:
    """
    Return the figures of SAEs A and B, as the ``cross_seed`` evaluation defines them.

    Mean max cosine averages decoder and encoder and both directions; paired is by the
    decoder, of A's latents. Intervals resample latents with their partners.
    """
    config = CrossSeedEvalConfig(n_resamples=n_resamples, random_seed=seed)
    found = measure_cross_seed(_directions(a, config), _directions(b, config), config)

    def interval(values: Tensor) -> Interval:
        return bootstrap_mean_interval(
            [values.float().numpy()], caps=[1.0], n_resamples=n_resamples, seed=seed
        )

    everything = figures_of_pair(found, 0, config)
    named = {column: everything[metric] for column, metric in _METRICS.items()}
    figures = {name: figure for name, figure in named.items() if figure is not None}
    best_encoder = found.values["mean_max_cos_encoder"][0]
    figures["paired_encoder"] = interval(best_encoder > PAIRED_THRESHOLD)
    alive = _of_smaller(found)
    if len(alive):
        figures["shared_alive"] = interval(alive)
    return Pair(figures, _as_published(a, b, config), found.match[0], found.gaps)


def _directions(weights: Weights, config: CrossSeedEvalConfig) -> Directions:
    return Directions.of(
        weights.enc.T, weights.dec, alive_threshold=config.alive_threshold
    )


def _as_published(
    a: Weights, b: Weights, config: CrossSeedEvalConfig
) -> dict[str, float]:
    found = measure_cross_seed(
        _published_directions(a, config), _published_directions(b, config), config
    )
    columns = {
        "mean_max_cos": found.figure("mean_max_cos", 0),
        "paired": found.figure("fraction_paired", 0),
        "shared": found.figure("shared", 0),
    }
    alive = len(_of_smaller(found))
    if alive:
        own, other = found.values["shared_alive"]
        larger = found.match_alive[0 if len(own) >= len(other) else 1]
        columns["shared_alive"] = by_position(found.match_alive[0], alive)
        columns[LARGER_FIRST] = by_position(larger, alive)
    return {name: value for name, value in columns.items() if value is not None}


def _published_directions(weights: Weights, config: CrossSeedEvalConfig) -> Directions:
    enc, dec = (
        rows / (rows.norm(dim=1, keepdim=True) + _PUBLISHED_EPS)
        for rows in (weights.enc, weights.dec)
    )
    cosines = (enc * dec).sum(dim=1)
    norms = weights.dec.norm(dim=1)
    return Directions(enc, dec, norms, cosines, cosines > config.alive_threshold)


def _of_smaller(found: PairFigures) -> Tensor:
    """Return which alive latents are shared, of the SAE that has fewer of them."""
    own, other = found.values["shared_alive"]
    return own if len(own) <= len(other) else other


def by_position(
    match: Match, denominator: int, threshold: float = SHARED_THRESHOLD
) -> float:
    """
    Return the shared share as the published notebook has it: partners by list position.

    A rectangular solver lists only the rows it matched, and decoder and encoder can leave
    out different ones: the notebook then compares partners of different latents. It equals
    the true share whenever A has no more latents than B. Reported only to compare with
    the published column; 0 if nothing was matched.

    ``match`` is of the latents that took part, by the ids of A; ``denominator`` the smaller of their
    two numbers.
    """
    in_dec, in_enc = match.decoder.partner >= 0, match.encoder.partner >= 0
    same = match.decoder.partner[in_dec] == match.encoder.partner[in_enc]
    similar = (match.decoder.similarity[in_dec] > threshold) & (
        match.encoder.similarity[in_enc] > threshold
    )
    found = torch.count_nonzero(same & similar)
    return int(found) / denominator if denominator else 0.0


@dataclass(frozen=True)
class Group:
    """The finished SAEs of one setting, in the order of their seeds, and their pairs."""

    setting: Setting
    members: list[Finished]
    pairs: dict[SeedPair, Pair]


def group_runs(finished: Sequence[Finished]) -> list[Group]:
    """Match all pairs of seeds of every setting."""
    by_setting: dict[str, list[Finished]] = {}
    for one in finished:
        by_setting.setdefault(one.run.setting.name, []).append(one)
    groups: list[Group] = []
    for members in by_setting.values():
        members.sort(key=lambda one: one.run.seed)
        pairs = {
            (a.run.seed, b.run.seed): measure_pair(a.weights, b.weights)
            for a, b in combinations(members, 2)
        }
        groups.append(Group(members[0].run.setting, members, pairs))
    return groups


@dataclass(frozen=True)
class Baseline:
    """Untrained pairs of the shape that the trained ones have."""

    name: str
    label: str
    pairs: dict[SeedPair, Pair]


def random_weights(d_sae: int, *, seed: int) -> Weights:
    """Draw encoder and decoder rows [d_sae, 784] of uniform directions, independently."""
    generator = torch.Generator().manual_seed(seed)
    enc, dec = torch.randn(2, d_sae, PIXELS, generator=generator)
    return Weights(enc, dec)


def measure_baselines(
    settings: Sequence[Setting], pairs: Sequence[SeedPair], training: Training
) -> list[Baseline]:
    """
    Match random directions once, and starts of every kind in ``settings``.

    Args:
        settings: trained ones; only whether they start tied matters here.
        pairs: pairs of seeds that were trained.
        training: says the shape, and the bound of untied starts.
    """
    if not pairs:
        return []
    both = [random_weights(training.d_sae, seed=seed) for seed in (0, 1)]
    found = [Baseline("random", "random directions", {(0, 1): measure_pair(*both)})]
    by_start = {setting.tied: setting for setting in settings}
    for tied, setting in sorted(by_start.items()):
        starts = {
            seed: initial_weights(setting, training, seed=seed)
            for seed in sorted({seed for pair in pairs for seed in pair})
        }
        kind = "tied" if tied else "untied"
        measured = {(a, b): measure_pair(starts[a], starts[b]) for a, b in pairs}
        found.append(Baseline(f"{kind}-start", f"{kind}, before training", measured))
    return found
