"""Result file of the examples evaluation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)

from eval_recipes.examples.options import ExamplesEvalConfig
from eval_recipes.examples.reader import EVAL
from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.statistics.interval import (
    NO_VARIATION,
    Interval,
    percentile_interval,
)
from eval_recipes.statistics.seeds import bootstrap_mean_interval

Densities = NDArray[np.float64]


@metric_class
class FiringMetrics(BaseMetrics):
    """How often latents fire on the held-out text."""

    never_fired = metric(
        "Never Fired",
        "Share of latents that fire on none of the tokens",
        display=True,
        nullable=False,
        of="Latents behind the figure",
    )
    median_density = metric(
        "Median Density",
        "Median over the latents that fire of the share of tokens on which they do; null if none fires",
        display=True,
        of="Latents behind the figure",
    )
    dense = metric(
        "Dense Latents",
        "Share of latents that fire on a larger share of the tokens than the threshold",
        display=True,
        nullable=False,
        of="Latents behind the figure",
    )
    n_tokens: int = value("Tokens", "Tokens read, special ones left out")


@dataclass
class ExamplesMetricCategories(BaseMetricCategories):
    """Categories of the metrics."""

    firing: FiringMetrics = value(
        "Firing",
        "How often latents fire; intervals: bootstrap over latents",
    )


@dataclass(config=ConfigDict(title="Examples"))
class ExamplesEvalOutput(
    BaseEvalOutput[ExamplesEvalConfig, ExamplesMetricCategories, BaseResultDetail]
):
    """
    What each latent fires on; the examples are in the table next to the result.
    """

    eval_config: ExamplesEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: ExamplesMetricCategories
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL
    )


def firing_figures(
    density: Densities, options: ExamplesEvalConfig
) -> dict[str, Interval | None]:
    """Return the metrics with intervals from the densities of all latents, [d_sae]."""
    fires = density > 0
    return {
        "never_fired": _share(~fires, options),
        "median_density": _median(density[fires], options) if fires.any() else None,
        "dense": _share(density > options.dense_threshold, options),
    }


def _share(which: NDArray[np.bool_], options: ExamplesEvalConfig) -> Interval:
    return bootstrap_mean_interval(
        [which], caps=[1.0], n_resamples=options.n_resamples, seed=options.random_seed
    )


def _median(values: Densities, options: ExamplesEvalConfig) -> Interval:
    """Return a median with its bootstrap interval; none if all values are equal."""
    value, n = float(np.median(values)), len(values)
    if values.min() == values.max():
        return Interval(value, None, None, n, NO_VARIATION)
    generator = np.random.default_rng(options.random_seed)
    draws = [
        np.median(generator.choice(values, n)) for _ in range(options.n_resamples)
    ]
    return percentile_interval(value, np.array(draws), n)
