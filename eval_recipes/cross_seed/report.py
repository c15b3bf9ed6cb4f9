"""Turns what was measured into one result object a SAE."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eval_recipes.cross_seed.aggregate import oriented, pair_figures
from eval_recipes.cross_seed.config import CrossSeedEvalConfig
from eval_recipes.cross_seed.fields import flat
from eval_recipes.cross_seed.groups import group_differences, group_figures
from eval_recipes.cross_seed.measure import Group, Measured
from eval_recipes.cross_seed.output import (
    BaselineMetrics,
    CrossSeedEvalOutput,
    CrossSeedMetricCategories,
    CrossSeedPair,
    GeometryMetrics,
    GroupMetrics,
)
from eval_recipes.cross_seed.output_pairs import (
    SharedMetrics,
    SimilarityMetrics,
    StabilityMetrics,
)
from eval_recipes.cross_seed.output_sae import HeldOutMetrics
from eval_recipes.cross_seed.pairs import PAIR_METRICS
from eval_recipes.results import unstructured
from saereg_plugin.metrics import (
    encoder_decoder_cosines,
    expected_abs_cosine,
    latent_stability,
)

COSINE_BINS = 40


def build_output(
    measured: Measured, name: str, seed: int, config: CrossSeedEvalConfig
) -> CrossSeedEvalOutput:
    """Return the result of the SAE with ``seed`` in group ``name``."""
    group = measured.groups[name]
    sae = group.saes[seed]
    similarity, shared = pair_figures(group.pairs, seed, config)
    metrics = CrossSeedMetricCategories(
        similarity=SimilarityMetrics(**flat(similarity)),
        shared=SharedMetrics(**flat(shared)),
        stability=StabilityMetrics(**flat(group.stability[seed])),
        geometry=GeometryMetrics(**flat(group.geometry[seed])),
        heldout=HeldOutMetrics(**flat(group.heldout[seed])),
        baseline=BaselineMetrics(
            **flat(measured.baselines[sae.shape]),
            expected_abs_cos=expected_abs_cosine(sae.shape[1]),
        ),
        group=GroupMetrics(
            **flat(group_figures(group.pairs, group.stability, group.single)),
            n_seeds=len(group.saes),
        ),
    )
    return CrossSeedEvalOutput(
        **sae.fields,
        eval_config=config,
        eval_result_metrics=metrics,
        eval_result_details=pair_details(group, seed),
        eval_result_unstructured=unstructured(
            sae.subject,
            seeds=sorted(group.saes),
            group_differences=differences(measured, name),
            stability_by_latent=latent_stability(shared_masks(group, seed)).tolist(),
            encoder_decoder_cosine_histogram=cosine_histogram(
                encoder_decoder_cosines(sae.weights.enc, sae.weights.dec)
            ),
        ),
    )


def shared_masks(group: Group, seed: int) -> Tensor:
    """[n_others, d_sae] which latents of this SAE are shared with each other seed."""
    return torch.stack(
        [pair.shared[side] for _, pair, side in oriented(group.pairs, seed)]
    )


def pair_details(group: Group, seed: int) -> list[CrossSeedPair]:
    """Return one object for each other seed, seen from this SAE."""
    details: list[CrossSeedPair] = []
    for other, pair, side in oriented(group.pairs, seed):
        both = [group.saes[seed], group.saes[other]]
        figures: dict[str, Any] = {m: pair.figure(m, side) for m in PAIR_METRICS}
        details.append(
            CrossSeedPair(
                sae_ids=[sae.subject.sae_id for sae in both],
                seeds=[sae.seed for sae in both],
                alive_by_weights=[int(sae.weights.alive.sum()) for sae in both],
                **figures,
            )
        )
    return details


def differences(measured: Measured, name: str) -> list[dict[str, Any]]:
    """Return this group minus every other, metric by metric."""
    this = measured.groups[name]
    return [
        row
        for other_name, other in measured.groups.items()
        if other_name != name
        for row in group_differences(
            (this.pairs, this.single),
            (other.pairs, other.single),
            other_group=other_name,
            stability=(this.stability, other.stability),
        )
    ]


def cosine_histogram(cosines: Tensor) -> dict[str, Any]:
    """Return counts of cosines in equal bins on [-1, 1]."""
    counts = torch.histc(cosines, COSINE_BINS, -1.0, 1.0)
    return {"low": -1.0, "high": 1.0, "counts": [int(count) for count in counts]}
