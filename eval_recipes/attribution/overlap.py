"""Overlap of cores across seeds, by matched partners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from eval_recipes.attribution.cores import RANKINGS, Cores, Figures, jackknife
from eval_recipes.attribution.options import AttributionEvalConfig
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.seeds import bootstrap_mean_interval
from saereg_plugin.metrics.matching import Matching, match_rows, seen_from_b

NAMES = ("overlap", "overlap_frequency", "overlap_contribution")
"""Figures by the ranking that makes the sets."""


@dataclass(frozen=True)
class Pair:
    """
    One SAE as seen from another of its group.

    Attributes:
        partner: latent of the other that each latent is matched to, int64 [d_sae].
        similarity: |cosine| of the two decoder rows, [d_sae].
        values: overlaps by name, and ``overlap_random``.
        halves: overlaps of random halves of the contexts, by name, float64 [halves].
    """

    partner: Tensor
    similarity: Tensor
    values: Mapping[str, float]
    halves: Mapping[str, Tensor]


def match_group(
    cores: Mapping[str, Cores],
    directions: Mapping[str, Tensor],
    options: AttributionEvalConfig,
) -> dict[str, dict[str, Pair]]:
    """
    Return each SAE of a group as seen from each other, by ``sae_id``.

    Args:
        cores: by ``sae_id``.
        directions: decoder rows [d_sae, d_in], by ``sae_id``.
        options: settings.
    """
    found: dict[str, dict[str, Pair]] = {sae_id: {} for sae_id in cores}
    for a, b in combinations(cores, 2):
        matching = match_rows(
            directions[a],
            directions[b],
            relative_gap=options.matching_relative_gap,
        )
        turned = seen_from_b(matching, n_b=len(directions[b]))
        found[a][b] = _pair(cores[a], cores[b], matching)
        found[b][a] = _pair(cores[b], cores[a], turned)
    return found


def _pair(own: Cores, other: Cores, matching: Matching) -> Pair:
    partner = matching.partner
    values = {
        name: float(overlap(own.members[of], other.members[of], partner))
        for name, of in zip(NAMES, RANKINGS, strict=True)
    }
    values["overlap_random"] = random_overlap(own, other, partner)
    halves: dict[str, Tensor] = {}
    # seeds read the same contexts, of which they are then given the same halves
    if own.n_contexts == other.n_contexts:
        for name, of in zip(NAMES, RANKINGS, strict=True):
            halves[name] = overlap(own.of_halves(of), other.of_halves(of), partner)
    return Pair(partner, matching.similarity, values, halves)


def overlap(own: Tensor, other: Tensor, partner: Tensor) -> Tensor:
    """
    Return the share of a set whose matched partners are in the other set, float64 [...].

    Args:
        own: bool [..., d_sae].
        other: bool [..., d_sae of the other].
        partner: matched latent of each, -1 for none, int64 [d_sae].

    >>> own, other = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    >>> float(overlap(own, other, torch.tensor([2, 0, 1])))
    0.5
    """
    there = other[..., partner.clamp(min=0)] & (partner >= 0)
    size = own.sum(-1).double()
    return (own & there).sum(-1) / torch.where(size > 0, size, torch.nan)


def random_overlap(own: Cores, other: Cores, partner: Tensor) -> float:
    """
    Return the expected overlap of sets drawn at random from the latents that fire.

    Sets of the sizes of the two cores: the share of the own latents that fire whose partners
    fire, times the other set's share of the latents that fire there.
    """
    both = float(overlap(own.fires, other.fires, partner))
    fires = int(other.fires.sum())
    return both * int(other.members["score"].sum()) / fires if fires else torch.nan


def overlap_figures(
    cores: Cores, pairs: Mapping[str, Pair], options: AttributionEvalConfig
) -> Figures:
    """
    Return the means over the other seeds; None without other seeds or without a core.

    Intervals: jackknife over halves of the contexts for overlaps, a bootstrap over latents
    for similarities.
    """
    names = (*NAMES, "overlap_random", "core_similarity", "fired_similarity")
    figures: Figures = dict.fromkeys(names)
    core = cores.members["score"]
    if not pairs or not bool(core.any()):
        return figures
    for name in names[:4]:
        values = torch.tensor([pair.values[name] for pair in pairs.values()])
        value = float(values.double().mean())
        if value != value:
            continue
        parts = [p.halves[name] for p in pairs.values() if name in p.halves]
        if len(parts) < len(pairs):
            reason = "expected, not drawn"
            if name != "overlap_random":
                reason = "the seeds read different contexts"
            figures[name] = Interval(value, None, None, cores.n_contexts, reason)
            continue
        mean = torch.stack(parts).mean(0).tolist()
        figures[name] = jackknife(value, mean, cores.blocks, cores.n_contexts, most=1)
    similarity = torch.stack([pair.similarity for pair in pairs.values()]).double()
    for name, mask in (("core_similarity", core), ("fired_similarity", cores.fires)):
        figures[name] = bootstrap_mean_interval(
            [similarity.mean(0)[mask].numpy()],
            n_resamples=options.n_resamples,
            seed=options.random_seed,
        )
    return figures


def other_cores(cores: Mapping[str, Cores], pairs: Mapping[str, Pair]) -> Tensor:
    """Return in the cores of how many other seeds each latent's partner is, int64 [d_sae]."""
    counts = [
        cores[sae_id].members["score"][pair.partner.clamp(min=0)] & (pair.partner >= 0)
        for sae_id, pair in pairs.items()
    ]
    return torch.stack(counts).sum(0)
