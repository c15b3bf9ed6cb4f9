"""Result files of two groups in three seeds, written without any model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eval_recipes.results.files import write_summary
from saereg_plugin.owned_folder import open_owned

RELEASE = "lab"
SEEDS = (0, 1, 2)
PENALTIES: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "l2": [{"name": "weight_penalty", "norm": "l2", "coefficient": 0.25}],
}
WIDTH = 8


def interval(name: str, value: float, *, half: float = 0.01, n: int = 64) -> Any:
    ends = {f"{name}_ci_low": value - half, f"{name}_ci_high": value + half}
    return {name: value, **ends, f"{name}_n": n}


def cfg_of(group: str) -> dict[str, Any]:
    details = {"regularizers": PENALTIES.get(group, [])}
    return {
        "architecture": "topk",
        "d_in": 4,
        "d_sae": WIDTH,
        "metadata": {
            "model_name": "tiny",
            "hook_name": "blocks.1.hook_resid_post",
            "training_architecture": "regularized_topk",
            "training_architecture_details": details,
        },
    }


def record(
    eval_type: str, group: str, seed: int, metrics: dict[str, Any], **extra: Any
) -> dict[str, Any]:
    return {
        "eval_type_id": eval_type,
        "eval_config": {"corpus": "embedded", "dataset": "embedded/heldout"},
        "eval_id": f"{eval_type}-{group}-{seed}",
        "datetime_epoch_millis": 1_700_000_000_000 + seed * 60_000,
        "eval_result_metrics": metrics,
        "eval_result_details": [],
        "sae_bench_commit_hash": "sae-bench==0.6.0",
        "sae_lens_id": f"{group}-seed{seed}",
        "sae_lens_release_id": RELEASE,
        "sae_lens_version": "6.54.12",
        "sae_cfg_dict": cfg_of(group),
        "eval_result_unstructured": {
            **extra,
            "saereg": {"group": group, "seed": seed, "key": "k"},
        },
    }


def core(group: str, seed: int) -> dict[str, Any]:
    quality = 0.8125 + seed / 128 - (group == "l2") / 16
    found = record(
        "core",
        group,
        seed,
        {
            "sparsity": {"l0": 4.0},
            "reconstruction_quality": {"explained_variance": quality + 0.05},
            "model_performance_preservation": {"ce_loss_score": quality - 0.1},
            "corrected": {
                **interval("explained_variance", quality),
                **interval("l0", 4.0 + seed / 64),
                "alive": WIDTH - seed,
            },
        },
    )
    found["eval_result_details"] = [
        {"index": n, "feature_density": n / 16, "encoder_decoder_cosine_sim": 0.5}
        for n in range(WIDTH)
    ]
    return found


def cross_seed(group: str, seed: int) -> dict[str, Any]:
    value = 0.25 + seed / 64 + (group == "l2") / 4
    pairs = [[0, 1], [0, 2], [1, 2]]
    histogram = {"low": 0.0, "high": 1.0, "counts": [1, 3, 12, 0]}
    chance = {"low": 0.0, "high": 1.0, "counts": [8, 0, 0, 0]}
    other = "none" if group == "l2" else "l2"
    difference = 0.25 if group == "l2" else -0.25
    return record(
        "cross_seed",
        group,
        seed,
        {
            "shared": interval("shared", value),
            "baseline": {"shared": 0.0},
            "group": {
                "shared": 0.375,
                "shared_ci_low": None,
                "shared_ci_high": None,
                "shared_n": 3,
            },
        },
        seeds=list(SEEDS),
        group_pairs=[
            {"seeds": seeds, "shared": 0.25 + n / 8} for n, seeds in enumerate(pairs)
        ],
        group_differences=[
            {
                "metric": "shared/shared",
                "other_group": other,
                "difference": difference,
                "ci_low": difference - 0.01,
                "ci_high": difference + 0.01,
                "n": 16,
                "interval_over": "latents",
                "values": [{"seeds": s, "difference": difference} for s in pairs],
            }
        ],
        stability_by_latent=[0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0],
        matched_similarity_histogram={"decoder": histogram, "encoder": histogram},
        baseline_histograms={
            "matched_similarity_histogram": {"decoder": chance, "encoder": chance}
        },
    )


def autointerp(group: str, seed: int) -> dict[str, Any]:
    metrics = {"token_explainer": interval("score", 0.75 + seed / 16)}
    found = record("autointerp", group, seed, metrics)
    found["eval_result_details"] = [
        {"latent": n, "explanation": f"word {n}", "score": None, "checked_score": n / 4}
        for n in range(4)
    ]
    return found


def result_path(folder: Path, one: dict[str, Any], name: str | None = None) -> Path:
    stem = name or f"{one['sae_lens_release_id']}_{one['sae_lens_id']}"
    return folder / one["eval_type_id"] / f"{stem}_eval_results.json"


def write(folder: Path, one: dict[str, Any], *, name: str | None = None) -> Path:
    path = result_path(folder, one, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(one))
    return path


def write_all(folder: Path) -> Path:
    """Write every result and the summary into a folder of a run."""
    open_owned(folder, "results")
    for group in PENALTIES:
        for seed in SEEDS:
            write(folder, core(group, seed))
            write(folder, cross_seed(group, seed))
            write(folder, autointerp(group, seed))
    write_summary(folder)
    return folder
