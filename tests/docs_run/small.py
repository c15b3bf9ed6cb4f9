"""Sizes at which the tests run what the docs show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from eval_recipes.running.evaluate import DEFAULT_EVALS
from tests.eval_recipes.running.every_eval import OPTIONS

RELEASE_COMMAND = "saereg-bench train --out my-release --coefficient 0,5e-3 --k 32"
RESULTS_COMMAND = (
    "saereg-bench run --sae-release my-release --out results --evals core,cross_seed"
)
HOOK = "blocks.0.hook_resid_post"
WIDTH = 16
"""Of the residual stream of ``small_model``."""
LATENTS = 512
"""SCR and TPP ablate up to 500."""
TOKENS = 4096
BATCH = 256
HELDOUT_TOKENS = 1024
OWN_OPTIONS: dict[str, dict[str, Any]] = {
    "core": {
        "n_eval_reconstruction_batches": 1,
        "n_eval_sparsity_variance_batches": 1,
        "eval_batch_size_prompts": 2,
    },
    "vision": {
        "judges": ["squeezenet"],
        "judge_image_size": 32,
        "n_images": 60,
        "n_blocks": 5,
    },
}
"""Options of evaluations here, instead of or next to those of ``every_eval``."""


def smaller_words(words: list[str], model: Path) -> list[str]:
    """
    Return a command of the docs with smaller sizes.

    ``train`` without a file gets a small model, width and length as further flags, of which
    the last one counts. ``run`` gets few tokens. Commands that keep artefacts get a folder
    of their own, so that those of the user stay.
    """
    kind = words[1] if len(words) > 1 else ""
    if kind == "train" and not {"--config", "--match-alive"} & set(words):
        return [*_with_small_hook(words), *_train_flags(words, model)]
    if kind == "cache" and not {"--config", "--source"} & set(words):
        return [*words, "--model", str(model), "--hook", HOOK, "--tokens", str(TOKENS)]
    if kind == "finetune":
        return [*words, "--tokens", str(TOKENS)]
    if kind == "run":
        return [*words, *_run_flags(words), "--artifacts", "artifacts"]
    return [*words, "--artifacts", "artifacts"] if kind == "artifacts" else words


def _with_small_hook(words: list[str]) -> list[str]:
    """Return the words with a hook of the small model, where they name one of a larger one."""
    if "--hook" not in words or "--source" in words or "*" in " ".join(words):
        return words
    place = words.index("--hook") + 1
    return [*words[:place], HOOK, *words[place + 1 :]]


def _train_flags(words: list[str], model: Path) -> list[str]:
    flags: dict[str, Any] = {
        "d-sae": LATENTS,
        "tokens": TOKENS,
        "batch-size": BATCH,
    }
    if "--source" not in words:
        flags["model"] = model
    if not {"--source", "--hook"} & set(words):
        # of a flag that is repeated, every hook would be trained on
        flags["hook"] = HOOK
    if "--seed" not in words:
        flags["seed"] = "0,1"
    return [str(word) for name, value in flags.items() for word in (f"--{name}", value)]


def _run_flags(words: list[str]) -> list[str]:
    flags = ["--heldout-tokens", str(HELDOUT_TOKENS)]
    compares_groups = {"core", "cross_seed", "vocabulary", "vision"} & set(
        evaluations_of(words)
    )
    if "--sae-id" not in words and ("--offline" in words or not compares_groups):
        # two SAEs are enough
        flags += ["--sae-id", "none-*"]
    if not {"--data", "--offline"} & set(words):
        flags += ["--data", "embedded"]
    for name in evaluations_of(words):
        options = {**OPTIONS.get(name, {}), **OWN_OPTIONS.get(name, {})}
        for option, value in options.items():
            flags += ["--option", f"{name}.{option}={json.dumps(value)}"]
    return flags


def evaluations_of(words: list[str]) -> list[str]:
    """Return the evaluations that a ``run`` asks for."""
    if "--evals" not in words:
        return list(DEFAULT_EVALS)
    return words[words.index("--evals") + 1].split(",")


def smaller_file(language: str, text: str, model: Path) -> str:
    """Return a file of the docs; a sweep has smaller sizes, and a small language model."""
    sweep: Any = yaml.safe_load(text) if language == "yaml" else {}
    if not {"hook_name", "source"} & set(sweep):
        return text
    sweep.update(tokens=TOKENS, batch_size=BATCH, seeds=[0, 1])
    if "source" not in sweep:
        sweep.update(model=str(model), hook_name=HOOK)
    sweep["sae"]["d_sae"] = LATENTS
    return yaml.safe_dump(sweep, sort_keys=False)


def smaller_python(text: str, model: Path) -> str:
    """Return a Python block of the docs with smaller sizes."""
    sizes = [
        (r"smollm2-135m-instruct", str(model)),
        (r"blocks\.\d+\.", "blocks.0."),
        (r"\bd_in=[\d_]+", f"d_in={WIDTH}"),
        (r"""(\bd_sae(?:=|["']: ))[\d_]+""", rf"\g<1>{LATENTS}"),
        (r"\btokens=[\d_]+", f"tokens={TOKENS}"),
        (r"\btraining_tokens=[\d_]+", f"training_tokens={2 * TOKENS}"),
        (r"\bheldout_tokens=[\d_]+", f"heldout_tokens={HELDOUT_TOKENS}"),
        (r"""("n_eval_\w+": )\d+""", r"\g<1>1"),
    ]
    for pattern, value in sizes:
        text = re.sub(pattern, value, text)
    if "heldout_tokens" not in text:
        given = f"heldout_tokens={HELDOUT_TOKENS}, "
        text = re.sub(r"(evaluate\([^)]*?)(out=)", rf"\g<1>{given}\g<2>", text)
        text = re.sub(r"(RunContext\(\s*)(subjects=)", rf"\g<1>{given}\g<2>", text)
    if "model=" not in text and not re.search(r"sr\.train\(\s*source\b", text):
        text = text.replace("sr.train(", f"sr.train(model={str(model)!r}, ")
    return text
