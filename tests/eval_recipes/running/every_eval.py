"""All evaluations at the smallest sizes that still measure something, for a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from eval_recipes.cli import main as command
from eval_recipes.registry import RECIPES
from eval_recipes.results.files import read_result, result_files
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import run_evals, subjects_of

OF_IMAGES = frozenset({"vision"})
"""These serve no SAE on a language model; their own tests run them."""

EVALS = tuple(name for name in RECIPES if name not in OF_IMAGES)

HELDOUT_TOKENS = 512

OPTIONS: dict[str, dict[str, Any]] = {
    "core": {"n_eval_sparsity_variance_batches": 1, "eval_batch_size_prompts": 1},
    "cross_seed": {"n_resamples": 50},
    "vocabulary": {"n_resamples": 50},
    "death": {"n_resamples": 50},
    "examples": {"n_resamples": 50, "top_examples": 2, "band_examples": 1},
    "sparse_probing": {
        "dataset_names": ["embedded/emotion"],
        "probe_train_set_size": 40,
        "probe_test_set_size": 20,
        "context_length": 24,
        "k_values": [1, 2],
    },
    "sae_probes": {"datasets": ["130_temp_cat_Frequency"], "ks": [1, 2]},
    "scr": {
        "dataset_names": ["embedded/cm_correct_isshort"],
        "n_values": [2, 10],
        "train_set_size": 40,
        "test_set_size": 24,
        "context_length": 24,
        "n_resamples": 50,
    },
    "tpp": {
        "dataset_names": ["embedded/ag_news"],
        "n_values": [2, 10],
        "train_set_size": 40,
        "test_set_size": 24,
        "context_length": 24,
        "n_resamples": 50,
    },
    "absorption": {
        "words_per_letter": 10,
        "max_k_value": 2,
        "k_sparse_probe_batch_size": 64,
        "k_sparse_probe_num_epochs": 3,
        "min_GT_probe_f1": 0.1,
        "min_feats_for_eval": 2,
    },
    "autointerp": {
        "n_latents": 6,
        "total_tokens": 4096,
        "llm_context_size": 64,
        "dead_latent_threshold": 2,
    },
    "meta_structure": {"train_steps": 4, "train_batch_size": 64},
    "mdl": {"n_resamples": 50},
    "attribution": {
        "n_tokens": 256,
        "n_latents": 3,
        "ablation_contexts": 1,
        "sparsity_places": 1,
        "n_resamples": 20,
    },
    "steering": {
        "n_latents": 2,
        "explainer_tokens": 2048,
        "new_tokens": 4,
        "calibration_pairs": 10,
        "prompts": ["I think"],
        "judges": ["log_probability"],
    },
}

DEFAULTS: dict[str, tuple[str, Any, Any]] = {
    "core": ("eval_batch_size_prompts", 8, 4),
    "cross_seed": ("n_resamples", 1000, 50),
    "sparse_probing": ("context_length", 128, 64),
    "sae_probes": ("ks", [1, 2, 5], [1, 2]),
    "scr": ("context_length", 128, 64),
    "tpp": ("context_length", 128, 64),
    "absorption": ("max_k_value", 10, 5),
    "autointerp": ("n_latents", 100, 6),
    "meta_structure": ("k", 4, 8),
    "vocabulary": ("n_resamples", 1000, 50),
    "vision": ("n_blocks", 20, 10),
    "examples": ("top_examples", 10, 2),
    "mdl": ("epsilon", 0.01, 0.02),
    "attribution": ("quantile", 0.99, 0.9),
    "death": ("prediction_tokens", 100_000, 1000),
    "steering": ("n_latents", 300, 6),
}
"""Name of an option of each evaluation, its default, and another value."""

# Counted by a clock.
TIMES = frozenset({"train_time_seconds"})


def figures(out: Path, *, eval: str | None = None) -> dict[str, Any]:
    """Everything measured, by evaluation and SAE: metrics and details without clock times."""
    found: dict[str, Any] = {}
    for path in result_files(out):
        record = read_result(path)
        if eval in (None, path.parent.name):
            found[f"{path.parent.name} {record['sae_lens_id']}"] = _timeless(
                {
                    name: record[name]
                    for name in ("eval_result_metrics", "eval_result_details")
                }
            )
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value


def write_options(path: Path, **autointerp: Any) -> Path:
    """Write the options as the file that ``--options`` reads."""
    options = {**OPTIONS, "autointerp": {**OPTIONS["autointerp"], **autointerp}}
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return path


def evaluate(settings: Mapping[str, Any]) -> None:
    """Run the named evaluations of the named SAEs of a release, into a folder."""
    subjects = {s.sae_id: s for s in subjects_of(settings["release"])}
    chosen = [subjects[sae_id] for sae_id in settings["sae_ids"]]
    if broken := settings.get("broken"):
        (other,) = subjects_of(broken)
        chosen.append(replace(other, group=chosen[0].group, seed=len(chosen)))
    options = {name: dict(OPTIONS[name]) for name in settings["evals"]}
    if "autointerp" in options:
        options["autointerp"] |= settings["autointerp"]
    context = RunContext(
        subjects=chosen,
        out=Path(settings["out"]),
        artifacts=Path(settings["artifacts"]),
        heldout_tokens=HELDOUT_TOKENS,
        data="embedded",
        options=options,
    )
    if earlier := settings.get("copy_of"):
        shutil.copytree(earlier, context.out)
        for path in result_files(context.out):
            if read_result(path)["sae_lens_id"] == settings["without"]:
                path.unlink()
    told: list[str] = []
    outcome = run_evals(
        settings["evals"],
        context,
        resume="copy_of" in settings,
        progress=told.append,
    )
    if log := settings.get("log"):
        failed = {failure.eval: failure.sae_id for failure in outcome.failures}
        Path(log).write_text(json.dumps({"told": told, "failed": failed}))
    elif outcome.failures:
        raise SystemExit(f"failed: {outcome.failures}")


def main() -> None:
    """Run ``saereg-bench`` with the arguments behind the first, then what that JSON file says."""
    path, *arguments = sys.argv[1:]
    sys.argv[1:] = arguments
    try:
        command()
    except SystemExit as ended:
        if ended.code:
            raise
    for settings in json.loads(Path(path).read_text(encoding="utf-8")):
        evaluate(settings)


if __name__ == "__main__":
    main()
