"""What the recipe ``autointerp`` refuses before anything is loaded."""

from __future__ import annotations

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.chat import read_key
from eval_recipes.results.files import check_unique_paths
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.data import HUB_DATASET, hook_layer
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    AutoInterpOptions,
    autointerp_options,
    judge_config,
)
from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import require_hub_repo


def check(context: RunContext) -> None:
    """
    Refuse what cannot work before anything is loaded; the judge's server is left alone.

    Raises:
        InputError: for options, SAEs, text or address that nothing could run with, and for
            a missing key.
    """
    options = autointerp_options(context)
    check_unique_paths(context.subjects)
    for subject in context.subjects:
        _check_subject(subject, options)
    if options.dataset == "hub":
        if context.data != "hub":
            raise InputError(
                f"{EVAL} option 'dataset' is 'hub', but the run's data are "
                f"{context.data!r}; expected 'heldout', or a run on data of the hub."
            )
        require_hub_repo(
            HUB_DATASET,
            kind="dataset",
            advice=f"Set {EVAL} option 'dataset' to 'heldout'.",
        )
    if options.explainer == "judge":
        judge_config(context, options)
        read_key()


def _check_subject(subject: Subject, options: AutoInterpOptions) -> None:
    cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
    metadata = cfg.get("metadata") or cfg
    if hook := metadata.get("hook_name"):
        hook_layer(hook)
    if metadata.get("hook_head_index") is not None:
        raise InputError(
            f"SAE {subject.sae_id!r} reads a single head, which {EVAL} cannot; expected an "
            "SAE on a whole hook."
        )
    needed = max(options.latents) + 1 if options.latents else options.n_latents
    if cfg["d_sae"] < needed:
        raise InputError(
            f"SAE {subject.sae_id!r} has {cfg['d_sae']} latents, but {EVAL} was told to use "
            f"{'latent ' + str(needed - 1) if options.latents else needed}; choose fewer."
        )
