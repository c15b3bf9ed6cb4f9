"""The corrected part of a sparse-probing result, from what the paired probes got right."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sae_bench.evals.sparse_probing.eval_output import SparseProbingResultDetail

from eval_recipes.results.metrics import flat
from eval_recipes.saebench.sparse_probing.intervals import macro_accuracy, wilson
from eval_recipes.saebench.sparse_probing.output import (
    ClassAccuracy,
    CorrectedProbingDetail,
    CorrectedProbingMetrics,
)
from eval_recipes.saebench.sparse_probing.score import SetScores
from eval_recipes.statistics.interval import Interval


def corrected_metrics(results: Sequence[SetScores], *, seed: int) -> Any:
    """Return the macro averages over data sets, with their intervals and differences."""
    sets = [result.scored for result in results]
    readers = list(sets[0].correct)
    figures: dict[str, Interval | None] = {
        f"{reader}_accuracy": macro_accuracy(sets, reader, seed=seed)
        for reader in readers
    }
    for reader in readers:
        source, _, k = reader.partition("_top_")
        if k and source != "sae":
            figures[f"sae_above_{reader}"] = macro_accuracy(
                sets, f"sae_top_{k}", minus=reader, seed=seed
            )
    return CorrectedProbingMetrics(**flat(figures))


def detail(
    figures: SparseProbingResultDetail, result: SetScores
) -> CorrectedProbingDetail:
    """Return upstream's figures of one data set with those of every class beside them."""
    classes: list[ClassAccuracy] = []
    for reader, by_class in result.scored.correct.items():
        for name, right in by_class.items():
            interval = wilson(int(right.sum()), len(right))
            assert interval.low is not None
            assert interval.high is not None
            classes.append(
                ClassAccuracy(
                    class_name=name,
                    reader=reader,
                    accuracy=interval.value,
                    ci_low=interval.low,
                    ci_high=interval.high,
                    n=interval.n,
                )
            )
    return CorrectedProbingDetail(
        **dataclasses.asdict(figures),  # pyright: ignore[reportArgumentType]
        n_left_out=result.scored.left_out,
        random_l0=result.random_l0,
        classes=classes,
    )
