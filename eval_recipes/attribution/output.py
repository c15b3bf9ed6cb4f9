"""Result file and table of latents of the attribution evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)
from torch import Tensor

from eval_recipes.attribution.ablation import Ablated
from eval_recipes.attribution.cores import Cores
from eval_recipes.attribution.options import AttributionEvalConfig
from eval_recipes.attribution.table import EVAL, SCORES
from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.results.subject import Subject
from saereg_plugin.metrics.attribution import cumulative_shares, ranking

_CONTEXTS = "Contexts behind the figure"
_FIRE = "Latents that fire"
_SAMPLE = "Sampled latents"


@metric_class
class CoreMetrics(BaseMetrics):
    """Cores: smallest prefixes of the ranking; intervals: jackknife over halves of contexts."""

    core_50 = metric(
        "Core at 50 %",
        "Latents of the smallest prefix of the ranking with half of the total score",
        nullable=False,
        of=_CONTEXTS,
    )
    core_90 = metric(
        "Core at 90 %",
        "The same with 90 % of it (arXiv 2512.24975)",
        display=True,
        nullable=False,
        of=_CONTEXTS,
    )
    core_99 = metric(
        "Core at 99 %", "The same with 99 % of it", nullable=False, of=_CONTEXTS
    )
    scored = metric(
        "Scored Latents",
        "Latents with a score above 0",
        display=True,
        nullable=False,
        of=_CONTEXTS,
    )
    fired = metric(
        "Latents that Fire",
        "Latents that fire on the tokens read",
        nullable=False,
        of=_CONTEXTS,
    )
    carried_frequency = metric(
        "Carried by Frequent Latents",
        "Share of the total score of the most frequent latents, as many as the core at 90 % has",
        display=True,
        of=_CONTEXTS,
    )
    carried_contribution = metric(
        "Carried by Large Latents",
        "The same of the latents with the largest mean ||z d||^2",
        of=_CONTEXTS,
    )
    carried_random = metric(
        "Carried by Random Latents",
        "The same expected of as many random latents that fire",
        of=_CONTEXTS,
    )
    rho_frequency = metric(
        "Rank Correlation with Frequency",
        "Spearman, score against tokens on which a latent fires; bootstrap over latents",
        of=_FIRE,
    )
    rho_contribution = metric(
        "Rank Correlation with Contribution",
        "Spearman, score against mean ||z d||^2; bootstrap over latents",
        of=_FIRE,
    )


@metric_class
class OverlapMetrics(BaseMetrics):
    """Cores of other seeds at overlap_share, by matched partner; jackknife over halves of contexts."""

    overlap = metric(
        "Overlap of Cores",
        "Share of the core's latents whose partners are in the other seed's core",
        display=True,
        of=_CONTEXTS,
    )
    overlap_frequency = metric(
        "Overlap of Frequent Latents",
        "The same of the most frequent latents, as many as each core has",
        display=True,
        of=_CONTEXTS,
    )
    overlap_contribution = metric(
        "Overlap of Large Latents",
        "The same of the latents with the largest mean ||z d||^2",
        of=_CONTEXTS,
    )
    overlap_random = metric(
        "Overlap by Chance",
        "The same expected of as many random latents that fire",
        display=True,
        of=_CONTEXTS,
    )
    core_similarity = metric(
        "Similarity of the Core",
        "Mean |cosine| of the core's decoder rows and their partners'; bootstrap over latents",
        of="Latents of the core",
    )
    fired_similarity = metric(
        "Similarity of All",
        "The same of all latents that fire",
        of=_FIRE,
    )


@metric_class
class AblationMetrics(BaseMetrics):
    """Check by removal of sampled latents; intervals: bootstrap over them."""

    rho = metric(
        "Predicted against True",
        "Spearman of the first-order and the measured rise of the loss without a latent",
        display=True,
        of=_SAMPLE,
    )
    rho_chance = metric(
        "Predicted against True, by Chance",
        "95 % quantile of |Spearman| over permutations of the latents",
        of=_SAMPLE,
    )
    rho_score = metric(
        "Score against Size",
        "Spearman of the score and the size of the measured change, on all contexts",
        display=True,
        of=_SAMPLE,
    )
    rho_frequency = metric(
        "Frequency against Size", "The same of tokens on which it fires", of=_SAMPLE
    )
    rho_contribution = metric(
        "Contribution against Size", "The same of mean ||z d||^2", of=_SAMPLE
    )
    sparsity = metric(
        "Ablation Sparsity",
        "(L1 / L2)^2 / (V T) of the change of the logits (arXiv 2406.04093), mean over latents",
        display=True,
        of=_SAMPLE,
    )
    sparsity_random = metric(
        "Ablation Sparsity, Random",
        "The same of random directions of equal length, at the same tokens",
        of=_SAMPLE,
    )
    sparsity_excess = metric(
        "Ablation Sparsity above Random",
        "Ablation sparsity minus that of the random direction, paired by latent, mean over latents",
        of=_SAMPLE,
    )


@dataclass
class AttributionMetricCategories(BaseMetricCategories):
    """Categories of the metrics."""

    cores: CoreMetrics = value("Cores", "Sizes of cores, and other rankings")
    overlap: OverlapMetrics = value("Overlap", "Cores across seeds")
    ablation: AblationMetrics = value("Ablation", "Removal of single latents")


@dataclass
class PairDetail(BaseResultDetail):
    """This SAE and another seed of its group."""

    sae_id: str = value("SAE", "Id of the other SAE")
    seed: int | None = value("Seed", "Seed of the other SAE")
    overlap: float = value("Overlap", "Of the cores")
    overlap_frequency: float = value("Overlap of Frequent Latents", "Equal sizes")
    overlap_contribution: float = value("Overlap of Large Latents", "Equal sizes")
    overlap_random: float = value("Overlap by Chance", "Expected of random sets")


@dataclass(config=ConfigDict(title="Attribution"))
class AttributionEvalOutput(
    BaseEvalOutput[AttributionEvalConfig, AttributionMetricCategories, PairDetail]
):
    """Latents that the next-token loss depends on, and how many carry most of it."""

    eval_config: AttributionEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: AttributionMetricCategories
    eval_result_details: list[PairDetail] = value("Pairs", "One per other seed")
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL
    )


def latent_table(
    cores: Cores,
    ablated: Ablated | None,
    others: Tensor | None,
    subject: Subject,
    options: AttributionEvalConfig,
) -> Any:
    """
    Return the ``pyarrow.Table`` with a row per latent, the cumulative curve among it.

    Args:
        cores: scores.
        ablated: the sampled latents; None if none was removed.
        others: in how many other seeds' cores each partner is; None without other seeds.
        subject: the SAE.
        options: settings.
    """
    score = cores.values["score"]
    order = ranking(score).numpy()
    rank = np.zeros(len(score), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    cumulative = np.full(len(score), np.nan)
    cumulative[order] = cumulative_shares(score).numpy()
    columns: dict[str, Any] = {
        "latent": np.arange(len(score)),
        "fires": cores.values["frequency"].long().numpy(),
        "score": score.numpy(),
        "rank": rank,
        "cumulative_share": cumulative,
        "contribution": cores.values["contribution"].numpy(),
        "effect": cores.effect.numpy(),
        "core": cores.members["score"].numpy(),
        "other_cores": [None] * len(score) if others is None else others.numpy(),
        "ablation_contexts": np.zeros(len(score), dtype=np.int64),
    }
    of_sample = {
        "predicted_rise": "predicted",
        "true_rise": "true",
        "sparsity": "sparsity",
        "sparsity_random": "sparsity_random",
    }
    for column, name in of_sample.items():
        columns[column] = _scattered(ablated, name, len(score))
    if ablated is not None:
        columns["ablation_contexts"][ablated.latents.numpy()] = ablated.contexts
    return SCORES.of(
        columns,
        subject,
        tokens=cores.rows,
        quantile=options.quantile,
        over=options.over,
        at=options.at,
    )


def _scattered(ablated: Ablated | None, name: str, n: int) -> NDArray[np.float64]:
    """Return what was measured of the sampled latents, NaN of the others."""
    found = torch.full((n,), torch.nan, dtype=torch.float64)
    if ablated is not None:
        found[ablated.latents] = getattr(ablated, name)
    return found.numpy()
