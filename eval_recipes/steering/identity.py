"""Contents that decide a result, and settings unlike the published ones."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.cross_seed.stability import read_stability
from eval_recipes.results.files import read_result
from eval_recipes.results.subject import Subject
from eval_recipes.steering.generate.prompts import PUBLISHED_PROMPTS
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.candidates import find_result, given_explanations

MODEL = "pythia-70m-deduped"
HOOK = "blocks.3.hook_resid_post"
JUDGE = "gpt-5.1"
ALPHA = 5.0
LATENTS = 300


def origin_of(config: SteeringEvalConfig) -> str:
    """Return what the explanations come from: a result, a file, or this run."""
    if config.explanations is None:
        return "this run"
    return "file" if Path(config.explanations).is_file() else "result"


def contents_read(subject: Subject, config: SteeringEvalConfig) -> dict[str, str]:
    """
    Return hashes of what is read of other results and files, by evaluation.

    Date and id of a result are not read.

    Raises:
        InputError: for a result or file that is missing or damaged.
    """
    found: dict[str, str] = {}
    if config.stability is not None:
        path = find_result(Path(config.stability), subject, eval="cross_seed")
        # refuses a table that is not the result's
        read_stability(path)
        named = read_result(path)["eval_result_unstructured"]["stability_table"]
        found["cross_seed"] = str(named["sha256"])
    if config.explanations is not None:
        known = given_explanations(Path(config.explanations), subject).explanations
        read = {
            str(latent): dataclasses.asdict(known[latent]) for latent in sorted(known)
        }
        found["autointerp"] = hashlib.sha256(json.dumps(read).encode()).hexdigest()
    return found


def differences(
    sae: SAE[Any], config: SteeringEvalConfig, explainer: str
) -> dict[str, Any]:
    """
    Return the settings in which a run is not the published one, with their values.

    Explanations count as published if a language model made them; which one the paper does
    not fix for others.

    ``explainer`` made the explanations: "tokens", "n2g", or a model's name.
    """
    metadata = sae.cfg.metadata
    model = str(metadata.model_name).rpartition("/")[2]
    judge = config.judge_model if config.judges[0] == "chat" else config.judges[0]
    found = {
        "model": (model, MODEL),
        "hook": (metadata.hook_name, HOOK),
        "judge": (judge, JUDGE),
        "judge_temperature": (config.judge_temperature, 0.0),
        "select": (config.select if config.latents is None else "given", "random"),
        "n_latents": (config.n_latents, LATENTS),
        "prompts": (tuple(config.prompts), PUBLISHED_PROMPTS),
        "strength_mode": (config.strength_mode, "fixed"),
        "amount": (config.amounts[0], ALPHA),
        "positions": (config.positions, "generation"),
        "new_tokens": (config.new_tokens, 30),
        "greedy": (config.greedy, False),
        "temperature": (config.temperature, 0.7),
        "top_p": (config.top_p, 0.9),
        "samples_per_prompt": (config.samples_per_prompt, 1),
    }
    differing: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, published) in found.items()
        if value != published
    }
    if explainer in ("tokens", "n2g"):
        differing["explainer"] = explainer
    return differing
