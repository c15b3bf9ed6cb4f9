"""Activations and probes of SCR and TPP, made before the first SAE is scored."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.scr_and_tpp.eval_config import ScrAndTppEvalConfig
from transformer_lens import HookedTransformer

from eval_recipes.activation_source import Source
from eval_recipes.artifacts import artifact_folder
from eval_recipes.context import RunContext
from eval_recipes.labelled.source import LAYOUT
from eval_recipes.saebench.scr_and_tpp_kind import Kind, Pair
from eval_recipes.saebench.upstream import patched, seed_everything


def warmed(
    kind: Kind,
    context: RunContext,
    config: ScrAndTppEvalConfig,
    source: Source,
    model: HookedTransformer,
    name: str,
    pair: Pair | None,
) -> Path:
    """
    Return the folder of one data set's activations and probes, filled if it is empty.

    Upstream makes them while it scores the first SAE: their draws then depend on what was
    drawn before, and the first SAE is scored from another random state than the others.
    Here each set is drawn from the seed alone. Files become visible whole, the one whose
    presence upstream asks for last.
    """
    folder = artifact_folder(
        context.artifacts,
        kind.eval,
        determinants(context, config, source, name, pair),
    )
    with FileLock(folder / ".lock"):
        if not list(folder.glob("*_activations.pt")):
            _fill(folder, context, config, source, model, name, pair)
    return folder


def determinants(
    context: RunContext,
    config: ScrAndTppEvalConfig,
    source: Source,
    name: str,
    pair: Pair | None,
) -> dict[str, Any]:
    """Return everything that activations and probes depend on."""
    return {
        "data": context.data,
        "layout": LAYOUT,
        "data_set": name,
        "column1_vals": pair,
        "column2_vals": upstream_main.COLUMN2_VALS_LOOKUP.get(name),
        "train_set_size": config.train_set_size,
        "test_set_size": config.test_set_size,
        "context_length": config.context_length,
        "model": source.model_name,
        "model_identity": context.models.identity(source.model_name),
        "model_kwargs": source.model_kwargs,
        "hook": source.hook_name,
        "dtype": context.dtype,
        "device": context.device,
        "llm_batch_size": config.llm_batch_size,
        "seed": config.random_seed,
        "probe": {
            "epochs": config.probe_epochs,
            "patience": config.early_stopping_patience,
            "batch_size": config.probe_train_batch_size,
            "lr": config.probe_lr,
            "l1_penalty": config.probe_l1_penalty,
        },
    }


def _fill(
    folder: Path,
    context: RunContext,
    config: ScrAndTppEvalConfig,
    source: Source,
    model: HookedTransformer,
    name: str,
    pair: Pair | None,
) -> None:
    """Let upstream make the files of a data set; what would score an SAE does nothing."""
    with (
        tempfile.TemporaryDirectory(dir=folder) as partial,
        patched(upstream_main, "get_all_node_effects_for_one_sae", _nothing),
        patched(upstream_main, "perform_feature_ablations", _nothing),
    ):
        seed_everything(config.random_seed)
        upstream_main.run_eval_single_dataset(
            name,
            config,
            None,  # pyright: ignore[reportArgumentType]
            model,
            layer_of(source.hook_name),
            source.hook_name,
            context.device,
            partial,
            True,
            pair,
        )
        for pattern in ("*_probes.pkl", "*_activations.pt"):
            for file in Path(partial).glob(pattern):
                file.replace(folder / file.name)


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def layer_of(hook_name: str) -> int:
    """Return the number of a hook's block, as upstream reads it off its name."""
    found = re.search(r"\d+", hook_name)
    if found is None:
        raise ValueError(f"Hook {hook_name!r} names no block")
    return int(found[0])
