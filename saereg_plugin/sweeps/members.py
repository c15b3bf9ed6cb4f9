"""The SAEs of a sweep, each with its configuration checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import LoggingConfig, TrainingSAE, TrainingSAEConfig
from sae_lens.config import SAETrainerConfig

from saereg_plugin import machine
from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.architectures.config import RegularizedConfigMixin, check_components
from saereg_plugin.checks import require_name
from saereg_plugin.config import RunSettings
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.registry import training_classes
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sae_id
from saereg_plugin.sweeps.source import kind_of_source, with_source

MAX_WIDTH = 2**31 - 1
"""Largest d_sae: latents are counted in 32 bits."""

SPARSITY_WINDOW = 2000
"""Steps after which SAELens starts to count anew how often latents fire."""


@dataclass(frozen=True)
class Member:
    """One SAE of a sweep."""

    sae_id: str
    group: str
    seed: int
    cfg: TrainingSAEConfig
    point: str
    """Hook or submodule whose activations it is trained on."""


def expand(sweep: SweepConfig, facts: SourceFacts | None = None) -> list[Member]:
    """
    Return every SAE of a sweep, group by group, its configuration checked.

    Args:
        sweep: the sweep.
        facts: of its source, which ``with_source`` returned; by default they are found.

    Raises:
        InputError: naming the group, for an unknown architecture or field, a field that
            is missing or contradicts another, a hook the model does not have, a d_in
            that does not fit it, contexts longer than the model's, or a sweep that a
            regulariser or mechanic refuses.
    """
    if facts is None:
        sweep, facts = with_source(sweep)
    device = sweep.device
    if device == machine.AUTO:
        device = machine.resolve_device(device)
    members: list[Member] = []
    for name, given in group_fields(sweep).items():
        given = dict(given)
        point = given.pop("hook_name", sweep.hook_name)
        d_in = _width_of(facts, point, group=name)
        fields = {"d_in": d_in, **given, "device": device}
        if fields["d_in"] != d_in:
            raise InputError(
                f"Group {name!r}: d_in={fields['d_in']} does not fit {point!r} of model "
                f"{sweep.model!r}, which has {d_in} dimensions. Leave d_in out."
            )
        for seed in sweep.seeds:
            cfg = sae_config(fields, seed=seed, group=name)
            one_id = require_name("SAE id", sae_id(name, seed))
            members.append(Member(one_id, name, seed, cfg, point))
    check_members(sweep, members, facts)
    return members


def needs_token_order(member: Member) -> bool:
    """Return whether a regulariser of an SAE compares neighbouring tokens."""
    return any(
        regularizer.needs_token_order
        for regularizer in getattr(member.cfg, "regularizers", ())
    )


def _width_of(facts: SourceFacts, point: Any, *, group: str) -> int:
    """Return d_in at a point; refuse a point that the source does not have."""
    if point not in facts.points:
        raise InputError(
            f"Group {group!r}: no point {point!r}. {suggest(str(point), facts.points)}"
        )
    return facts.points[point]


def check_members(
    sweep: SweepConfig, members: Sequence[Member], facts: SourceFacts
) -> None:
    """
    Let the regularisers and mechanics of each group check the sweep.

    Raises:
        InputError: from the first that refuses it, naming its group.
    """
    for group in dict.fromkeys(member.group for member in members):
        first, *others = (member.cfg for member in members if member.group == group)
        settings = RunSettings(
            sae=first,
            others=others,
            model_name=sweep.model,
            context_size=facts.rows_per_input or sweep.context_size,
            batch_size=sweep.batch_size,
            mixing_fraction=sweep.mixing_fraction,
            prepend_bos=sweep.prepend_bos,
            exclude_special_tokens=facts.rows_per_input is None,
            source_kind=facts.cached_kind or kind_of_source(sweep),
            ordered=facts.ordered,
        )
        try:
            check_components(settings)
        except InputError as error:
            raise InputError(f"Group {group!r}: {error}") from error


def sae_config(
    fields: Mapping[str, Any], *, seed: int, group: str
) -> TrainingSAEConfig:
    """Make the configuration of one SAE; errors name its group."""
    values = dict(fields)
    architecture = values.pop("architecture", None)
    if not isinstance(architecture, str):
        raise InputError(
            f"Group {group!r} has no architecture; add for example 'regularized_topk'."
        )
    sae_class, config_class = training_classes(architecture)
    if not issubclass(config_class, RegularizedConfigMixin):
        raise InputError(
            f"Group {group!r}: {architecture!r} takes no seed of its own. Use "
            f"'regularized_{architecture}', which without regularisers trains the same SAE."
        )
    known = [field.name for field in dataclasses.fields(config_class)]
    for key in values:
        if key not in known:
            raise InputError(
                f"Group {group!r}: {architecture!r} has no field {key!r}. {suggest(key, known)}"
            )
    if "init_seed" in values:
        raise InputError(
            f"Group {group!r} sets init_seed, which would make its seeds equal; list them under 'seeds'."
        )
    if "d_sae" not in values:
        raise InputError(f"Group {group!r}: the field 'd_sae' is missing.")
    try:
        given: dict[str, Any] = {**values, "init_seed": seed}
        cfg = config_class(**given)
        machine.torch_dtype(cfg.dtype)
        if not 1 <= cfg.d_sae <= MAX_WIDTH:
            raise InputError(f"d_sae={cfg.d_sae}; expected 1 to {MAX_WIDTH}.")
        # SAELens checks some fields only when it builds the SAE; this costs no memory
        with torch.device("meta"):
            sae_class(dataclasses.replace(cfg, device="meta"))
    except TypeError as error:
        raise InputError(
            f"Group {group!r}: {architecture!r} cannot be built from its fields: {error}."
        ) from error
    except ValueError as error:
        raise InputError(f"Group {group!r}: {error}") from error
    return cfg


def build_sae(
    member: Member, sweep: SweepConfig, source: ActivationSource
) -> TrainingSAE[Any]:
    """Make one training SAE, with the metadata that SAELens' runner would give it."""
    sae = training_classes(member.cfg.architecture())[0](member.cfg).to(sweep.device)
    for key, value in source.metadata(member.point).items():
        sae.cfg.metadata[key] = value
    return sae


def trainer_config(sweep: SweepConfig, folder: Path) -> SAETrainerConfig:
    """Return SAELens' trainer configuration of a sweep."""
    return SAETrainerConfig(
        n_checkpoints=0,
        checkpoint_path=str(folder),
        save_final_checkpoint=False,
        total_training_samples=sweep.steps * sweep.batch_size,
        device=sweep.device,
        autocast=sweep.autocast is True,
        lr=sweep.lr,
        lr_end=sweep.lr / 10,
        lr_scheduler_name="constant",
        lr_warm_up_steps=sweep.lr_warm_up_steps,
        adam_beta1=0.9,
        adam_beta2=0.999,
        lr_decay_steps=int(sweep.lr_decay_fraction * sweep.steps),
        n_restart_cycles=1,
        train_batch_size_samples=sweep.batch_size,
        dead_feature_window=sweep.dead_feature_window,
        feature_sampling_window=SPARSITY_WINDOW,
        logger=LoggingConfig(log_to_wandb=False),
        n_batches_for_norm_estimate=1,
    )
