"""Checks of SCR and TPP before anything is loaded."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.results.files import check_unique_paths
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import options_of
from eval_recipes.saebench.scr_tpp.output import PUBLISHED_N
from eval_recipes.saebench.scr_tpp.spec import SIZES, Kind, ScrAndTppOptions
from eval_recipes.saebench.upstream import has_heads, require_dataset
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.machine import torch_dtype

# Upstream needs one vector a token, and the block's number to stop the model there.
_SERVED_HOOK = re.compile(r"blocks\.\d+\.")


def check(context: RunContext, kind: Kind) -> ScrAndTppOptions:
    """
    Refuse what the eval cannot work on; return its settings with nothing left open.

    Raises:
        InputError: for options, SAEs, sizes or data sets that cannot work.
    """
    options = checked_options(context, kind)
    check_unique_paths(context.subjects)
    for subject in context.subjects:
        _check_subject(context, kind, options, subject)
    if context.data == "hub":
        repositories = kind.hub_sets()
        for name in {repositories[name] for name in options.dataset_names}:
            require_dataset(name)
    return options


def checked_options(context: RunContext, kind: Kind) -> ScrAndTppOptions:
    """
    Return the settings with nothing left open.

    Raises:
        InputError: for an unknown name or a value that cannot work.
    """
    given = context.options.get(kind.eval, {})
    options = options_of(kind.eval, ScrAndTppOptions, given)
    n_train, n_test = SIZES[context.data]
    train, test = options.train_set_size, options.test_set_size
    options = dataclasses.replace(
        options,
        train_set_size=n_train if train is None else train,
        test_set_size=n_test if test is None else test,
    )
    for name in (
        "train_set_size",
        "test_set_size",
        "context_length",
        "probe_epochs",
        "sae_batch_size",
        "n_resamples",
    ):
        if not _is_positive(getattr(options, name)):
            raise InputError(
                f"{kind.eval} option {name!r} is {getattr(options, name)!r}; expected a "
                "positive integer."
            )
    if not isinstance(options.fast_ablation, bool):
        raise InputError(
            f"{kind.eval} option 'fast_ablation' is {options.fast_ablation!r}; expected "
            "true or false."
        )
    return dataclasses.replace(
        options,
        dataset_names=_checked_names(context, kind, options),
        n_values=_checked_n(kind, options.n_values),
    )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _checked_n(kind: Kind, values: Any) -> tuple[int, ...]:
    known = ", ".join(map(str, PUBLISHED_N))
    if isinstance(values, (str, int)) or not isinstance(values, Iterable):
        raise InputError(
            f"{kind.eval} option 'n_values' is {values!r}; expected a list of some of {known}."
        )
    chosen = tuple(sorted(set(values)))
    if not chosen or not set(chosen) <= set(PUBLISHED_N):
        raise InputError(
            f"{kind.eval} option 'n_values' is {list(chosen)}; expected some of {known}, for "
            "which SAEBench's format has fields."
        )
    return chosen


def _checked_names(
    context: RunContext, kind: Kind, options: ScrAndTppOptions
) -> tuple[str, ...]:
    if isinstance(options.dataset_names, str):
        raise InputError(
            f"{kind.eval} option 'dataset_names' is {options.dataset_names!r}; expected a list."
        )
    if context.data == "embedded":
        known: Iterable[str] = kind.embedded_sets()
        default = kind.default_embedded
    else:
        known = kind.hub_sets()
        default = (
            "LabHC/bias_in_bios_class_set1",
            "canrager/amazon_reviews_mcauley_1and5",
        )
    names = tuple(options.dataset_names) or default
    for name in names:
        if name not in known:
            raise InputError(
                f"Unknown {kind.eval} data set {name!r} for data {context.data!r}. "
                f"{suggest(name, known)}"
            )
        if context.data == "embedded":
            sizes = options.train_set_size, options.test_set_size
            kind.check_sizes(name, sizes[0] or 0, sizes[1] or 0)
    if len(set(names)) < len(names):
        raise InputError(f"{kind.eval} option 'dataset_names' names a set twice.")
    return names


def _check_subject(
    context: RunContext, kind: Kind, options: ScrAndTppOptions, subject: Subject
) -> None:
    """Refuse an SAE that the eval cannot serve, from its configuration alone."""
    cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
    metadata = cfg.get("metadata") or cfg
    hook = str(metadata.get("hook_name"))
    head = metadata.get("hook_head_index")
    about = f"SAE {subject.sae_id!r}"
    if not _SERVED_HOOK.match(hook) or has_heads(hook) or head is not None:
        on_head = "" if head is None else f" (head {head})"
        raise InputError(
            f"{about} reads {hook!r}{on_head}; {kind.eval} expected a hook of a block with one "
            "vector a token, such as 'blocks.4.hook_resid_post'. Leave this SAE or "
            f"{kind.eval} out."
        )
    if cfg.get("normalize_activations") == "constant_norm_rescale":
        raise InputError(
            f"{about} divides by the norm of its input, which is 0 at the padded positions "
            f"that upstream hands it; {kind.eval} cannot evaluate it. Leave it out."
        )
    largest, d_sae = max(options.n_values), int(cfg["d_sae"])
    if largest > d_sae:
        raise InputError(
            f"{about} has {d_sae} latents and {kind.eval} is to ablate {largest}; expected at "
            "most as many. Set its option 'n_values' to smaller numbers."
        )
    size = (options.train_set_size or 0), (options.test_set_size or 0)
    texts = max(
        kind.texts(name, size[0]) + kind.texts(name, size[1])
        for name in options.dataset_names
    )
    values = texts * options.context_length * int(cfg["d_in"])
    gib = values * torch_dtype(context.dtype).itemsize / 2**30
    if gib > context.memory_gib:
        raise InputError(
            f"{kind.eval} would hold {gib:.1f} GiB of activations ({texts} texts of "
            f"{options.context_length} tokens) and may hold {context.memory_gib:g}. Allow more "
            "memory, or choose a smaller train_set_size, test_set_size or context_length."
        )
