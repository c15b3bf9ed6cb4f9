"""Result file and per-layer table of the vocabulary evaluation."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)
from sae_lens.util import extract_layer_from_tlens_hook_name
from torch import Tensor

from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.results.reading import read_result, result_files
from eval_recipes.results.tidy import saereg_block
from eval_recipes.statistics.seeds import (
    Interval,
    bootstrap_mean_interval,
    seed_interval,
)
from eval_recipes.vocabulary.options import EVAL, VocabularyEvalConfig
from saereg_plugin.files import atomic_path
from saereg_plugin.metrics import unit_rows
from saereg_plugin.metrics.similarity import (
    TokenAlignment,
    aligned_mask,
    covered_tokens,
    nearest_token,
)


@metric_class
class AlignmentMetrics(BaseMetrics):
    """Figures of one dictionary against one vocabulary."""

    aligned_fraction = metric(
        "Aligned Fraction",
        "Share of latents with max_j cos(dec_i, e_j) of at least the threshold (arXiv 2606.27941)",
        display=True,
        of="Latents behind the figure",
        nullable=False,
    )
    mean_max_cos = metric(
        "Mean Max Cosine",
        "Mean over latents of the largest signed cosine to an embedding",
        display=True,
        of="Latents behind the figure",
        nullable=False,
    )
    token_coverage = metric(
        "Token Coverage",
        "Share of the vocabulary's tokens that are the nearest one of an aligned latent; interval over tokens",
        display=True,
        of="Tokens behind the figure",
        nullable=False,
    )


@metric_class
class VocabularyMetrics(AlignmentMetrics):
    """Figures of the SAE."""

    aligned_fraction_alive = metric(
        "Aligned Fraction, Alive Latents",
        "The same share among latents that are alive by weights; null if none is",
        of="Alive latents behind the figure",
    )
    above_random = metric(
        "Above Random",
        "Aligned fraction minus that of the random dictionary; interval over the latents of both",
        display=True,
        of="Latents of each dictionary behind the figure",
        nullable=False,
    )


@dataclass
class VocabularyMetricCategories(BaseMetricCategories):
    """Categories of the metrics."""

    vocabulary: VocabularyMetrics = value(
        "Vocabulary Alignment",
        "Decoder rows against token embeddings; intervals: bootstrap over latents (coverage: over tokens)",
    )
    baseline: AlignmentMetrics = value(
        "Random Baseline",
        "The same figures for a dictionary of this shape in uniformly random directions",
    )


@dataclass(config=ConfigDict(title="Vocabulary Alignment"))
class VocabularyEvalOutput(
    BaseEvalOutput[VocabularyEvalConfig, VocabularyMetricCategories, BaseResultDetail]
):
    """
    How near decoder rows lie to the model's token embeddings (arXiv 2606.27941).
    """

    eval_config: VocabularyEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: VocabularyMetricCategories
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL
    )


def alignment_figures(
    alignment: TokenAlignment, n_tokens: int, config: VocabularyEvalConfig
) -> dict[str, Interval | None]:
    """Return aligned fraction, mean max cosine and token coverage."""
    threshold = config.aligned_threshold
    return {
        "aligned_fraction": mean_of(
            aligned_mask(alignment, threshold=threshold), config
        ),
        "mean_max_cos": mean_of(alignment.cosine, config),
        "token_coverage": mean_of(
            covered_tokens(alignment, n_tokens, threshold=threshold), config
        ),
    }


def mean_of(values: Tensor, config: VocabularyEvalConfig) -> Interval:
    """Return a mean with its bootstrap interval; a share of 0 or 1 with its bound."""
    return bootstrap_mean_interval(
        [values.numpy()],
        caps=[1.0] if values.dtype == torch.bool else None,
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def share_difference(a: Tensor, b: Tensor, config: VocabularyEvalConfig) -> Interval:
    """Return the share of True in ``a`` minus that in ``b``, both resampled on their own."""
    return bootstrap_mean_interval(
        [a.numpy(), b.numpy()],
        weights=[1.0, -1.0],
        caps=[1.0, 1.0],
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def random_alignment(
    shape: tuple[int, int], tokens: Tensor, *, seed: int
) -> TokenAlignment:
    """
    Return the nearest tokens of a dictionary in uniformly random directions.

    ``shape`` is (d_sae, d_in); tokens are embeddings as unit rows [tokens, d_in].
    """
    generator = torch.Generator().manual_seed(seed)
    rows = unit_rows(torch.randn(shape, generator=generator))
    return nearest_token(rows, tokens, unit=True)


LAYERS_FILE = "layers.csv"
FIGURES = ("aligned_fraction", "mean_max_cos", "token_coverage")
RANDOM = "random_aligned_fraction"
COLUMNS: tuple[str, ...] = (
    *("model", "layer", "hook_name", "release", "group", "saes", "interval_over"),
    *(
        f"{figure}{part}"
        for figure in (*FIGURES, RANDOM)
        for part in ("", "_low", "_high", "_n")
    ),
)


def layer_table(folder: Path) -> pd.DataFrame:
    """
    Return the per-layer table of the vocabulary results below ``folder``.

    SAEs of one model, hook, release and group share a row. Intervals are Student's t over n
    SAEs, or those of a single SAE, over latents (coverage: over tokens). The random
    dictionary is the same for all SAEs of one shape; its interval is over its latents.

    Raises:
        InputError: if a result file is broken.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for path in result_files(folder):
        record = read_result(path)
        if record.get("eval_type_id") == EVAL:
            groups[_key(record)].append(record["eval_result_metrics"])
    rows = [_row(key, found) for key, found in groups.items()]
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return frame.sort_values(
        ["model", "layer", "hook_name", "release", "group"], ignore_index=True
    )


def write_layer_table(folder: Path) -> Path:
    """Write the table of the results in ``folder`` into it, atomically."""
    target = folder / LAYERS_FILE
    frame = layer_table(folder)
    with atomic_path(target) as temporary:
        frame.to_csv(temporary, index=False)
    return target


def _key(record: dict[str, Any]) -> tuple[Any, ...]:
    cfg = record.get("sae_cfg_dict") or {}
    metadata = cfg.get("metadata") or {}
    hook = str(metadata.get("hook_name"))
    group = (saereg_block(record) or {}).get("group")
    return (
        str(metadata.get("model_name")),
        extract_layer_from_tlens_hook_name(hook),
        hook,
        str(record.get("sae_lens_release_id")),
        str(group),
    )


def _row(key: tuple[Any, ...], found: list[dict[str, Any]]) -> dict[str, Any]:
    own = [metrics["vocabulary"] for metrics in found]
    baselines = [metrics["baseline"] for metrics in found]
    parts = [_over_saes(own, figure) for figure in FIGURES]
    over = "latents" if len(own) == 1 else "SAEs"
    first = "aligned_fraction"
    same = all(baseline[first] == baselines[0][first] for baseline in baselines)
    parts.append(_over_saes(baselines[:1] if same else baselines, first))
    ends = [value for part in parts for value in part[:4]]
    return dict(zip(COLUMNS, (*key, len(own), over, *ends), strict=True))


def _over_saes(metrics: list[dict[str, Any]], figure: str) -> Interval:
    """Return a figure's mean and interval over SAEs; for one SAE its own."""
    if len(metrics) > 1:
        return seed_interval({i: each[figure] for i, each in enumerate(metrics)})
    (only,) = metrics
    low, high, n = (only[f"{figure}_{end}"] for end in ("ci_low", "ci_high", "n"))
    return Interval(only[figure], low, high, n)
