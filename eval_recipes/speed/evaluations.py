"""Speed of our evaluations against SAEBench's own entry points."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from pydantic import TypeAdapter
from sae_bench.evals.absorption import main as absorption
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.core import main as core
from sae_bench.evals.meta_structure import main as meta_structure
from sae_bench.evals.meta_structure.eval_config import MetaStructureEvalConfig
from sae_bench.evals.scr_and_tpp import main as scr_and_tpp
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from sae_bench.evals.sparse_probing import main as sparse_probing
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing_sae_probes import main as sae_probes
from sae_bench.evals.sparse_probing_sae_probes.eval_config import (
    SparseProbingSaeProbesEvalConfig,
)
from tqdm.auto import tqdm

from eval_recipes.results.files import result_path
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.run import run_evals, subjects_of
from eval_recipes.saebench.absorption.main import AbsorptionEvaluation
from eval_recipes.saebench.absorption.probes import sample_words, word_tokens
from eval_recipes.saebench.absorption.upstream_run import private_folders
from eval_recipes.saebench.scr_tpp.shared import data_sets
from eval_recipes.saebench.sparse_probing import cache as sparse_probing_cache
from eval_recipes.saebench.upstream import all_patched, patched, preserved_state
from eval_recipes.speed.measurement import Row, SpeedConfig, Timing, timed_rows
from eval_recipes.studies.demo import DEMO_SWEEP
from saereg_plugin.sources import corpora
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
        timed = {
            who: Timing(
                tuple(
                    sum(times.values()) if eval == "all" else times[eval]
                    for times in rounds
                )
            )
            for who, rounds in seconds.items()
        }
        case = f"{eval}, {n_saes} SAEs"
        yield from timed_rows(
            SUITE, case, timed, work=n_saes, unit="SAEs/s", seed=config.seed
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


Selected = list[tuple[str, str]]
Config = Mapping[str, Any]
Eval = Callable[[Config, Selected, RunContext, Path], object]


def _core(config: Config, selected: Selected, context: RunContext, out: Path) -> object:
    return core.multiple_evals(
        selected,
        n_eval_reconstruction_batches=config["n_eval_reconstruction_batches"],
        n_eval_sparsity_variance_batches=config["n_eval_sparsity_variance_batches"],
        eval_batch_size_prompts=config["batch_size_prompts"],
        compute_featurewise_density_statistics=True,
        compute_featurewise_weight_based_metrics=True,
        exclude_special_tokens_from_reconstruction=True,
        dataset=corpora.ensure(context.corpus, "heldout"),
        context_size=config["context_size"],
        output_folder=str(out),
        dtype=context.dtype,
        device=context.device,
    )


def _sparse_probing(
    config: Config, selected: Selected, context: RunContext, out: Path
) -> object:
    # Without the repair it stops at its first probe.
    with sparse_probing_cache.repaired(), sparse_probing_cache.data_source("embedded"):
        return sparse_probing.run_eval(
            _read(SparseProbingEvalConfig, config), selected, context.device, str(out)
        )


def _scr_and_tpp(
    config: Config, selected: Selected, context: RunContext, out: Path
) -> object:
    with data_sets("embedded"):
        return scr_and_tpp.run_eval(
            _read(ScrAndTppEvalConfig, config), selected, context.device, str(out)
        )


def _sae_probes(
    config: Config, selected: Selected, context: RunContext, out: Path
) -> object:
    read = _read(SparseProbingSaeProbesEvalConfig, config)
    read.results_path, read.model_cache_path = "results", "activations"
    return sae_probes.run_eval(read, selected, context.device, str(out))


def _absorption(
    config: Config, selected: Selected, context: RunContext, out: Path
) -> object:
    out.mkdir()
    with private_folders(Path(), Path("probes")), _words(context):
        return absorption.run_eval(
            _read(AbsorptionEvalConfig, config), selected, context.device, str(out)
        )


@contextmanager
def _words(context: RunContext) -> Iterator[None]:
    """Make upstream read as many words as ours; it takes every word of the vocabulary."""
    from sae_bench.evals.absorption import common, feature_absorption

    chosen: list[str] = []
    all_tokens = common.get_alpha_tokens
    options = AbsorptionEvaluation().options(context)

    def words(tokenizer: Any, *_: Any, **__: Any) -> list[str]:
        if not chosen:
            with patched(common, "get_alpha_tokens", all_tokens):
                found = word_tokens(tokenizer)
            chosen.extend(
                sample_words(
                    found, words_per_letter=options.words_per_letter, seed=context.seed
                )
            )
        return list(chosen)

    modules = (common, feature_absorption)
    with all_patched([(module, "get_alpha_tokens", words) for module in modules]):
        yield


def _meta_structure(
    config: Config, selected: Selected, context: RunContext, out: Path
) -> object:
    # An eval before it has turned gradients off for good.
    with torch.enable_grad():
        return meta_structure.run_eval(
            _read(MetaStructureEvalConfig, config), selected, context.device, str(out)
        )


UPSTREAM: Mapping[str, Eval] = MappingProxyType(
    {
        "core": _core,
        "sparse_probing": _sparse_probing,
        "sae_probes": _sae_probes,
        "scr": _scr_and_tpp,
        "tpp": _scr_and_tpp,
        "absorption": _absorption,
        "meta_structure": _meta_structure,
    }
)
"""Evals that need no server, by our names."""


def run_upstream(
    eval: str, config: Config, selected: Sequence[tuple[str, str]], context: RunContext
) -> list[Path]:
    """
    Run one of upstream's evals on SAEs, in the working folder; return its result files.

    Upstream loads model and SAEs itself. It gets only what it needs to run here: the
    embedded data sets, the words, folders outside the installed package, and a repaired
    decorator of sparse_probing.

    ``config`` is upstream's, as our result holds it; ``selected`` the release and id of each SAE.
    """
    out = Path("results", eval)
    out.parent.mkdir(exist_ok=True)
    with (
        preserved_state(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        _only_errors(),
    ):
        UPSTREAM[eval](config, list(selected), context, out)
    return sorted(out.rglob("*_eval_results.json"))


@contextmanager
def _only_errors() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def _read(cls: type[Any], config: Config) -> Any:
    return TypeAdapter(cls).validate_python(dict(config))


@contextmanager
def working_folder(folder: Path) -> Iterator[None]:
    """Work in ``folder`` and come back; upstream writes below the working folder."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
