"""Upstream's result on sae-probes: whole or refused, and ours beside it."""

from __future__ import annotations

import dataclasses
from typing import Any

from sae_bench.evals.sparse_probing_sae_probes.eval_config import (
    SparseProbingSaeProbesEvalConfig,
)
from sae_bench.evals.sparse_probing_sae_probes.eval_output import (
    SparseProbingSaeProbesEvalOutput,
)
from sae_lens import SAE

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.subject import Subject
from eval_recipes.saebench.sae_probes.measure import Measured
from eval_recipes.saebench.sae_probes.options import EVAL, SaeProbesOptions
from eval_recipes.saebench.sae_probes.output import (
    CorrectedSaeProbesCategories,
    CorrectedSaeProbesOutput,
    SaeProbesDetail,
)
from eval_recipes.saebench.upstream import UpstreamError


def require_whole(
    measured: SparseProbingSaeProbesEvalOutput,
    subject: Subject,
    chosen: SaeProbesOptions,
) -> None:
    """
    Refuse a result that lacks a set or a k, which upstream leaves null.

    Raises:
        UpstreamError: names what is missing.
    """
    found = {detail.dataset_name: detail for detail in measured.eval_result_details}
    lacking = [name for name in chosen.datasets if name not in found]
    for name, detail in found.items():
        if set(detail.sae_metrics_by_k or ()) != set(chosen.ks):
            lacking.append(f"some k of {name}")
        if detail.llm_test_auc is None:
            lacking.append(f"the baseline of {name}")
    if lacking:
        raise UpstreamError(
            f"{EVAL} of SAE {subject.sae_id!r} left a result without {', '.join(lacking[:5])}."
        )


def corrected(
    measured: SparseProbingSaeProbesEvalOutput,
    ours: Measured,
    subject: Subject,
    sae: SAE[Any],
) -> CorrectedSaeProbesOutput:
    """Return upstream's output under the SAE's true ids, with our categories."""
    config = dataclasses.replace(  # pyright: ignore[reportArgumentType]
        measured.eval_config,
        # Upstream's own defaults, where folders of this machine stood.
        results_path=SparseProbingSaeProbesEvalConfig.results_path,
        model_cache_path=None,
    )
    categories = measured.eval_result_metrics
    return CorrectedSaeProbesOutput(
        **base_fields(subject, sae),
        eval_config=config,
        eval_result_metrics=CorrectedSaeProbesCategories(
            llm=categories.llm,
            sae=categories.sae,
            deduplicated=ours.deduplicated,
            overlap=ours.overlap,
        ),
        eval_result_details=[
            SaeProbesDetail(
                **dataclasses.asdict(detail),  # pyright: ignore[reportArgumentType]
                **ours.by_dataset[detail.dataset_name],
            )
            for detail in measured.eval_result_details
        ],
        sae_metrics_by_k=measured.sae_metrics_by_k,
        # The published sets, whatever `data` says: they ship with sae-probes.
        eval_result_unstructured=unstructured(subject, data="hub"),
    )
