"""Intervals over letters, and what upstream's means over letters rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sae_lens import SAE

from eval_recipes.bootstrap import bootstrap
from eval_recipes.saebench.absorption_output import CorrectedAbsorptionMetrics


def corrected_metrics(
    details: Sequence[Any],
    f1: Mapping[str, float],
    *,
    sae: SAE[Any],
    n_vocabulary: int,
    seed: int,
) -> CorrectedAbsorptionMetrics:
    """
    Return upstream's means with intervals over letters, and what they rest on.

    Args:
        details: upstream's figures of each letter with a good enough probe.
        f1: F1 of every letter's probe.
        sae: as upstream scored it.
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
            f"{name}_ci_low": estimate.low,
            f"{name}_ci_high": estimate.high,
            f"{name}_n": n,
        }
    norms = sae.W_dec.detach().double().norm(dim=-1)
    return CorrectedAbsorptionMetrics(
        **values,
        letters_with_probe=len(details),
        n_words=sum(d.num_probe_true_positives for d in details),
        n_vocabulary=n_vocabulary,
        max_decoder_norm_deviation=float((norms - 1).abs().max()),
    )
