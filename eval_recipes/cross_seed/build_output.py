"""Result objects of SAEs, from the measurements."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval_recipes.cross_seed.aggregate import Figures, oriented, pair_figures
from eval_recipes.cross_seed.groups import (
    group_differences,
    group_figures,
    over_latents,
)
from eval_recipes.cross_seed.measure import (
    Baseline,
    Group,
    Measured,
    headline_overlaps,
    headline_rank,
)
from eval_recipes.cross_seed.metrics import (
    PAIR_METRICS,
    FiringMetrics,
    HeldOutMetrics,
    LossMetrics,
    ReconstructionMetrics,
    SharedMetrics,
    SimilarityMetrics,
    SpanMetrics,
    StabilityMetrics,
)
from eval_recipes.cross_seed.nulls import Curve, PairNulls, subspace_figures
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.output import (
    BaselineMetrics,
    CrossSeedEvalOutput,
    CrossSeedMetricCategories,
    CrossSeedPair,
    GeometryMetrics,
    GroupMetrics,
    MatchingGaps,
    SubspaceCategory,
    UnstableOverlap,
)
from eval_recipes.cross_seed.pairs import Match
from eval_recipes.cross_seed.roles import role_of
from eval_recipes.cross_seed.stable_loss import loss_names
from eval_recipes.results.files import unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.statistics.seeds import Interval
from saereg_plugin.metrics import expected_abs_cosine, overlap_ranks, random_overlap

SHARES = (
    "explained_variance_stable",
    "explained_variance_unstable",
    "variance_share_stable",
    "contribution_share_stable",
    "firing_share_stable",
    "stable_latents",
)
_OF_GROUPS = (
    *SHARES,
    *(n for n in loss_names() if n.startswith(("ce_", "kl_"))),
)
_SUBSPACES_MOVE = "the subspaces of resampled latents are other subspaces"


@dataclass(frozen=True)
class GroupReport:
    """Contents that the results of all SAEs of a group share."""

    metrics: GroupMetrics
    figures: Figures
    extra: dict[str, Any]


def report_group(
    measured: Measured, name: str, config: CrossSeedEvalConfig
) -> GroupReport:
    """Return the figures of a group, its pairs, and its differences from the others."""
    group = measured.groups[name]
    figures = dict.fromkeys(_OF_GROUPS) | group_figures(group.compared)
    return GroupReport(
        metrics=GroupMetrics(**flat(figures), n_seeds=len(group.saes)),
        figures=figures,
        extra={
            "seeds": sorted(group.saes),
            "group_pairs": group_pairs(group),
            "group_over_latents": flat(
                {m: over_latents(group.pairs, m, config) for m in PAIR_METRICS}
            ),
            "group_differences": [
                row
                for other, their in measured.groups.items()
                if other != name
                for row in group_differences(
                    group.compared, their.compared, other_group=other, config=config
                )
            ],
        },
    )


def build_output(
    measured: Measured,
    name: str,
    seed: int,
    config: CrossSeedEvalConfig,
    report: GroupReport,
    table: StoredTable,
) -> CrossSeedEvalOutput:
    """
    Return the result of the SAE with ``seed`` in group ``name``.

    ``report`` holds what its group shares, ``table`` the stored stability of its latents.
    """
    group = measured.groups[name]
    sae = group.saes[seed]
    d_in = sae.shape[1]
    baseline = measured.baselines[sae.shape]
    similarity, shared = pair_figures(group.pairs, seed, config)
    chance = random_overlap(headline_rank(d_in), d_in)
    random = baseline.of(sae.weights, n_others=len(group.saes) - 1)
    figures: dict[str, Figures] = {
        "similarity": similarity,
        "shared": shared,
        "stability": dict(group.stability[seed]),
        "geometry": dict(group.geometry[seed]),
        "heldout": dict(group.heldout[seed]),
        "reconstruction": _shares(group.shares[seed]),
        "subspaces": subspace_figures(
            group.nulls, seed, _overlap(group, seed), d_in, headline_rank(d_in)
        ),
        "spans": dict(group.spans[seed]),
        "firing": dict(group.forms[seed]),
        "loss": dict.fromkeys(loss_names()) | dict(group.losses.get(seed, {})),
    }
    nulls = group.nulls
    metrics = CrossSeedMetricCategories(
        similarity=SimilarityMetrics(**flat(figures["similarity"])),
        shared=SharedMetrics(**flat(figures["shared"])),
        stability=StabilityMetrics(**flat(figures["stability"])),
        geometry=GeometryMetrics(**flat(figures["geometry"])),
        heldout=HeldOutMetrics(**flat(figures["heldout"])),
        reconstruction=ReconstructionMetrics(**flat(figures["reconstruction"])),
        subspaces=SubspaceCategory(
            **flat(figures["subspaces"]),
            matched_latents=nulls.number if nulls else None,
            matched_rank=nulls.rank if nulls else None,
        ),
        spans=SpanMetrics(**flat(figures["spans"])),
        firing=FiringMetrics(**flat(figures["firing"])),
        loss=LossMetrics(**flat(figures["loss"])),
        baseline=BaselineMetrics(
            **flat(random),
            expected_abs_cos=expected_abs_cosine(d_in),
            unstable_overlap_rank=headline_rank(d_in),
            unstable_overlap_random=chance.mean,
            unstable_overlap_random_std=chance.std,
        ),
        group=report.metrics,
    )
    cfg = sae.fields["sae_cfg_dict"] or {}
    return CrossSeedEvalOutput(
        **sae.fields,
        eval_config=config,
        eval_result_metrics=metrics,
        eval_result_details=pair_details(group, seed),
        eval_result_unstructured=unstructured(
            sae.subject,
            **report.extra,
            role=asdict(role_of(sae.subject, cfg)),
            without_interval=without_interval(
                {**figures, "baseline": random, "group": report.figures}
            ),
            stability_by_latent=group.latent_stability[seed].tolist(),
            stability_table=table.about,
            **sae_histograms(group, seed),
            baseline_histograms=baseline_histograms(baseline),
        ),
    )


def _shares(found: Figures) -> Figures:
    return {name: found.get(name) for name in SHARES}


def _overlap(group: Group, seed: int) -> Interval | None:
    """Return the mean overlap with the other seeds, None if one of them has none."""
    found = headline_overlaps(group.overlaps, group.saes[seed].shape[1])
    mine = [value for seeds, value in found.items() if seed in seeds]
    if len(mine) < len(group.saes) - 1:
        return None
    return Interval(sum(mine) / len(mine), None, None, len(mine), _SUBSPACES_MOVE)


def pair_details(group: Group, seed: int) -> list[CrossSeedPair]:
    """Return one object for each other seed, seen from this SAE."""
    details: list[CrossSeedPair] = []
    for other, pair, side in oriented(group.pairs, seed):
        both = [group.saes[seed], group.saes[other]]
        seeds = (min(seed, other), max(seed, other))
        figures: dict[str, Any] = flat(group.pair_intervals[seeds][side])
        gaps = {
            f"{name}{suffix}": value
            for suffix, given in (("", pair.gaps), ("_relative", pair.relative_gaps))
            for name, value in given.items()
        }
        details.append(
            CrossSeedPair(
                sae_ids=[sae.subject.sae_id for sae in both],
                seeds=[sae.seed for sae in both],
                alive_by_weights=[int(sae.weights.alive.sum()) for sae in both],
                **figures,
                matching_gaps=MatchingGaps(**gaps),
                unstable_overlap=_overlap_curve(
                    group.overlaps[seeds],
                    both[0].shape[1],
                    group.nulls.pairs[seeds] if group.nulls else None,
                ),
            )
        )
    return details


def _overlap_curve(
    overlap: list[float | None], d_in: int, nulls: PairNulls | None
) -> UnstableOverlap:
    ranks = overlap_ranks(d_in)
    given = nulls or PairNulls([], [], [])
    gaussian, spread = _over_draws(given.gaussian, len(ranks))
    chance = [random_overlap(r, d_in) for r in ranks]
    return UnstableOverlap(
        ranks=ranks,
        overlap=overlap,
        random=[found.mean for found in chance],
        random_std=[found.std for found in chance],
        gaussian=gaussian,
        gaussian_std=spread,
        stable_matched=_over_draws(given.stable, len(ranks))[0],
        unstable_matched=_over_draws(given.unstable, len(ranks))[0],
    )


def _over_draws(curves: list[Curve], n_ranks: int) -> tuple[Curve, Curve]:
    """Return mean and standard deviation of the draws by rank, None where one lacks the rank."""
    means: Curve = [None] * n_ranks
    spreads: Curve = [None] * n_ranks
    for rank in range(n_ranks):
        values = [curve[rank] for curve in curves]
        known = [value for value in values if value is not None]
        if known and len(known) == len(values):
            means[rank] = float(np.mean(known))
            spreads[rank] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return means, spreads


def group_pairs(group: Group) -> list[dict[str, Any]]:
    """Return every pair of the group from the side of the lower seed, with its figures."""
    return [
        {
            "seeds": list(seeds),
            **flat(figures),
            "unstable_overlap": group.overlaps[seeds],
            "unstable_overlap_gaussian": _over_draws(
                group.nulls.pairs[seeds].gaussian if group.nulls else [],
                len(group.overlaps[seeds]),
            )[0],
        }
        for seeds, (figures, _) in sorted(
            group.pair_intervals.items(), key=lambda item: item[0]
        )
    ]


BINS = 40


def sae_histograms(group: Group, seed: int) -> dict[str, Any]:
    """Return the histograms of one SAE; matched pairs are those with all other seeds."""
    matches = [pair.match[side] for _, pair, side in oriented(group.pairs, seed)]
    return {
        "encoder_decoder_cosine_histogram": _histogram(
            group.saes[seed].weights.cosines, -1.0
        ),
        "matched_similarity_histogram": _matched(matches),
    }


def baseline_histograms(baseline: Baseline) -> dict[str, Any]:
    """Return the same for two random SAEs of the same shape."""
    return {
        "encoder_decoder_cosine_histogram": _histogram(baseline.weights.cosines, -1.0),
        "matched_similarity_histogram": _matched([baseline.pair.match[0]]),
    }


def _matched(matches: list[Match]) -> dict[str, Any]:
    """Return |cosine| of latents and their partners, by decoder and by encoder."""
    histograms: dict[str, Any] = {}
    for name in ("decoder", "encoder"):
        found = [getattr(match, name) for match in matches]
        similarity = [each.similarity[each.partner >= 0] for each in found]
        histograms[name] = _histogram(torch.cat(similarity), 0.0)
    return histograms


def _histogram(values: Tensor, low: float) -> dict[str, Any]:
    """Return counts in equal bins on [low, 1]."""
    # Rounding may put a cosine just outside its range.
    counts = torch.histc(values.clamp(low, 1.0), BINS, low, 1.0)
    return {"low": low, "high": 1.0, "counts": [int(count) for count in counts]}
