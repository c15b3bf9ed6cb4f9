"""SAEBench's SCR and TPP, and their masked ablation."""

from __future__ import annotations

import numpy as np
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.scr_and_tpp.eval_output import (
    EVAL_TYPE_ID_SCR,
    EVAL_TYPE_ID_TPP,
    ScrEvalOutput,
    TppEvalOutput,
)
from sae_bench.sae_bench_utils import dataset_info
from sae_bench.sae_bench_utils.dataset_info import PAIRED_CLASS_KEYS

from eval_recipes.labelled.crossed import check_sizes as check_crossed
from eval_recipes.labelled.crossed import crossed_sets
from eval_recipes.labelled.probing import check_sizes as check_probing
from eval_recipes.labelled.probing import probing_sets
from eval_recipes.saebench.scr_tpp.ablation_step import (
    AblationStep,
    Array,
    Columns,
    Sampled,
    sampled,
    share,
    stratified,
)
from eval_recipes.saebench.scr_tpp.output import (
    MaskedScrMetricCategories,
    MaskedScrMetrics,
    MaskedScrOutput,
    MaskedTppMetricCategories,
    MaskedTppMetrics,
    MaskedTppOutput,
)
from eval_recipes.saebench.scr_tpp.shared import Runs, ScrOrTpp

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


def measure_scr(step: AblationStep, *, resamples: int, seed: int) -> dict[str, Sampled]:
    """
    Return the masked figures of one data set and one pair of values.

    The direction of ``scr_metric`` is upstream's choice, made on all texts; on a tie,
    for which upstream gives none, it is direction 2, as its description says.
    """
    directions: dict[str, dict[str, Sampled]] = {}
    accuracy: dict[str, float] = {}
    for index, (name, (ablated, read)) in enumerate(_ABLATED_AND_READ.items()):
        strata = [
            _scr_columns(step, key, label, ablated=ablated, read=read)
            for key, label in ((read, True), (PAIRED_CLASS_KEYS[read], False))
        ]
        value, draws = stratified(strata, resamples=resamples, seed=[seed, index])
        n = sum(map(len, strata))
        accuracy[name] = float(value[1])
        directions[name] = _scr_figures(step.n_values, value, draws, n)
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


def _scr_columns(
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


def _scr_figures(
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


class ScrEvaluation(ScrOrTpp):
    """SAEBench's spurious correlation removal, and its masked ablation."""

    name = EVAL_TYPE_ID_SCR
    summary = "whether ablating few latents removes a spurious correlation from a probe"
    Output = MaskedScrOutput
    upstream_output = ScrEvalOutput
    categories = MaskedScrMetricCategories
    masked = MaskedScrMetrics
    check_sizes = staticmethod(check_crossed)
    measure = staticmethod(measure_scr)

    def embedded_sets(self) -> tuple[str, ...]:
        """Return the crossed sets."""
        return tuple(crossed_sets())

    def hub_sets(self) -> dict[str, str]:
        """Return upstream's sets."""
        names = ScrAndTppEvalConfig().column1_vals_lookup
        return {name: name.split("_class_set")[0] for name in names}

    def texts(self, name: str, size: int) -> int:
        """Return how many texts are in memory."""
        return 12 * (size // 4)

    def runs(self, config: ScrAndTppEvalConfig) -> Runs:
        """Return every set with each of its pairs."""
        return [
            (name, pair)
            for name in config.dataset_names
            for pair in config.column1_vals_lookup[name]
        ]


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


def measure_tpp(step: AblationStep, *, resamples: int, seed: int) -> dict[str, Sampled]:
    """Return the masked figures of one data set: means over the classes ablated."""
    strata = [_tpp_columns(step, index) for index in range(len(step.classes))]
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


def _tpp_columns(step: AblationStep, index: int) -> Array:
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


class TppEvaluation(ScrOrTpp):
    """SAEBench's targeted probe perturbation, and its masked ablation."""

    name = EVAL_TYPE_ID_TPP
    summary = "whether ablating few latents disturbs one class's probe and no other's"
    Output = MaskedTppOutput
    upstream_output = TppEvalOutput
    categories = MaskedTppMetricCategories
    masked = MaskedTppMetrics
    check_sizes = staticmethod(check_probing)
    measure = staticmethod(measure_tpp)

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

    def texts(self, name: str, size: int) -> int:
        """Return how many texts are in memory."""
        classes = {**dataset_info.chosen_classes_per_dataset, **probing_sets()}
        return len(classes[name]) * (size // 2)

    def runs(self, config: ScrAndTppEvalConfig) -> Runs:
        """Return every set."""
        return [(name, None) for name in config.dataset_names]
