"""Starting points of regularised SAEs, made of SAELens' checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sae_lens import TrainingSAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors.torch import load_file

from saereg_plugin.architectures.base import RegularizedMixin
from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.architectures.parameters import parameter_of
from saereg_plugin.architectures.saving import restore_vanished_rows_
from saereg_plugin.errors import InputError
from saereg_plugin.files import sync_folder, sync_tree
from saereg_plugin.owned_folder import OwnedFolder, open_owned, require_owned
from saereg_plugin.registry import training_classes

KIND = "starting point"
"""Kind of the folder, in its mark."""


def regularize_checkpoint(
    source: str | Path, cfg: RegularizedConfigMixin, target: str | Path
) -> Path:
    """
    Write a starting point for ``cfg`` from the weights of a SAELens training checkpoint.

    The result is a ``from_pretrained_path`` for SAELens' runner. Step counters and running
    averages start afresh; b_dec counts as initialised. With a unit-norm decoder the rows'
    norms are folded into the encoder.

    Args:
        source: a folder that SAELens' trainer saved, with the same base architecture.
        cfg: configuration of the SAE to train.
        target: folder to write: new, empty, or from an earlier call.

    Raises:
        InputError: if the base architecture or the shapes of tensors differ, a unit-norm
            decoder would change the SAE's output, or ``target`` holds other files.
    """
    require_owned(Path(target), KIND)
    weights = Path(source) / SAE_WEIGHTS_FILENAME
    if not weights.is_file():
        raise InputError(
            f"{str(source)!r} has no {SAE_WEIGHTS_FILENAME}; expected a SAELens checkpoint."
        )
    found = _read_cfg(Path(source))
    _require_same_function(source, found, cfg)
    sae = training_classes(cfg.architecture())[0](cfg)
    assert isinstance(sae, RegularizedMixin)
    state = load_file(weights)
    for key, parameter in sae.named_parameters():
        shape = None if key not in state else tuple(state[key].shape)
        if shape != tuple(parameter.shape):
            raise InputError(
                f"Checkpoint {str(source)!r} has {key} of shape {shape}; {cfg.architecture()!r} with "
                f"d_in={cfg.d_in}, d_sae={cfg.d_sae} needs {tuple(parameter.shape)}."
            )
    _load(sae, state)
    if cfg.unit_norm:
        _require_foldable(sae, source, found)
        _fold_norms(sae)
    _save(sae, open_owned(Path(target), KIND))
    return Path(target)


def _save(sae: TrainingSAE[Any], owned: OwnedFolder) -> None:
    owned.claim([SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME])
    with TemporaryDirectory(dir=owned.path) as temporary:
        written = sae.save_model(temporary)
        sync_tree(Path(temporary))
        for path in written:
            os.replace(path, owned.path / Path(path).name)
    sync_folder(owned.path)


def _read_cfg(source: Path) -> dict[str, Any]:
    path = source / SAE_CFG_FILENAME
    if not path.is_file():
        raise InputError(
            f"{str(source)!r} has no {SAE_CFG_FILENAME}; expected a SAELens checkpoint."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def _require_same_function(
    source: str | Path, found: Mapping[str, Any], cfg: RegularizedConfigMixin
) -> None:
    base = str(found.get("architecture")).removeprefix("regularized_")
    if base != cfg.architecture().removeprefix("regularized_"):
        raise InputError(
            f"Checkpoint {str(source)!r} is a {base!r} SAE; expected the base architecture of "
            f"{cfg.architecture()!r}."
        )
    scaling = found.get("normalize_activations", "none")
    if scaling != cfg.normalize_activations:
        raise InputError(
            f"Checkpoint {str(source)!r} was trained with normalize_activations={scaling!r}, the "
            f"configuration has {cfg.normalize_activations!r}; set them equal."
        )


def _require_foldable(
    sae: TrainingSAE[Any], source: str | Path, found: Mapping[str, Any]
) -> None:
    """Refuse TopK SAEs that would select other latents once norms are folded."""
    if not hasattr(sae.cfg, "k") or found.get("rescale_acts_by_decoder_norm"):
        return
    if not torch.allclose(sae.get_W_dec_norm(), sae.W_dec.new_ones(()), atol=1e-5):
        raise InputError(
            f"Checkpoint {str(source)!r} was trained without rescale_acts_by_decoder_norm and its decoder "
            "rows do not have norm 1; a unit-norm decoder would select other latents. Use "
            "decoder_constraint='none'."
        )


def _load(sae: TrainingSAE[Any], state: dict[str, torch.Tensor]) -> None:
    known = [
        key
        for key in sae.state_dict()
        if key != "completed_steps" and not key.startswith("components.")
    ]
    from_elsewhere = {key: state[key] for key in known if key in state}
    sae.process_state_dict_for_loading(from_elsewhere)
    sae.load_state_dict(from_elsewhere)


@torch.no_grad()
def _fold_norms(sae: TrainingSAE[Any]) -> None:
    """
    Give decoder rows the norm 1, and multiply each latent's activation by the old norm.

    SAELens' fold multiplies W_enc and b_enc only.
    """
    norms = sae.fold_and_get_W_dec_norm()
    biases: list[torch.Tensor] = []
    for name, tensor in sae.named_parameters(recurse=False):
        known = parameter_of(sae, name)
        if known.latent_axis is None or not known.in_activation_units:
            continue
        if name != "b_enc":
            tensor.data.mul_(norms)
        if name != "threshold":
            biases.append(tensor.data)
    restore_vanished_rows_(sae.W_dec.data, sae.W_enc.data, *biases)
