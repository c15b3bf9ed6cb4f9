"""SAEBench's absorption output with counts and intervals as one more category."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.absorption.eval_output import (
    AbsorptionEvalOutput,
    AbsorptionMetricCategories,
    AbsorptionResultDetail,
)
from sae_bench.evals.base_eval_output import BaseMetrics

from eval_recipes.results.metrics import flat, metric, metric_class, value
from eval_recipes.statistics.interval import Interval, bootstrap

_metric = partial(
    metric,
    nullable=False,
    of="Letters the figure comes from",
    resampled=", bootstrapped over letters",
)


@metric_class
class CorrectedAbsorptionMetrics(BaseMetrics):
    """
    Means over letters with intervals, and what they rest on.

    They are upstream's where the decoder's norms could be folded, else those of the same
    SAE with rows of norm 1 (``absorption_rescaled``).
    """

    absorption_fraction = _metric(
        "Absorption Fraction",
        "Mean over letters of the probe's projection that absorbing latents carry",
        display=True,
    )
    full_absorption_rate = _metric(
        "Full Absorption Rate",
        "Mean over letters of the share of words of which one other latent does all",
        display=True,
    )
    additional_split_latents = _metric(
        "Additional Split Latents",
        "Mean over letters of the latents that detect it beyond the first: 0 without splitting, where upstream's mean_num_split_features is 1",
    )
    letters_with_probe: int = value(
        "Letters with a Probe",
        "Letters whose probe on the model's activations has an F1 above min_GT_probe_f1; the means are over these",
    )
    mean_probe_f1 = _metric(
        "Mean Probe F1",
        "F1 of the probes on the model's activations over test words, mean over the 26 letters",
    )
    mean_probe_f1_n: int = value("Mean Probe F1 (n)", "Letters")
    n_words: int = value(
        "Words",
        "Test words the probes recognise, over the letters with a probe: absorption is measured on these",
    )
    n_vocabulary: int = value(
        "Vocabulary",
        "Words the probes were trained and tested on, four fifths and one fifth",
    )
    max_decoder_norm_deviation: float = value(
        "Largest Decoder Norm Deviation",
        "Largest distance of a decoder norm from 1 in the SAE that upstream scored, whose projections take norms as 1: beyond rounding its own figures are wrong, and ours are of the same SAE with rows of norm 1",
    )


@dataclass
class CorrectedAbsorptionCategories(AbsorptionMetricCategories):
    """Upstream's category, untouched, and ours beside it."""

    corrected: CorrectedAbsorptionMetrics = value(
        "Corrected",
        "Means with counts and intervals, on decoder rows of norm 1, and what they rest on",
    )


@dataclass
class AbsorptionDetail(AbsorptionResultDetail):
    """Upstream's figures of one letter, the corrected ones, and the F1 of its probe."""

    corrected_absorption_fraction: float | None = value(
        "Mean Absorption Fraction, Corrected",
        "Mean over words, on decoder rows of norm 1",
        default=None,
    )
    corrected_full_absorption_rate: float | None = value(
        "Rate of Full Absorption, Corrected",
        "Share of words, on decoder rows of norm 1",
        default=None,
    )
    corrected_num_split_features: int | None = value(
        "Num Split Features, Corrected",
        "Latents that detect the letter, the first included, on decoder rows of norm 1",
        default=None,
    )

    probe_f1: float | None = value(
        "Probe F1",
        "F1 of the probe on the model's activations, over test words",
        default=None,
    )


@dataclass(config=ConfigDict(title="Absorption"))
class CorrectedAbsorptionOutput(AbsorptionEvalOutput):
    """First-letter absorption in upstream's format with counts and intervals."""

    eval_result_metrics: CorrectedAbsorptionCategories  # pyright: ignore[reportIncompatibleVariableOverride, reportGeneralTypeIssues]
    eval_result_details: list[AbsorptionDetail] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=list,
        title="Per-Letter Absorption Results",
        description="Figures of each letter whose probe is good enough",
    )


def corrected_metrics(
    details: Sequence[AbsorptionResultDetail],
    f1: Mapping[str, float],
    *,
    norm_deviation: float,
    n_vocabulary: int,
    seed: int,
) -> CorrectedAbsorptionMetrics:
    """
    Return means over letters with intervals, and what they rest on.

    Args:
        details: upstream's figures of each letter with a good enough probe, of the SAE
            with decoder rows of norm 1.
        f1: F1 of every letter's probe.
        norm_deviation: of the SAE that upstream scored.
    """
    figures = {
        "absorption_fraction": [d.mean_absorption_fraction for d in details],
        "full_absorption_rate": [d.full_absorption_rate for d in details],
        "additional_split_latents": [d.num_split_features - 1 for d in details],
        "mean_probe_f1": list(f1.values()),
    }
    intervals = {name: _mean(values, seed) for name, values in figures.items()}
    return CorrectedAbsorptionMetrics(
        **flat(intervals),
        letters_with_probe=len(details),
        n_words=sum(d.num_probe_true_positives for d in details),
        n_vocabulary=n_vocabulary,
        max_decoder_norm_deviation=norm_deviation,
    )


def _mean(by_letter: Sequence[float], seed: int) -> Interval:
    array, n = np.array(by_letter, dtype=np.float64), len(by_letter)
    return bootstrap(lambda weights: weights @ array / n, n, seed=seed)


def detail(
    theirs: AbsorptionResultDetail,
    ours: AbsorptionResultDetail,
    f1: Mapping[str, float],
) -> AbsorptionDetail:
    """
    Return upstream's figures of a letter with the corrected ones next to them.

    ``theirs`` is of the SAE as upstream scores it, ``ours`` of the same letter with decoder rows of
    norm 1, ``f1`` of every letter's probe.
    """
    return AbsorptionDetail(
        **dataclasses.asdict(theirs),  # pyright: ignore[reportArgumentType]
        corrected_absorption_fraction=ours.mean_absorption_fraction,
        corrected_full_absorption_rate=ours.full_absorption_rate,
        corrected_num_split_features=ours.num_split_features,
        probe_f1=f1[ours.first_letter],
    )
