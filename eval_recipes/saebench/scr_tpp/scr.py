"""SAEBench's spurious correlation removal, and its masked ablation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseMetrics
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.scr_and_tpp.eval_output import (
    EVAL_TYPE_ID_SCR,
    ScrEvalOutput,
    ScrMetricCategories,
)
from sae_bench.sae_bench_utils.dataset_info import PAIRED_CLASS_KEYS

from eval_recipes.labelled.crossed import check_sizes, crossed_sets
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

EVAL = EVAL_TYPE_ID_SCR

# Upstream's names are fixed, whatever the attributes are. The spurious attribute is
# "male / female", the one to keep "professor / nurse"; the biased probe confounds them.
_BIASED = "male_professor / female_nurse"
_ABLATED_AND_READ = {
    "dir1": ("male / female", "professor / nurse"),
    "dir2": ("professor / nurse", "male / female"),
}
# Upstream's: a probe that was hardly biased has nothing to be restored.
_LEAST_GAP = 0.001


def removal_score(changed: Array, original: Array, clean: Array) -> Array:
    """
    Return the share of a probe's lost accuracy that an ablation restores.

    (changed - original) / (clean - original), 0 if the gap is below .001 (arXiv 2411.18895;
    upstream's ``get_scr_plotting_dict``).
    """
    gap = clean - original
    biased = gap >= _LEAST_GAP
    return np.where(biased, (changed - original) / np.where(biased, gap, 1), 0)


def measure(step: AblationStep, *, resamples: int, seed: int) -> dict[str, Sampled]:
    """
    Return the masked figures of one data set and one pair of values.

    The direction of ``scr_metric`` is upstream's choice, made on all texts; on a tie,
    for which upstream gives none, it is direction 2, as its description says.
    """
    directions: dict[str, dict[str, Sampled]] = {}
    accuracy: dict[str, float] = {}
    for index, (name, (ablated, read)) in enumerate(_ABLATED_AND_READ.items()):
        strata = [
            _columns(step, key, label, ablated=ablated, read=read)
            for key, label in ((read, True), (PAIRED_CLASS_KEYS[read], False))
        ]
        value, draws = stratified(strata, resamples=resamples, seed=[seed, index])
        n = sum(map(len, strata))
        accuracy[name] = float(value[1])
        directions[name] = _figures(step.n_values, value, draws, n)
    chosen = "dir1" if accuracy["dir1"] < accuracy["dir2"] else "dir2"
    figures: dict[str, Sampled] = {}
    for name, (source, parts) in {
        "dir1": ("dir1", [""]),
        "dir2": ("dir2", [""]),
        "metric": (chosen, ["", "_padding_leak", "_padding_share"]),
    }.items():
        for n in step.n_values:
            for part in parts:
                figure = directions[source][f"{n}{part}"]
                figures[f"scr_{name}_threshold_{n}{part}"] = figure
    return figures


def _columns(
    step: AblationStep, key: str, label: bool, *, ablated: str, read: str
) -> Array:
    """
    Return what each text of one label adds to the figures of a direction.

    Columns: clean and biased probe right, then for each number of latents biased probe right
    after the masked and after the leaky ablation, its |shift| from padding and from tokens.
    """
    columns: list[Array] = []
    for n in step.n_values:
        found = step.logits(key, ablated, n, [_BIASED, read])
        if not columns:
            columns += [_right(found.clean[:, probe], label) for probe in (1, 0)]
        columns += [_right(after[:, 0], label) for after in (found.masked, found.leaky)]
        columns += [abs(found.on_padded[:, 0]), abs(found.on_real[:, 0])]
    # Either label counts half.
    return np.stack(columns, axis=1) / 2


def _right(logits: Array, label: bool) -> Array:
    return ((logits > 0) == label).astype(np.float64)


def _figures(
    n_values: list[int], value: Array, draws: Array, texts: int
) -> dict[str, Sampled]:
    figures: dict[str, Sampled] = {}
    for index, n in enumerate(n_values):
        both: list[Columns] = []
        for means in (value, draws):
            clean, original = means[..., 0], means[..., 1]
            masked, leaky, padded, real = np.moveaxis(means[..., 2:], -1, 0)[
                4 * index : 4 * index + 4
            ]
            score = removal_score(masked, original, clean)
            both.append(
                {
                    f"{n}": score,
                    f"{n}_padding_leak": removal_score(leaky, original, clean) - score,
                    f"{n}_padding_share": share(padded, real),
                }
            )
        figures |= sampled(both[0], both[1], texts)
    return figures


_DOC = "SCR with the latents ablated on real tokens only; intervals over test texts."

if TYPE_CHECKING:

    class MaskedScrMetrics(BaseMetrics):
        """The fields are made below, for every number of latents."""
else:
    MaskedScrMetrics = metrics_class(
        "MaskedScrMetrics",
        _DOC,
        {
            "scr_metric_threshold_{n}": (
                "Masked SCR, Top {n}",
                "SCR metric, {n} latents ablated on real tokens only",
            ),
            "scr_dir1_threshold_{n}": (
                "Masked SCR Dir 1, Top {n}",
                "Latents of the spurious attribute ablated, accuracy on the other",
            ),
            "scr_dir2_threshold_{n}": (
                "Masked SCR Dir 2, Top {n}",
                "Latents of the attribute to keep ablated, accuracy on the spurious one",
            ),
            "scr_metric_threshold_{n}_padding_leak": (
                "SCR Padding Leak, Top {n}",
                "SCR metric with padded positions ablated too, as upstream does, minus the masked one",
            ),
            "scr_metric_threshold_{n}_padding_share": (
                "SCR Padding Share, Top {n}",
                "Share of padded positions in the absolute logit shift of upstream's ablation",
            ),
        },
        headline="scr_metric_threshold_{n}",
    )


@dataclass
class MaskedScrMetricCategories(ScrMetricCategories):
    """Upstream's metrics, untouched, and the masked ones beside them."""

    masked: MaskedScrMetrics = Field(
        title="Masked",
        description="The same metrics without the ablation of padded positions, with intervals",
    )


@dataclass(config=ConfigDict(title="SCR"))
class MaskedScrOutput(ScrEvalOutput):
    """SCR in upstream's format with the masked ablation beside its own."""

    eval_result_metrics: MaskedScrMetricCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]


