"""Checks of a runner's configuration before the language model runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_lens import (
    LanguageModelSAERunnerConfig,
    MultiSAETrainingRunnerConfig,
    TrainingSAEConfig,
)
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME

from saereg_plugin.architectures.config import RegularizedConfigMixin, check_components
from saereg_plugin.checks import require_field_types
from saereg_plugin.config import RunSettings
from saereg_plugin.errors import InputError
from saereg_plugin.files import read_json, require_writable
from saereg_plugin.machine import require_device, torch_dtype
from saereg_plugin.sources.hook_shapes import hook_shape, require_context

UNPROBED_CLASSES = ("HookedMamba",)
"""Models that SAELens can load and that have unknown hooks without their weights."""


def check(
    cfg: LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig,
) -> None:
    """
    Refuse a runner configuration that cannot work, in seconds and without weights.

    Checks the SAE's fields, that the model is known, the hook exists and has the SAE's
    d_in, the device exists, contexts are not longer than the model's, the output folder
    is writable, a starting checkpoint has the SAE's architecture, the batch fits the tokens and
    the buffer,
    and each regulariser and mechanic accepts the run (``check_run``).

    Raises:
        InputError: naming the value, what was expected and what to do.
    """
    require_device(cfg.device)
    torch_dtype(cfg.dtype)
    if isinstance(cfg, MultiSAETrainingRunnerConfig):
        saes = list(cfg.saes.values())
        for name, sae in cfg.saes.items():
            check_sae(sae)
            head = cfg.hook_head_indices_per_sae[name]
            check_hook(cfg, cfg.hook_names_per_sae[name], sae.d_in, head)
    else:
        saes = [cfg.sae]
        check_sae(cfg.sae)
        check_hook(cfg, cfg.hook_name, cfg.sae.d_in, cfg.hook_head_index)
        check_starting_point(cfg)
    for number, sae in enumerate(saes):
        others = [*saes[:number], *saes[number + 1 :]]
        check_components(_settings(cfg, sae, others))
    if cfg.model_class_name == "HookedTransformer":
        require_context(cfg.model_name, cfg.context_size)
    if cfg.training_tokens < cfg.train_batch_size_tokens:
        raise InputError(
            f"training_tokens={cfg.training_tokens} is less than one batch of "
            f"train_batch_size_tokens={cfg.train_batch_size_tokens}; nothing would be trained."
        )
    _require_buffer(cfg)
    if cfg.output_path is not None:
        require_writable(Path(cfg.output_path))


def _require_buffer(
    cfg: LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig,
) -> None:
    """Refuse a buffer smaller than a batch, which SAELens refuses once the model is loaded."""
    kept = len(range(cfg.context_size)[slice(*cfg.seqpos_slice)])
    size = cfg.n_batches_in_buffer * kept
    if size < cfg.train_batch_size_tokens:
        raise InputError(
            f"The buffer holds n_batches_in_buffer={cfg.n_batches_in_buffer} times {kept} tokens of a "
            f"context, {size} in all; expected at least train_batch_size_tokens="
            f"{cfg.train_batch_size_tokens}. Set n_batches_in_buffer="
            f"{-(-cfg.train_batch_size_tokens // max(kept, 1))} or more."
        )


def _settings(
    cfg: LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig,
    sae: TrainingSAEConfig,
    others: list[TrainingSAEConfig],
) -> RunSettings:
    return RunSettings(
        sae=sae,
        others=others,
        model_name=cfg.model_name,
        model_class_name=cfg.model_class_name,
        context_size=cfg.context_size,
        batch_size=cfg.train_batch_size_tokens,
        mixing_fraction=cfg.activations_mixing_fraction,
        prepend_bos=cfg.prepend_bos,
        exclude_special_tokens=cfg.exclude_special_tokens,
        seqpos_slice=cfg.seqpos_slice,
    )


def check_sae(cfg: TrainingSAEConfig) -> None:
    """Refuse fields that contradict one another; they may have changed since their check."""
    require_field_types(cfg)
    k: float | None = getattr(cfg, "k", None)
    if k is not None and not 0 < k <= cfg.d_sae:
        raise InputError(
            f"k={k} with d_sae={cfg.d_sae}; expected d_sae of at least 1 and k from 1 to d_sae."
        )
    if isinstance(cfg, RegularizedConfigMixin):
        cfg.validate()


def check_hook(
    cfg: LanguageModelSAERunnerConfig[Any] | MultiSAETrainingRunnerConfig,
    hook_name: str,
    d_in: int,
    head: int | None,
) -> None:
    """Refuse an unknown model or hook, and a d_in that is not the hook's width."""
    if cfg.model_class_name in UNPROBED_CLASSES:
        return
    width = hook_shape(
        cfg.model_name,
        hook_name,
        hook_head_index=head,
        model_class_name=cfg.model_class_name,
    )
    if width != d_in:
        raise InputError(
            f"d_in={d_in} does not fit {hook_name!r} of model {cfg.model_name!r}, which has "
            f"{width} dimensions. Set d_in={width}."
        )


def check_starting_point(cfg: LanguageModelSAERunnerConfig[Any]) -> None:
    """Refuse a from_pretrained_path from which SAELens would load another architecture."""
    if cfg.from_pretrained_path is None or not isinstance(
        cfg.sae, RegularizedConfigMixin
    ):
        return
    folder = Path(cfg.from_pretrained_path)
    cfg_file = folder / SAE_CFG_FILENAME
    if not cfg_file.is_file() or not (folder / SAE_WEIGHTS_FILENAME).is_file():
        raise InputError(
            f"from_pretrained_path={cfg.from_pretrained_path!r} holds no SAE; expected "
            f"{SAE_CFG_FILENAME} and {SAE_WEIGHTS_FILENAME} in it."
        )
    remedy = "Give the folder of another checkpoint."
    values = read_json(cfg_file, remedy=remedy)
    found = values.get("architecture") if isinstance(values, dict) else None
    if found != cfg.sae.architecture():
        raise InputError(
            f"from_pretrained_path={cfg.from_pretrained_path!r} is a {found!r} SAE; SAELens would "
            f"train that and ignore the {cfg.sae.architecture()!r} configuration. Make a starting point "
            "with saereg_plugin.regularize_checkpoint(path, cfg.sae, new_path) and use new_path."
        )
