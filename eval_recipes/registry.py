"""Every evaluation by name; nothing is imported until it is used."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from types import MappingProxyType
from typing import Any

_SAEBENCH = "eval_recipes.saebench"

RECIPES = {
    "core": f"{_SAEBENCH}.core.main:CoreEvaluation",
    "cross_seed": "eval_recipes.cross_seed.main:CrossSeedEvaluation",
    "death": "eval_recipes.death.main:DeathEvaluation",
    "examples": "eval_recipes.examples.main:ExamplesEvaluation",
    "sparse_probing": f"{_SAEBENCH}.sparse_probing.main:SparseProbingEvaluation",
    "sae_probes": f"{_SAEBENCH}.sae_probes.main:SaeProbesEvaluation",
    "scr": f"{_SAEBENCH}.scr_tpp.main:ScrEvaluation",
    "tpp": f"{_SAEBENCH}.scr_tpp.main:TppEvaluation",
    "absorption": f"{_SAEBENCH}.absorption.main:AbsorptionEvaluation",
    "autointerp": f"{_SAEBENCH}.autointerp.main:AutoInterpEvaluation",
    "meta_structure": f"{_SAEBENCH}.meta_structure.main:MetaStructureEvaluation",
    "vocabulary": "eval_recipes.vocabulary.main:VocabularyEvaluation",
    "vision": "eval_recipes.vision.main:VisionEvaluation",
    "mdl": "eval_recipes.mdl.main:MdlEvaluation",
    "attribution": "eval_recipes.attribution.main:AttributionEvaluation",
    "steering": "eval_recipes.steering.main:SteeringEvaluation",
}
"""
Name of an evaluation -> "module:Class" (``eval_recipes.running.evaluation.Evaluation``).

An evaluation of your own is entered here before the command line is run.
"""


def evaluation_names(names: Iterable[str]) -> list[str]:
    """
    Return the names of evaluations in the order given, each once.

    Raises:
        InputError: for an unknown name, with the nearest one, and for one of SAEBench's
            that is unavailable, with the reason.
    """
    # importing any module of saereg_plugin imports torch, and --help needs the names alone
    from saereg_plugin.errors import InputError, suggest

    chosen = list(dict.fromkeys(names))
    for name in chosen:
        if name in UNAVAILABLE and name not in RECIPES:
            raise InputError(
                f"Evaluation {name!r} is unavailable: {UNAVAILABLE[name]}. "
                f"Available: {', '.join(RECIPES)}."
            )
        if name not in RECIPES:
            raise InputError(f"Unknown evaluation {name!r}. {suggest(name, RECIPES)}")
    if not chosen:
        raise InputError(f"No evaluation was named. Known: {', '.join(RECIPES)}.")
    return chosen


def load_evaluation(name: str) -> Any:
    """Return an evaluation for one run; its module is imported."""
    module, _, cls = RECIPES[name].partition(":")
    return getattr(import_module(module), cls)()


UNAVAILABLE = MappingProxyType(
    {
        "ravel": (
            "SAEBench 0.6 downloads its prompts with an argument that huggingface-hub has "
            "dropped (local_dir_use_symlinks), and with transformers 5, whose decoder layers "
            "return a tensor, it takes the first row of a batch for the whole of it and its "
            "interventions stop with 'Unexpected output shape'; it also knows only "
            "gemma-2-2b and pythia-160m-deduped"
        ),
        "unlearning": (
            "SAEBench 0.6 has prompts for gemma-2 instruct models only, and reads gated data "
            "(WMDP's bio-forget-corpus) at a path relative to the working folder, "
            "./sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl"
        ),
    }
)
"""Name -> reason; measured with sae-bench 0.6.0, transformers 5.23, huggingface-hub 2.4."""