class ScrEvaluation(ScrOrTpp):
    """SAEBench's spurious correlation removal, and its masked ablation."""

    name = EVAL
    summary = "whether ablating few latents removes a spurious correlation from a probe"
    Output = MaskedScrOutput
    upstream_output = ScrEvalOutput

    def embedded_sets(self) -> tuple[str, ...]:
        """Return the crossed sets."""
        return tuple(crossed_sets())

    def hub_sets(self) -> dict[str, str]:
        """Return upstream's sets."""
        names = ScrAndTppEvalConfig().column1_vals_lookup
        return {name: name.split("_class_set")[0] for name in names}

    def check_sizes(self, name: str, n_train: int, n_test: int) -> None:
        """Refuse sizes that a crossed set cannot serve."""
        check_sizes(name, n_train, n_test)

    def texts(self, name: str, size: int) -> int:  # noqa: ARG002
        """Return how many texts are in memory."""
        return 12 * (size // 4)

    def runs(self, config: ScrAndTppEvalConfig) -> Runs:
        """Return every set with each of its pairs."""
        return [
            (name, pair)
            for name in config.dataset_names
            for pair in config.column1_vals_lookup[name]
        ]

    def measure(
        self, step: AblationStep, *, resamples: int, seed: int
    ) -> dict[str, Sampled]:
        """Return the masked figures."""
        return measure(step, resamples=resamples, seed=seed)

    def output(
        self,
        measured: ScrEvalOutput,
        figures: dict[str, Sampled],
        fields: dict[str, Any],
    ) -> MaskedScrOutput:
        """Return upstream's output with the masked figures next to its own."""
        return MaskedScrOutput(
            **fields,
            eval_config=measured.eval_config,
            eval_result_metrics=MaskedScrMetricCategories(
                scr_metrics=measured.eval_result_metrics.scr_metrics,
                masked=MaskedScrMetrics(**flat(figures)),
            ),
            eval_result_details=measured.eval_result_details,
        )
