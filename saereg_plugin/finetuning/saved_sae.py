"""Training SAEs rebuilt from the inference SAEs of a release."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from sae_lens import BatchTopKTrainingSAE, TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.registry import training_classes
from saereg_plugin.releases.opening import load_from_folder, require_files
from saereg_plugin.releases.release import Entry, Release
from saereg_plugin.sources.fingerprint import content_hash
from saereg_plugin.sweeps.members import Member, sae_config

ARCHITECTURES = (
    *("standard", "topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated"),
)
"""SAELens' training architectures that have a regularised twin."""
_SPARSITY = {
    "standard": "l1_coefficient",
    "gated": "l1_coefficient",
    "jumprelu": "l0_coefficient",
    "topk": "k",
    "batchtopk": "k",
    "matryoshka_batchtopk": "k",
}
"""The field without which nothing is known of the training of an architecture."""
_LEFT_OUT = ("resampling",)
"""Mechanics that restart latents, which a fine-tune does not do."""


@dataclass(frozen=True)
class SavedSAE:
    """
    An SAE of a release, with what is known of its training.

    Attributes:
        entry: in the release.
        cfg: its configuration, as it is on the disk.
        state: its tensors.
    """

    entry: Entry
    cfg: Mapping[str, Any]
    state: Mapping[str, Tensor]

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of its configuration."""
        return self.cfg.get("metadata") or {}

    @property
    def architecture(self) -> str:
        """
        SAELens' name of the training architecture.

        Raises:
            InputError: if none of ours trains it.
        """
        name = self.metadata.get("training_architecture") or self.cfg["architecture"]
        base = str(name).removeprefix("regularized_")
        if base not in ARCHITECTURES:
            raise InputError(
                f"SAE {self.entry.sae_id!r} is a {name!r} SAE, which cannot be fine-tuned; expected one of "
                f"{', '.join(ARCHITECTURES)}. Leave it out with --sae-id."
            )
        return base

    def digest(self) -> str:
        """Return a hash of its tensors."""
        hashes = sorted((name, content_hash(t)) for name, t in self.state.items())
        return content_hash(torch.tensor([ord(c) for c in repr(hashes)]))

    def load_into(self, sae: TrainingSAE[Any]) -> None:
        """
        Copy the weights into a training SAE of the same base architecture.

        What components keep, such as running averages, starts anew.

        Raises:
            InputError: if a tensor is missing or has another shape.
        """
        state = {name: tensor.to(sae.device) for name, tensor in self.state.items()}
        own = {
            name: tensor
            for name, tensor in sae.state_dict().items()
            if name != "completed_steps" and not name.startswith("components.")
        }
        if isinstance(sae, BatchTopKTrainingSAE) and "topk_threshold" not in state:
            state["topk_threshold"] = self._common_threshold(state)
        for name, tensor in own.items():
            shape = tuple(state[name].shape) if name in state else None
            if shape != tuple(tensor.shape):
                raise InputError(
                    f"SAE {self.entry.sae_id!r} has {name} of shape {shape}; a "
                    f"{self.architecture!r} SAE that is trained with d_in={sae.cfg.d_in}, "
                    f"d_sae={sae.cfg.d_sae} needs {tuple(tensor.shape)}. Check the fields that you gave."
                )
        found = {name: state[name].to(tensor.dtype) for name, tensor in own.items()}
        sae.process_state_dict_for_loading(found)
        sae.load_state_dict(found)

    def _common_threshold(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the threshold that all latents of a saved BatchTopK SAE have, float64."""
        thresholds = state.get("threshold", torch.zeros(0)).double()
        if len(thresholds) == 0 or not torch.equal(
            thresholds, thresholds[:1].expand_as(thresholds)
        ):
            raise InputError(
                f"SAE {self.entry.sae_id!r} has no threshold that all its latents share; expected "
                "one, as SAELens saves a BatchTopK SAE."
            )
        return thresholds[0]


