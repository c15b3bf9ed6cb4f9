"""Our evaluations of several SAEs against SAEBench's own entry points, one after the other."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from eval_recipes.results.files import result_path
from eval_recipes.running.context import RunContext
from eval_recipes.running.model_cache import ModelCache
from eval_recipes.running.run import run_evals, subjects_of
from eval_recipes.speed.config import Row, SpeedConfig
from eval_recipes.speed.timing import Timing, ratio
from eval_recipes.speed.upstream_evals import run_upstream, working_folder
from eval_recipes.studies.demo import DEMO_SWEEP
from saereg_plugin.sweeps import run_sweep

SUITE = "evaluations"
OURS, THEIRS = "saereg-bench", "SAEBench"

_TEXTS = {"train_set_size": 60, "test_set_size": 32, "context_length": 32}

OPTIONS: dict[str, dict[str, Any]] = {
    "core": {"n_eval_sparsity_variance_batches": 2, "eval_batch_size_prompts": 4},
    "sparse_probing": {
        "dataset_names": ("embedded/ag_news",),
        "probe_train_set_size": 80,
        "probe_test_set_size": 40,
        "context_length": 32,
    },
    "sae_probes": {"datasets": ("5_hist_fig_ismale",)},
    "scr": {"dataset_names": ("embedded/cm_correct_isshort",), **_TEXTS},
    "tpp": {"dataset_names": ("embedded/ag_news",), **_TEXTS},
    "absorption": {
        "words_per_letter": 10,
        "k_sparse_probe_num_epochs": 5,
        "min_GT_probe_f1": 0.1,
        "min_feats_for_eval": 2,
    },
    "meta_structure": {"train_steps": 20},
}
"""The evals that need no server, and what makes a round of them last minutes, not hours."""

# The tokens of core's batches, so that our held-out figures read as many as upstream's.
_HELDOUT_TOKENS = 2 * 4 * 128

# SAEs like the demo's; how well they are trained decides nothing about time.
_TOKENS = 16_384


def evaluation_rows(config: SpeedConfig) -> Iterator[Row]:
    """
    Evaluate six SAEs with both, eval by eval in turns, and yield a row for each and the sum.

    Both start a round with nothing kept from the one before, and load model and SAEs from
    the same disk. Ours makes its corrected figures besides; upstream gets the settings that
    our results hold.
    """
    with tempfile.TemporaryDirectory() as folder:
        release = Path(folder, "release")
        sweep = replace(DEMO_SWEEP, tokens=_TOKENS, device=config.device)
        run_sweep(sweep, release, name="saereg-speed")
        context = RunContext(
            subjects=subjects_of(str(release)),
            out=Path(folder),
            heldout_tokens=_HELDOUT_TOKENS,
            device=config.device,
            data="embedded",
            seed=config.seed,
            options=OPTIONS,
        )
        seconds = rounds(context, Path(folder), config.repeats)
    n_saes = len(context.subjects)
    for eval in (*OPTIONS, "all"):
        timings = {
            who: Timing(
                tuple(
                    sum(times.values()) if eval == "all" else times[eval]
                    for times in rounds
                )
            )
            for who, rounds in seconds.items()
        }
        for who, timing in timings.items():
            against = ratio(timing, timings[OURS], seed=config.seed)
            yield Row(
                suite=SUITE,
                case=f"{eval}, {n_saes} SAEs",
                implementation=who,
                seconds=timing.median,
                n=len(timing.seconds),
                throughput=n_saes / timing.median,
                unit="SAEs/s",
                ratio=against.value,
                ratio_low=against.low,
                ratio_high=against.high,
            )


def rounds(
    context: RunContext, folder: Path, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Return seconds by eval, by round, by implementation."""
    seconds: dict[str, list[dict[str, float]]] = {OURS: [], THEIRS: []}
    for number in tqdm(range(repeats), desc=SUITE):
        place = folder / f"round{number}"
        place.mkdir()
        # Nothing is left of an earlier round, the model included.
        fresh = replace(
            context,
            out=place / "out",
            artifacts=place / "artifacts",
            models=ModelCache(),
        )
        times: dict[str, dict[str, float]] = {OURS: {}, THEIRS: {}}
        for eval in context.options:
            # Ours first, since it leaves the settings for upstream.
            times[OURS][eval] = _ours(fresh, eval)
            times[THEIRS][eval] = _theirs(fresh, eval, place)
        for who, by_eval in times.items():
            seconds[who].append(by_eval)
    return seconds


def _ours(context: RunContext, eval: str) -> float:
    started = time.perf_counter()
    failures = run_evals([eval], context).failures
    elapsed = time.perf_counter() - started
    if failures:
        raise RuntimeError(
            f"{eval} of {failures[0].sae_id} failed: {failures[0].cause}"
        )
    return elapsed


def _theirs(context: RunContext, eval: str, place: Path) -> float:
    selected = [(subject.release, subject.sae_id) for subject in context.subjects]
    path = result_path(context.out, eval, *selected[0])
    config = json.loads(path.read_text(encoding="utf-8"))["eval_config"]
    with working_folder(place):
        started = time.perf_counter()
        written = run_upstream(eval, config, selected, context)
        elapsed = time.perf_counter() - started
    if len(written) != len(selected):
        raise RuntimeError(
            f"SAEBench's {eval} left {len(written)} results of {len(selected)}"
        )
    return elapsed
