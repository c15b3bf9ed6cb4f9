"""Recipe ``tpp``: SAEBench's targeted probe perturbation, and its masked ablation."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.scr_and_tpp.eval_output import (
    EVAL_TYPE_ID_TPP,
    TppEvalOutput,
)
from sae_bench.sae_bench_utils import dataset_info

from eval_recipes.labelled.probing import check_sizes, probing_sets
from eval_recipes.results.subject import Failure
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.scr_tpp import shared as scr_and_tpp
from eval_recipes.saebench.scr_tpp.ablation_step import (
    AblationStep,
    Array,
    Sampled,
    flat,
    share,
    stratified,
)
from eval_recipes.saebench.scr_tpp.check import checked_options
from eval_recipes.saebench.scr_tpp.output import (
    MaskedTppMetricCategories,
    MaskedTppMetrics,
    MaskedTppOutput,
)
from eval_recipes.saebench.scr_tpp.spec import Columns, Kind, Runs, sampled

EVAL = EVAL_TYPE_ID_TPP

# Columns of one number of latents: the two falls, masked and leaky, and the two |shifts|.
_WIDTH = 6


def accuracy_weights(n_classes: int) -> Array:
    """
    Return how much the share of class c's texts that probe p gets right counts for p's accuracy.

    Half for the probe's own class, half for all others together: the expectation of
    upstream's accuracy, which draws as many negatives as there are positives anew each time.

    Returns:
        Shape (probes, classes); every row adds up to 1.
    """
    weights = np.full((n_classes, n_classes), 0.5 / (n_classes - 1))
    np.fill_diagonal(weights, 0.5)
    return weights


def measure(step: AblationStep, *, resamples: int, seed: int) -> dict[str, Sampled]:
    """Return the masked figures of one data set: means over the classes ablated."""
    strata = [_columns(step, index) for index in range(len(step.classes))]
    value, draws = stratified(strata, resamples=resamples, seed=[seed])
    figures: dict[str, Sampled] = {}
    for index, n in enumerate(step.n_values):
        both: list[Columns] = []
        for means in (value, draws):
            intended, unintended, leaky_intended, leaky_unintended, padded, real = (
                np.moveaxis(means, -1, 0)[_WIDTH * index : _WIDTH * (index + 1)]
            )
            total = intended - unintended
            name = f"tpp_threshold_{n}"
            both.append(
                {
                    f"{name}_total_metric": total,
                    f"{name}_intended_diff_only": intended,
                    f"{name}_unintended_diff_only": unintended,
                    f"{name}_padding_leak": leaky_intended - leaky_unintended - total,
                    f"{name}_padding_share": share(padded, real),
                }
            )
        figures |= sampled(both[0], both[1], sum(map(len, strata)))
    return figures


def _columns(step: AblationStep, index: int) -> Array:
    """Return what each text of one class adds to the figures, (texts, columns)."""
    classes = step.classes
    weights = accuracy_weights(len(classes))[:, index]
    is_own = np.arange(len(classes)) == index
    columns: list[Array] = []
    for n in step.n_values:
        parts: list[Array] = []
        for ablated, name in enumerate(classes):
            found = step.logits(classes[index], name, n, classes)
            right = (found.clean > 0) == is_own
            masked = (right * 1.0 - ((found.masked > 0) == is_own)) * weights
            leaky = (right * 1.0 - ((found.leaky > 0) == is_own)) * weights
            others = np.arange(len(classes)) != ablated
            parts.append(
                np.stack(
                    [
                        masked[:, ablated],
                        masked[:, others].mean(1),
                        leaky[:, ablated],
                        leaky[:, others].mean(1),
                        abs(found.on_padded).mean(1),
                        abs(found.on_real).mean(1),
                    ],
                    axis=1,
                )
            )
        columns.append(np.mean(parts, axis=0))
    return np.concatenate(columns, axis=1)


def _runs(config: ScrAndTppEvalConfig) -> Runs:
    return [(name, None) for name in config.dataset_names]


def _output(
    measured: TppEvalOutput, figures: dict[str, Sampled], fields: dict[str, object]
) -> MaskedTppOutput:
    return MaskedTppOutput(
        **fields,  # pyright: ignore[reportArgumentType]
        eval_config=measured.eval_config,
        eval_result_metrics=MaskedTppMetricCategories(
            tpp_metrics=measured.eval_result_metrics.tpp_metrics,
            masked=MaskedTppMetrics(**flat(figures)),
        ),
        eval_result_details=measured.eval_result_details,
    )


def _hub_sets() -> dict[str, str]:
    return {
        name: name.split("_class_set")[0].removesuffix("_sentiment")
        for name in dataset_info.chosen_classes_per_dataset
    }


def _texts(dataset_name: str, size: int) -> int:
    classes = {**dataset_info.chosen_classes_per_dataset, **probing_sets()}
    return len(classes[dataset_name]) * (size // 2)


_KIND = Kind(
    eval=EVAL,
    embedded_sets=lambda: tuple(probing_sets()),
    default_embedded=("embedded/ag_news", "embedded/occupations"),
    hub_sets=_hub_sets,
    check_sizes=check_sizes,
    texts=_texts,
    runs=_runs,
    measure=measure,
    upstream_output=TppEvalOutput,
    output=_output,
)


def check(context: RunContext) -> None:
    """
    Refuse what TPP cannot work on, before anything is loaded.

    Raises:
        InputError: for options, SAEs, sizes or data sets that cannot work.
    """
    scr_and_tpp.check(context, _KIND)


def determinants(context: RunContext) -> dict[str, Any]:
    """Return the resolved options, which decide a result: naming a default changes nothing."""
    return dataclasses.asdict(checked_options(context, _KIND))


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    Raises:
        InputError: as ``check``.
    """
    return scr_and_tpp.run(context, _KIND)
