"""Result files that SAEBench's own classes write, as its evals call them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from sae_bench.evals.core import eval_output as core
from sae_bench.evals.core.main import replace_nans_with_negative_one
from sae_bench.evals.scr_and_tpp import eval_output as scr_and_tpp
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing import eval_output as probing
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.sae_bench_utils.general_utils import get_results_filepath

CFG = {"d_in": 8, "d_sae": 16, "architecture": "jumprelu"}


def filled(cls: type[Any], **values: Any) -> Any:
    """An instance whose other numbers are 0.5."""
    names = [field.name for field in dataclasses.fields(cls)]
    return cls(**{name: values.get(name, 0.5) for name in names})


def common(release: str, sae_id: str, cfg: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "eval_id": "x",
        "datetime_epoch_millis": 1,
        "sae_bench_commit_hash": "x",
        "sae_lens_id": sae_id,
        "sae_lens_release_id": release,
        "sae_lens_version": "6",
        "sae_cfg_dict": cfg,
    }


def write_core(
    folder: Path,
    release: str,
    sae_id: str,
    *,
    l0: float,
    ce: float = 0.9,
    cfg: dict[str, Any] | None = CFG,
    details: list[dict[str, Any]] | None = None,
    **sparsity: float,
) -> Path:
    """As upstream's core: every NaN has become -1."""
    metrics = {
        field.name: {
            inner.name: 1  # some are integers
            for inner in dataclasses.fields(field.type)  # type: ignore[arg-type]
        }
        for field in dataclasses.fields(core.CoreMetricCategories)  # type: ignore[arg-type]
    }
    metrics["sparsity"] |= {"l0": l0, **sparsity}
    metrics["model_performance_preservation"]["ce_loss_score"] = ce
    metrics = replace_nans_with_negative_one(metrics)
    classes = {
        field.name: field.type
        for field in dataclasses.fields(core.CoreMetricCategories)  # type: ignore[arg-type]
    }
    output = core.CoreEvalOutput(
        eval_config=core.CoreEvalConfig(),
        eval_result_metrics=core.CoreMetricCategories(
            **{name: classes[name](**values) for name, values in metrics.items()}  # type: ignore[operator]
        ),
        eval_result_details=[
            filled(core.CoreFeatureMetric, index=0, **replace_nans_with_negative_one(d))
            for d in details or []
        ],
        eval_result_unstructured={},
        **common(release, sae_id, cfg),
    )
    return written(folder, release, sae_id, output)


def write_probing(
    folder: Path,
    release: str,
    sae_id: str,
    value: float | None,
    *,
    cfg: dict[str, Any] = CFG,
    **more: float,
) -> Path:
    output = probing.SparseProbingEvalOutput(
        eval_config=SparseProbingEvalConfig(),
        eval_result_metrics=probing.SparseProbingMetricCategories(
            llm=filled(probing.SparseProbingLlmMetrics),
            sae=probing.SparseProbingSaeMetrics(sae_top_1_test_accuracy=value, **more),
        ),
        eval_result_details=[],
        eval_result_unstructured=None,
        **common(release, sae_id, cfg),
    )
    return written(folder, release, sae_id, output)


def write_scr(
    folder: Path,
    release: str,
    sae_id: str,
    value: float,
    *,
    cfg: dict[str, Any] = CFG,
) -> Path:
    output = scr_and_tpp.ScrEvalOutput(
        eval_config=ScrAndTppEvalConfig(),
        eval_result_metrics=scr_and_tpp.ScrMetricCategories(
            scr_metrics=scr_and_tpp.ScrMetrics(scr_metric_threshold_10=value)
        ),
        eval_result_details=[],
        **common(release, sae_id, cfg),
    )
    return written(folder, release, sae_id, output)


def write_tpp(
    folder: Path,
    release: str,
    sae_id: str,
    value: float,
    *,
    cfg: dict[str, Any] = CFG,
) -> Path:
    output = scr_and_tpp.TppEvalOutput(
        eval_config=ScrAndTppEvalConfig(),
        eval_result_metrics=scr_and_tpp.TppMetricCategories(
            tpp_metrics=scr_and_tpp.TppMetrics(tpp_threshold_10_total_metric=value)
        ),
        eval_result_details=[],
        **common(release, sae_id, cfg),
    )
    return written(folder, release, sae_id, output)


def written(folder: Path, release: str, sae_id: str, output: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(get_results_filepath(str(folder), release, sae_id))
    output.to_json_file(str(path))
    return path
