"""A trained sweep as a release folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sae_lens import SAETrainer, TrainingSAE
from sae_lens.constants import SPARSITY_FILENAME
from safetensors.torch import save_file

from saereg_plugin import provenance
from saereg_plugin.files import atomic_path, write_text
from saereg_plugin.model_card import model_card
from saereg_plugin.release_hashes import file_hashes
from saereg_plugin.releases import Entry, Release, write_release
from saereg_plugin.sweeps.members import Member
from saereg_plugin.sweeps.trainer import SweepTrainer
from saereg_plugin.vocabulary_table import write_vocabulary_alignment


def save_release(
    trainer: SweepTrainer, folder: Path, *, name: str, seconds: float
) -> Release:
    """Fold, save every SAE as SAELens' inference architecture, and write manifest and card."""
    members = {member.sae_id: member for member in trainer.members}
    entries = [
        save_sae(members[sae_id], sae_trainer, folder)
        for sae_id, sae_trainer in trainer.trainers.items()
    ]
    sweep = trainer.sweep
    crossing = trainer.stream.pairs_across_documents()
    alignment = write_vocabulary_alignment(
        {name: trained.sae for name, trained in trainer.trainers.items()}, folder
    )
    release = Release(
        name=name,
        model=sweep.model,
        entries=tuple(entries),
        folder=folder,
        provenance={
            "created": provenance.now(),
            "command": provenance.command(),
            "versions": provenance.versions(),
            "hardware": provenance.hardware(),
            "training_seconds": round(seconds, 1),
            "model_tokens_per_second": round(
                1 / max(trainer.stream.seconds_per_token, 1e-9)
            ),
            "peak_memory_gib": round(provenance.peak_memory_gib(), 2),
            "tokens": sweep.steps * sweep.batch_size,
            "seeds": list(sweep.seeds),
            "stopped": [str(stopped) for stopped in trainer.stopped],
            "sweep": json.loads(json.dumps(sweep.to_dict())),
            **({"matched_to": dict(sweep.matched_to)} if sweep.matched_to else {}),
            **({"vocabulary_alignment": alignment} if alignment else {}),
            **({"pairs_across_documents": crossing} if crossing else {}),
        },
    )
    write_text(folder / "README.md", model_card(release))
    write_release(release)
    return release


def save_sae(member: Member, trainer: SAETrainer[Any, Any], folder: Path) -> Entry:
    """Save one trained SAE under ``saes/<sae_id>``; return its entry in the manifest."""
    sae: TrainingSAE[Any] = trainer.sae
    scaler = trainer.activation_scaler
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        sae.fold_activation_whitening(
            mean=scaler.whitening.mean,
            whitening_matrix=scaler.whitening.matrix,
            unwhitening_matrix=scaler.whitening.inverse_matrix,
        )
    trainer.set_final_sae_metadata()
    path = f"saes/{member.sae_id}"
    with atomic_path(folder / path) as temporary:
        sae.save_inference_model(temporary)
        save_file(
            {"sparsity": trainer.log_feature_sparsity}, temporary / SPARSITY_FILENAME
        )
    return Entry(
        sae_id=member.sae_id,
        path=path,
        group=member.group,
        seed=member.seed,
        files=file_hashes(folder / path),
        l0=sae.cfg.metadata.l0,
    )
