"""SAEBench's evals through their own entry points, as a user of SAEBench would run them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
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

from eval_recipes.running.context import RunContext
from eval_recipes.saebench.absorption.main import AbsorptionEvaluation
from eval_recipes.saebench.absorption.probes import sample_words, word_tokens
from eval_recipes.saebench.scr_tpp.shared import data_sets
from eval_recipes.saebench.sparse_probing import cache as sparse_probing_cache
from eval_recipes.saebench.upstream import patched, preserved_state
from saereg_plugin.sources import corpora

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
    # Where it keeps things are defaults bound at import, inside the installed package.
    seams = {
        "run_k_sparse_probing_experiment": {"experiment_dir": Path("k_sparse_probing")},
        "run_feature_absortion_experiment": {
            "experiment_dir": Path("feature_absorption"),
            "sparse_probing_experiment_dir": Path("k_sparse_probing"),
        },
    }
    out.mkdir()
    with ExitStack() as stack:
        for name, folders in seams.items():
            replaced = partial(
                getattr(absorption, name), probes_dir=Path("probes"), **folders
            )
            stack.enter_context(patched(absorption, name, replaced))
        stack.enter_context(_words(context))
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

    with (
        patched(common, "get_alpha_tokens", words),
        patched(feature_absorption, "get_alpha_tokens", words),
    ):
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

    Upstream loads model and SAEs itself. What it needs to run at all here is given to it:
    the embedded data sets, the words, folders that are not inside the installed package,
    and a repaired decorator of sparse_probing; nothing that saves it work.

    Args:
        eval: a key of ``UPSTREAM``.
        config: upstream's own settings, as the result of our recipe holds them.
        selected: release and id of each SAE.
        context: text, data type, device and seed.
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
