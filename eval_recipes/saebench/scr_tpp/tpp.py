"""SAEBench's targeted probe perturbation, and its masked ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.scr_and_tpp.eval_output import (
    EVAL_TYPE_ID_TPP,
    TppEvalOutput,
    TppMetricCategories,
)
from sae_bench.sae_bench_utils import dataset_info

from eval_recipes.labelled.probing import check_sizes, probing_sets
from eval_recipes.saebench.scr_tpp.ablation_step import (
    AblationStep,
    Array,
    Columns,
    Sampled,
    flat,
    sampled,
    share,
    stratified,
)
from eval_recipes.saebench.scr_tpp.output import metrics_class
from eval_recipes.saebench.scr_tpp.shared import Runs, ScrOrTpp

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


_DOC = "TPP with the latents ablated on real tokens only, on every negative text; intervals over test texts."

if TYPE_CHECKING:

    class MaskedTppMetrics(BaseMetrics):
        """The fields are made below, for every number of latents."""
else:
    MaskedTppMetrics = metrics_class(
        "MaskedTppMetrics",
        _DOC,
        {
            "tpp_threshold_{n}_total_metric": (
                "Masked TPP, Top {n}",
                "Fall of the targeted probe's accuracy minus that of the others, {n} latents ablated on real tokens only",
            ),
            "tpp_threshold_{n}_intended_diff_only": (
                "Masked TPP Intended, Top {n}",
                "Fall of the targeted probe's balanced accuracy",
            ),
            "tpp_threshold_{n}_unintended_diff_only": (
                "Masked TPP Unintended, Top {n}",
                "Mean fall of the other probes' balanced accuracy",
            ),
            "tpp_threshold_{n}_padding_leak": (
                "TPP Padding Leak, Top {n}",
                "TPP metric with padded positions ablated too, as upstream does, minus the masked one, on the same texts",
            ),
            "tpp_threshold_{n}_padding_share": (
                "TPP Padding Share, Top {n}",
                "Share of padded positions in the absolute logit shift of upstream's ablation",
            ),
        },
        headline="tpp_threshold_{n}_total_metric",
    )


@dataclass
class MaskedTppMetricCategories(TppMetricCategories):
    """Upstream's metrics, untouched, and the masked ones beside them."""

    masked: MaskedTppMetrics = Field(
        title="Masked",
        description="The same metrics without the ablation of padded positions, with intervals",
    )


@dataclass(config=ConfigDict(title="TPP"))
class MaskedTppOutput(TppEvalOutput):
    """TPP in upstream's format with the masked ablation beside its own."""

    eval_result_metrics: MaskedTppMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


class TppEvaluation(ScrOrTpp):
    """SAEBench's targeted probe perturbation, and its masked ablation."""

    name = EVAL
    summary = "whether ablating few latents disturbs one class's probe and no other's"
    Output = MaskedTppOutput
    upstream_output = TppEvalOutput

    def embedded_sets(self) -> tuple[str, ...]:
        """Return the probing sets."""
        return tuple(probing_sets())

    def default_embedded(self) -> tuple[str, ...]:
        """Return the two that are used where none is named."""
        return ("embedded/ag_news", "embedded/occupations")

    def hub_sets(self) -> dict[str, str]:
        """Return upstream's sets."""
        return {
            name: name.split("_class_set")[0].removesuffix("_sentiment")
            for name in dataset_info.chosen_classes_per_dataset
        }

    def check_sizes(self, name: str, n_train: int, n_test: int) -> None:
        """Refuse sizes that a probing set cannot serve."""
        check_sizes(name, n_train, n_test)

    def texts(self, name: str, size: int) -> int:
        """Return how many texts are in memory."""
        classes = {**dataset_info.chosen_classes_per_dataset, **probing_sets()}
        return len(classes[name]) * (size // 2)

    def runs(self, config: ScrAndTppEvalConfig) -> Runs:
        """Return every set."""
        return [(name, None) for name in config.dataset_names]

    def measure(
        self, step: AblationStep, *, resamples: int, seed: int
    ) -> dict[str, Sampled]:
        """Return the masked figures."""
        return measure(step, resamples=resamples, seed=seed)

    def output(
        self,
        measured: TppEvalOutput,
        figures: dict[str, Sampled],
        fields: dict[str, Any],
    ) -> MaskedTppOutput:
        """Return upstream's output with the masked figures next to its own."""
        return MaskedTppOutput(
            **fields,
            eval_config=measured.eval_config,
            eval_result_metrics=MaskedTppMetricCategories(
                tpp_metrics=measured.eval_result_metrics.tpp_metrics,
                masked=MaskedTppMetrics(**flat(figures)),
            ),
            eval_result_details=measured.eval_result_details,
        )
