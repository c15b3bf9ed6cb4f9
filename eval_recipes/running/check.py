"""Checks of a run before anything is computed or replaced."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS,
    get_conversion_loader_name,
    load_sae_config_from_huggingface,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.activation_source import other_place, reads_other
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.running.options import MOST_AT_ONCE
from saereg_plugin import machine
from saereg_plugin.checks import require_count, require_seed
from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.machine import free_disk_bytes
from saereg_plugin.releases.hub import SNAPSHOTS, cached_repository, whole_folder
from saereg_plugin.releases.release import LOADER
from saereg_plugin.sources import corpora, models
from saereg_plugin.sources.hook_shapes import context_limit, hook_shape
from saereg_plugin.sources.models import require_harmless, require_outside, texts_in


def check_settings(context: RunContext) -> None:
    """
    Refuse sizes, seed, data type or device that no evaluation could work with.

    Raises:
        InputError: naming the setting and what was expected.
    """
    require_count("heldout_tokens", context.heldout_tokens, most=10**15)
    require_count("batch_size_prompts", context.batch_size_prompts, most=MOST_AT_ONCE)
    require_seed("seed", context.seed)
    if context.context_size is not None:
        require_count("context_size", context.context_size, least=2, most=1 << 30)
    checked_memory(context.memory_gib)
    checked_data(context.data)
    machine.torch_dtype(context.dtype)
    machine.require_device(context.device)


def check_any_source(context: RunContext, chosen: Iterable[Evaluation[Any]]) -> None:
    """
    Refuse SAEs on other activations for evaluations that need a language model.

    Raises:
        InputError: naming SAE and evaluation; or if an SAE of a language model is to read the
            run's given source.
    """
    closed = [one.name for one in chosen if not one.any_source]
    for subject in context.subjects:
        metadata = metadata_of(read_config(subject))
        if not reads_other(context, metadata):
            if context.source is not None:
                raise InputError(
                    f"SAE {subject.sae_id!r} reads the language model {metadata.get('model_name')!r}, and "
                    "not the source that was given (--source). Leave the SAE or the source out."
                )
        elif closed:
            raise InputError(
                f"SAE {subject.sae_id!r} reads {metadata.get('hook_name')!r} of "
                f"{metadata.get('model_name')!r}, and {closed[0]} needs an SAE on a language model of "
                "TransformerLens; leave the evaluation out."
            )


def check_sources(context: RunContext, chosen: Iterable[Evaluation[Any]]) -> None:
    """
    Refuse SAEs whose model or hook is unknown or of another width; fetch what is missing.

    Only what one of the evaluations reads is looked at.

    Raises:
        InputError: naming the SAE; for more held-out tokens than the text has, more tokens in
            a context than the model reads, or results that have no place on the disk.
    """
    evaluations = list(chosen)
    on_text = [
        subject
        for subject in context.subjects
        if not reads_other(context, metadata_of(read_config(subject)))
    ]
    if on_text and any(evaluation.reads_text for evaluation in evaluations):
        _check_text(context)
    if not any(evaluation.reads_model for evaluation in evaluations):
        return
    n_latents = 0
    checked: set[SubjectFacts] = set()
    for subject in context.subjects:
        facts = SubjectFacts.read(subject)
        n_latents += facts.d_sae
        if subject not in on_text:
            _check_other(context, subject)
            continue
        source = dataclasses.replace(facts, sae_id="", d_sae=0)
        if source in checked or not (facts.model_name and facts.hook_name):
            continue
        checked.add(source)
        _check_width(facts)
        _check_context_size(context, evaluations, facts)
        models.ensure(facts.model_name)
    require_space(
        context.out,
        n_latents * sum(evaluation.bytes_per_latent for evaluation in evaluations),
    )


def _check_other(context: RunContext, subject: Subject) -> None:
    """Refuse an SAE whose held-out activations cannot be opened, or do not fit."""
    config = read_config(subject)
    if "d_in" not in config:
        # SAELens cannot read it without the weights
        return
    try:
        other_place(context, metadata_of(config), d_in=int(config["d_in"]))
    except InputError as error:
        raise InputError(f"SAE {subject.sae_id!r}: {error}") from error


def _check_text(context: RunContext) -> None:
    """Refuse more held-out tokens than the text could have, whatever the tokenizer."""
    most = most_tokens(corpora.held_out(context.corpus).file)
    if context.heldout_tokens > most:
        raise InputError(
            f"heldout_tokens is {context.heldout_tokens:,}, but the held-out text of corpus "
            f"{context.corpus!r} has fewer than {most:,} tokens. Ask for fewer "
            "(--heldout-tokens), or choose a longer text (--corpus)."
        )


def most_tokens(file: Path) -> int:
    """Return an upper bound of a text's tokens: a token is a byte or more."""
    (values,) = pd.read_parquet(file).to_numpy().T
    size = sum(
        len(value.encode() if isinstance(value, str) else value) for value in values
    )
    # each text may get a separator and a space, and each context one more token
    return 2 * (size + 2 * len(values))


