"""Checks of SAEs' configurations before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name
from sae_lens.loading.pretrained_sae_loaders import (
    NAMED_PRETRAINED_SAE_CONFIG_GETTERS,
    get_conversion_loader_name,
    load_sae_config_from_huggingface,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from eval_recipes.registry import Recipe
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from saereg_plugin.errors import InputError, brief
from saereg_plugin.releases.release import LOADER
from saereg_plugin.sources.trust import require_harmless, require_outside

Config = Mapping[str, Any]

NOT_COMPARED = frozenset({"metadata", "device", "init_seed"})
"""Fields of an SAE's configuration that may differ in a group."""

COMPARED_METADATA = (
    "model_name",
    "model_class_name",
    "model_from_pretrained_kwargs",
    "hook_name",
    "hook_head_index",
    "dataset_path",
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


def check_configurations(context: RunContext, chosen: Iterable[Recipe]) -> None:
    """
    Refuse SAEs whose model may run code, and groups that differ in more than their seed.

    Reads each SAE's configuration; no weights.

    Raises:
        InputError: naming the SAEs and fields.
    """
    configs = {subject: _config(subject) for subject in context.subjects}
    for subject, config in configs.items():
        check_model(subject, config, trusted=context.models.trust_remote_code)
    if any(recipe.over_groups for recipe in chosen):
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
    if folder is not None:
        require_outside(
            metadata.get("model_name"), folder, trusted=trusted, source=source
        )


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


def _config(subject: Subject) -> Config:
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


def _folder(release: str) -> Path | None:
    """Return where the files of a release are: its own folder, or the hub's in the cache."""
    known = get_pretrained_saes_directory().get(release)
    if known is None:
        return None
    if known.conversion_func == LOADER:
        return Path(known.repo_id)
    return Path(HF_HUB_CACHE) / repo_folder_name(
        repo_id=known.repo_id, repo_type="model"
    )
