"""Release folders written from a trained sweep."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAETrainer, TrainingSAE
from sae_lens.constants import (
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATION_WHITENING_FILENAME,
    SAE_CFG_FILENAME,
    SAE_WEIGHTS_FILENAME,
    SPARSITY_FILENAME,
    TRAINER_STATE_FILENAME,
)
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import save_file

from saereg_plugin import machine
from saereg_plugin.architectures.saving import NonFiniteOutputError
from saereg_plugin.checks import require_name
from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes, write_text
from saereg_plugin.owned_folder import OwnedFolder
from saereg_plugin.releases.card import CARD, folder_card
from saereg_plugin.releases.release import (
    LOADER,
    MANIFEST,
    Entry,
    Release,
    write_release,
)
from saereg_plugin.sources.embeddings import ALIGNMENT_FILE, write_vocabulary_alignment
from saereg_plugin.sweeps.config import SweepConfig, sae_ids
from saereg_plugin.sweeps.members import Member
from saereg_plugin.sweeps.records import STOPPED
from saereg_plugin.sweeps.trainer import SweepTrainer, record_name

_SAE_FILES = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME, SPARSITY_FILENAME)
_TRAINER_FILES = (
    *_SAE_FILES,
    TRAINER_STATE_FILENAME,
    ACTIVATION_SCALER_CFG_FILENAME,
    ACTIVATION_WHITENING_FILENAME,
)


SINCE_FIRED = "steps_since_fired"
"""Tensor next to an SAE's sparsity: steps since each latent fired, int64 [d_sae]."""
SCALE = "activation_scale"
"""Tensor next to it: factor of the activations in training, float64 [1]."""


def release_files(sae_ids: Iterable[str]) -> Iterator[str]:
    """Yield the files of a sweep in the release folder, without checkpoints."""
    yield from (MANIFEST, CARD, ALIGNMENT_FILE)
    for sae_id in sae_ids:
        yield record_name(sae_id)
        yield from (f"{_sae_folder(sae_id)}/{file}" for file in _SAE_FILES)
        yield from (f"{STOPPED}/{sae_id}/{file}" for file in _TRAINER_FILES)


def save_release(trainer: SweepTrainer, *, name: str, seconds: float) -> Release:
    """
    Save every SAE as SAELens' inference architecture, then write manifest and card.

    SAEs whose output is not finite are taken out.
    """
    folder = trainer.folder
    trainer.sync_records()
    members = {member.sae_id: member for member in trainer.members}
    entries = []
    for sae_id, sae_trainer in trainer.trainers.items():
        try:
            entries.append(save_sae(members[sae_id], sae_trainer, trainer.owned))
        except NonFiniteOutputError as error:
            loss = f"its output on a test batch ({error.found})"
            trainer.take_out(sae_id, loss, step=trainer.step)
    sweep = trainer.sweep
    crossing = trainer.stream.pairs_across_documents()
    trainer.owned.claim([ALIGNMENT_FILE, CARD, MANIFEST])
    alignment = write_vocabulary_alignment(
        {name: trained.sae for name, trained in trainer.trainers.items()}, folder
    )
    release = Release(
        name=name,
        model=sweep.model,
        entries=tuple(entries),
        folder=folder,
        provenance={
            "created": machine.now(),
            "command": machine.command(),
            "versions": machine.versions(),
            "hardware": machine.hardware(),
            "training_seconds": round(seconds, 1),
            "model_tokens_per_second": round(
                1 / max(trainer.stream.seconds_per_row, 1e-9)
            ),
            "peak_memory_gib": round(machine.peak_memory_gib(), 2),
            "tokens": sweep.steps * sweep.batch_size,
            "seeds": list(sweep.seeds),
            "stopped": [str(stopped) for stopped in trainer.stopped],
            "sweep": json.loads(json.dumps(sweep.to_dict())),
            **({"matched_to": dict(sweep.matched_to)} if sweep.matched_to else {}),
            **({"vocabulary_alignment": alignment} if alignment else {}),
            **({"pairs_across_documents": crossing} if crossing else {}),
        },
    )
    write_text(folder / CARD, folder_card(release))
    write_release(release)
    return release


def save_sae(
    member: Member, trainer: SAETrainer[Any, Any], owned: OwnedFolder
) -> Entry:
    """Save an SAE under ``saes/<sae_id>``; return its entry in the manifest."""
    sae: TrainingSAE[Any] = trainer.sae
    scaler = trainer.activation_scaler
    scale = scaler.scaling_factor
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        sae.fold_activation_whitening(
            mean=scaler.whitening.mean,
            whitening_matrix=scaler.whitening.matrix,
            unwhitening_matrix=scaler.whitening.inverse_matrix,
        )
    trainer.set_final_sae_metadata()
    path = _sae_folder(member.sae_id)
    with owned.write_folder(path) as temporary:
        sae.save_inference_model(temporary)
        _sort_keys(temporary / SAE_CFG_FILENAME)
        # SAELens reads the first alone
        counted = {
            "sparsity": trainer.log_feature_sparsity,
            SINCE_FIRED: trainer.n_forward_passes_since_fired.long(),
            **({} if scale is None else {SCALE: torch.tensor([scale]).double()}),
        }
        save_file(counted, temporary / SPARSITY_FILENAME)
        files = folder_hashes(temporary)
    return Entry(
        sae_id=member.sae_id,
        path=path,
        group=member.group,
        seed=member.seed,
        files=files,
        l0=sae.cfg.metadata.l0,
    )


def _sae_folder(sae_id: str) -> str:
    return f"saes/{sae_id}"


def _sort_keys(path: Path) -> None:
    """Sort the keys of a JSON file, which SAELens writes in the order of hashes."""
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(values, sort_keys=True), encoding="utf-8")


_MOST_BYTES = 255 - len("._eval_results.json") - len("..01234567.tmp")
"""Most bytes of release name and SAE id together, which name the file of a result."""


def release_name(sweep: SweepConfig, folder: Path, name: str | None) -> str:
    """
    Return the release's name: ``name``, or that of the folder.

    Raises:
        InputError: if files of results cannot have the name, or a public release has it.
    """
    wanted = folder.resolve().name if name is None else name
    remedy = "" if name is not None else " Give another one with --name."
    try:
        require_name("Release name", wanted, slashes=True)
    except InputError as error:
        raise InputError(f"{error}{remedy}") from error
    for one_id in sae_ids(sweep):
        size = len(f"{wanted}{one_id}".encode())
        if size > _MOST_BYTES:
            raise InputError(
                f"Release name {wanted!r} and SAE id {one_id!r} have {size} bytes together, and are "
                f"in the name of one file; expected at most {_MOST_BYTES}. Choose shorter names."
            )
    public = get_pretrained_saes_directory().get(wanted)
    if public is not None and public.conversion_func != LOADER:
        raise InputError(
            f"Release name {wanted!r} is that of a public release, which SAELens would load instead; "
            f"expected a name of your own.{remedy or ' Choose another --name.'}"
        )
    return wanted