def _check_width(facts: SubjectFacts) -> None:
    assert facts.model_name is not None
    width = hook_shape(
        facts.model_name, facts.hook_name, hook_head_index=facts.hook_head_index
    )
    if width != facts.d_in:
        raise InputError(
            f"SAE {facts.sae_id!r} has d_in={facts.d_in}, but {facts.hook_name!r} of model "
            f"{facts.model_name!r} has {width} dimensions. Correct the SAE's metadata, or get "
            "the release again."
        )


def _check_context_size(
    context: RunContext,
    evaluations: Collection[Evaluation[Any]],
    facts: SubjectFacts,
) -> None:
    model = str(facts.model_name)
    limit = facts.n_ctx or context_limit(model)
    sizes = {"context_size": context.context_size}
    reading = [evaluation for evaluation in evaluations if evaluation.reads_model]
    if context.context_size is None and not all(e.context_option for e in reading):
        sizes = {f"context_size of SAE {facts.sae_id!r}": facts.context_size}
    for evaluation in sorted(reading, key=lambda evaluation: evaluation.name):
        if option := evaluation.context_option:
            given = context.options.get(evaluation.name, {})
            sizes[f"option {evaluation.name}.{option}"] = given.get(option)
    for name, size in sizes.items():
        if isinstance(size, int) and size > limit:
            raise InputError(
                f"The {name} is {size:,}, but model {model!r} reads at most {limit:,} tokens. "
                "Choose a smaller one."
            )


def require_space(folder: Path, needed: int) -> None:
    """
    Refuse to start what the disk has no room for.

    The folder may be missing; ``needed`` bytes are the least that is written.

    Raises:
        InputError: if fewer are free.
    """
    free = free_disk_bytes(folder)
    if needed > free:
        raise InputError(
            f"The results take {needed / 2**30:.1f} GiB or more, and the disk of "
            f"{str(folder)!r} has {free / 2**30:.1f} GiB free. Make room, or choose another "
            "folder (--out)."
        )


def checked_data(data: str) -> Literal["hub", "embedded"]:
    """
    Return where labelled texts come from.

    Raises:
        InputError: for another word than "hub" or "embedded".
    """
    if data == "hub" or data == "embedded":
        return data
    raise InputError(f"Unknown data {data!r}. {suggest(data, ('hub', 'embedded'))}")


def checked_memory(gib: float) -> float:
    """
    Return the bound on memory.

    Raises:
        InputError: if it is not above 0 or not finite.
    """
    if not (math.isfinite(gib) and gib > 0):
        raise InputError(
            f"The memory bound is {gib} GiB; expected a finite number above 0. Correct it "
            "(--memory-gib)."
        )
    return gib


Config = Mapping[str, Any]

NOT_COMPARED = frozenset({"metadata", "device", "init_seed", "config"})
"""Fields of an SAE's configuration that may differ in a group."""

