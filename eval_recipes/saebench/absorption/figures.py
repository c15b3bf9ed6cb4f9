"""Intervals over letters, and what upstream's means over letters rest on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sae_bench.evals.absorption.eval_output import AbsorptionResultDetail

from eval_recipes.saebench.absorption.output import (
    AbsorptionDetail,
    CorrectedAbsorptionMetrics,
)
from eval_recipes.statistics.contexts import bootstrap


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
    values: dict[str, Any] = {}
    for name, by_letter in figures.items():
        array, n = np.array(by_letter, dtype=np.float64), len(by_letter)
        estimate = bootstrap(
            lambda weights, array=array, n=n: weights @ array / n, n, seed=seed
        )
        values |= {
            name: estimate.value,
            f"{name}_ci_low": estimate.ends[0],
            f"{name}_ci_high": estimate.ends[1],
            f"{name}_n": n,
        }
    return CorrectedAbsorptionMetrics(
        **values,
        letters_with_probe=len(details),
        n_words=sum(d.num_probe_true_positives for d in details),
        n_vocabulary=n_vocabulary,
        max_decoder_norm_deviation=norm_deviation,
    )


def detail(
    theirs: AbsorptionResultDetail,
    ours: AbsorptionResultDetail,
    f1: Mapping[str, float],
) -> AbsorptionDetail:
    """
    Return upstream's figures of a letter with the corrected ones beside them.

    Args:
        theirs: of the SAE as upstream scores it.
        ours: of the same letter, with decoder rows of norm 1.
        f1: F1 of every letter's probe.
    """
    return AbsorptionDetail(
        **dataclasses.asdict(theirs),  # pyright: ignore[reportArgumentType]
        corrected_absorption_fraction=ours.mean_absorption_fraction,
        corrected_full_absorption_rate=ours.full_absorption_rate,
        corrected_num_split_features=ours.num_split_features,
        probe_f1=f1[ours.first_letter],
    )
