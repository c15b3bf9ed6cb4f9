"""Settings of the recipe ``absorption``, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.results.files import check_unique_paths
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import options_of
from saereg_plugin.errors import InputError

EVAL = "absorption"

HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_post")
# Upstream looks at the ten latents with the largest projection.
_LEAST_LATENTS = 10


@dataclass(frozen=True)
class AbsorptionOptions:
    """Settings, ``RunContext.options["absorption"]``."""

    words_per_letter: int | None = 100
    """Words of each letter; None takes all, as published: 47,000 for SmolLM2, hours on a CPU."""

    max_k_value: int = 10
    """Largest number of latents that may detect a letter; upstream's default."""

    f1_jump_threshold: float = 0.03
    """Rise in F1 from which a further latent counts as a split; upstream's default."""

    k_sparse_probe_l1_decay: float = 0.01
    """L1 penalty of the probe that ranks latents; upstream's default."""

    k_sparse_probe_batch_size: int = 512
    """Words in a step of that probe; upstream's 4096 leaves too few steps with few words."""

    k_sparse_probe_num_epochs: int = 50
    """Passes over the words; upstream's default."""

    min_GT_probe_f1: float = 0.6
    """A letter counts if its probe on the model's activations is better; upstream's default."""

    min_feats_for_eval: int = 20
    """With fewer such letters there is no result; upstream's default."""


def options(context: RunContext) -> AbsorptionOptions:
    """
    Return the recipe's settings.

    Raises:
        InputError: for an unknown name or a value out of range.
    """
    given = options_of(EVAL, AbsorptionOptions, context.options.get(EVAL, {}))
    least = {
        "words_per_letter": 10,
        "max_k_value": 1,
        "k_sparse_probe_batch_size": 1,
        "k_sparse_probe_num_epochs": 1,
        # Upstream takes a standard deviation over letters.
        "min_feats_for_eval": 2,
    }
    for name, minimum in least.items():
        value = getattr(given, name)
        if name == "words_per_letter" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise InputError(
                f"absorption option {name!r} is {value!r}; expected an integer of at least {minimum}."
            )
    for name in ("f1_jump_threshold", "k_sparse_probe_l1_decay", "min_GT_probe_f1"):
        value = getattr(given, name)
        if not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(
                f"absorption option {name!r} is {value!r}; expected a number from 0 to 1."
            )
    return given


def check(context: RunContext) -> None:
    """
    Refuse what the evaluation cannot work on, before anything is loaded.

    Raises:
        InputError: naming the option, or the SAE and its hook.
    """
    least = max(_LEAST_LATENTS, options(context).max_k_value)
    check_unique_paths(context.subjects)
    for subject in context.subjects:
        cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
        metadata: Mapping[str, Any] = cfg.get("metadata", cfg)
        hook = str(metadata.get("hook_name"))
        if not HOOK.fullmatch(hook):
            raise InputError(
                f"absorption cannot serve hook {hook!r} of SAE {subject.sae_id!r}: SAEBench reads "
                "'blocks.<layer>.hook_resid_post' whatever the SAE was trained on."
            )
        if cfg["d_sae"] < least:
            raise InputError(
                f"SAE {subject.sae_id!r} has {cfg['d_sae']} latents; absorption needs {least}."
            )