COMPARED_METADATA = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_head_index",
    "dataset_path",
    "activation_source",
    "context_size",
    "seqpos_slice",
    "prepend_bos",
    "exclude_special_tokens",
    "disable_concat_sequences",
    "sequence_separator_token",
    "training_architecture",
    "training_architecture_details",
)
"""Fields of the metadata that the SAEs of a group share; the others are measured or of versions."""


def check_configurations(
    context: RunContext, chosen: Iterable[Evaluation[Any]]
) -> None:
    """
    Refuse SAEs whose model may run code, and groups that differ in more than their seed.

    Reads each SAE's configuration; no weights.

    Raises:
        InputError: naming the SAEs and fields.
    """
    configs = {subject: read_config(subject) for subject in context.subjects}
    for subject, config in configs.items():
        check_model(subject, config, trusted=context.models.trust_remote_code)
    if any(evaluation.over_groups for evaluation in chosen):
        check_groups(configs)


def check_model(subject: Subject, config: Config, *, trusted: bool) -> None:
    """
    Refuse a model that may run code, unless the release is trusted.

    Raises:
        InputError: naming the SAE and the field.
    """
    metadata = config.get("metadata") or {}
    source = f"SAE {subject.sae_id!r}"
    require_harmless(
        metadata.get("model_from_pretrained_kwargs"), trusted=trusted, source=source
    )
    folder = _folder(subject.release)
    if folder is None:
        return
    require_outside(metadata.get("model_name"), folder, trusted=trusted, source=source)
    for name in texts_in((metadata.get("activation_source") or {}).get("config")):
        require_outside(name, folder, trusted=trusted, source=source)


def check_groups(configs: Mapping[Subject, Config]) -> None:
    """
    Refuse groups whose SAEs differ in more than their seed.

    Raises:
        InputError: naming two SAEs, and each field with both values.
    """
    first: dict[str, Subject] = {}
    for subject, config in configs.items():
        other = first.setdefault(subject.group, subject)
        differences = differing_fields(configs[other], config)
        if differences:
            fields = "; ".join(
                f"{name}: {brief(mine)} and {brief(its)}"
                for name, (mine, its) in differences.items()
            )
            raise InputError(
                f"SAEs {other.sae_id!r} and {subject.sae_id!r} of group {subject.group!r} differ in "
                f"{fields}. Expected SAEs that differ only in their seed. Put them into different "
                "groups with --group-by, or leave some out with --sae-id."
            )


def differing_fields(one: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Return the fields, seed and measurements aside, in which two SAEs differ, with both values."""
    mine, its = _compared(one), _compared(other)
    return {
        name: (mine.get(name), its.get(name))
        for name in dict.fromkeys([*mine, *its])
        if mine.get(name) != its.get(name)
    }


def _compared(config: Config) -> dict[str, Any]:
    metadata = config.get("metadata") or {}
    fields = {key: config[key] for key in config if key not in NOT_COMPARED}
    for name in COMPARED_METADATA:
        value = metadata.get(name)
        if isinstance(value, Mapping):
            fields |= {
                f"{name}.{key}": item
                for key, item in value.items()
                if key not in NOT_COMPARED
            }
        else:
            fields[name] = value
    return fields


def read_config(subject: Subject) -> Config:
    """Return an SAE's configuration; empty where SAELens cannot read it without the weights."""
    known = get_pretrained_saes_directory().get(subject.release)
    if known is None:
        return {}
    if (
        get_conversion_loader_name(subject.release)
        not in NAMED_PRETRAINED_SAE_CONFIG_GETTERS
    ):
        return {}
    return load_sae_config_from_huggingface(subject.release, subject.sae_id)


def metadata_of(config: Config) -> Config:
    """Return the metadata in an SAE's configuration, or the configuration if it is flat."""
    return config.get("metadata") or config


def _folder(release: str) -> Path | None:
    """Return where the files of a release are: its own folder, or the hub's in the cache."""
    known = get_pretrained_saes_directory().get(release)
    if known is None:
        return None
    folder = Path(known.repo_id)
    if known.conversion_func == LOADER or folder in SNAPSHOTS:
        return whole_folder(folder)
    return cached_repository(known.repo_id)