def read_saved(release: Release, entry: Entry) -> SavedSAE:
    """
    Return an SAE of an opened release; its hashes are checked.

    Raises:
        InputError: if a file is missing or damaged.
    """
    if release.folder is None:
        sae = release.load(entry.sae_id)
        return SavedSAE(entry, sae.cfg.to_dict(), sae.state_dict())
    require_files(release, [entry.path])
    cfg, state, _ = load_from_folder(str(release.folder), entry.path)
    return SavedSAE(entry, cfg, state)


def member_of(
    saved: SavedSAE,
    recorded: Mapping[str, Any] | None,
    given: Mapping[str, Any],
    *,
    point: str,
    device: str,
) -> Member:
    """
    Return the SAE as a member of a sweep: configuration, seed and hook as it was trained.

    Args:
        saved: the SAE.
        recorded: fields of its group in the sweep that the release records; where there are
            none, the metadata of the SAE say how it was trained.
        given: further fields of its training, which win.
        point: its hook.
        device: of the training.

    Raises:
        InputError: if it is not known how it was trained.
    """
    entry = saved.entry
    fields = training_fields(saved, recorded, given)
    seed = entry.seed if entry.seed is not None else fields.get("init_seed")
    fields.pop("init_seed", None)
    seed = 0 if seed is None else int(seed)
    values = {**fields, "device": device, "dtype": "float32"}
    cfg = sae_config(values, seed=seed, group=entry.group)
    return Member(entry.sae_id, entry.group, seed, cfg, point)


def training_fields(
    saved: SavedSAE, recorded: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Return the fields with which an SAE was trained; see ``member_of``.

    Raises:
        InputError: if the field that decides its sparsity is not known.
    """
    base = saved.architecture
    name = f"regularized_{base}"
    if recorded is not None:
        found = {k: v for k, v in recorded.items() if k != "hook_name"}
        name = str(recorded.get("architecture", name))
    else:
        details = saved.metadata.get("training_architecture_details") or {}
        found = {**saved.cfg, **details}
        # the inference SAE has it folded in, so that its own scale is the model's
        found["normalize_activations"] = saved.cfg.get("normalize_activations", "none")
    found |= {"d_in": saved.cfg["d_in"], "d_sae": saved.cfg["d_sae"], **given}
    found["architecture"] = name
    known = {field.name for field in dataclasses.fields(training_classes(name)[1])}
    if _SPARSITY[base] not in found and recorded is None:
        raise InputError(
            f"SAE {saved.entry.sae_id!r} ({base}) does not say how it was trained: {_SPARSITY[base]!r} is "
            f"not known. Give the fields of its training, such as --field {_SPARSITY[base]}=..."
        )
    kept = {
        key: value
        for key, value in found.items()
        if key == "architecture" or key in known - {"metadata", "device", "dtype"}
    }
    if found.get("normalize_activations") == "covariance_whitening":
        # saving folded the rows' norms first, so that selection no longer depends on them
        kept |= {"rescale_acts_by_decoder_norm": False} if "k" in known else {}
    unknown = [key for key in given if key not in kept]
    if unknown:
        raise InputError(
            f"{name!r} has no field {unknown[0]!r} that a fine-tune takes; expected one of "
            f"{', '.join(sorted(known))}."
        )
    kept["mechanics"] = [
        mechanic
        for mechanic in kept.get("mechanics") or []
        if not isinstance(mechanic, Mapping) or mechanic.get("name") not in _LEFT_OUT
    ]
    return kept


@torch.no_grad()
def in_training_units(sae: TrainingSAE[Any], scaler: ActivationScaler) -> None:
    """
    Undo, in place, the fold of a scale or whitening of activations that saving did.

    Afterwards the SAE computes on scaled activations what it computed on those of the model.
    The inverse of a fold is the fold of the inverse map.
    """
    normalization = sae.cfg.normalize_activations
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(1 / scaler.scaling_factor)
    if scaler.whitening is not None:
        whitening = scaler.whitening
        sae.fold_activation_whitening(
            mean=-whitening.mean @ whitening.matrix,
            whitening_matrix=whitening.inverse_matrix,
            unwhitening_matrix=whitening.matrix,
        )
    sae.cfg.normalize_activations = normalization
