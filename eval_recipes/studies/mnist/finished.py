"""Finished runs: their weights, saved as SAEs, and their figures, measured once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from eval_recipes.studies.mnist.checkpoint import load_state_, new_state
from eval_recipes.studies.mnist.evaluation import KEPT_SHARES, Evaluation, evaluate
from eval_recipes.studies.mnist.images import Images
from eval_recipes.studies.mnist.settings import Run, Training
from eval_recipes.studies.mnist.training import CHECKPOINT, identity
from eval_recipes.studies.mnist.weights import Weights, initial_weights
from saereg_plugin.files import atomic_path, sha256
from saereg_plugin.owned_folder import OwnedFolder

logger = logging.getLogger(__name__)

SAE_FOLDER = "sae"
EVALUATION = "evaluation.json"
_FILES = "files"


@dataclass(frozen=True)
class Finished:
    """One SAE that has all its epochs."""

    run: Run
    weights: Weights
    evaluation: Evaluation
    history: list[dict[str, float]]


def find_finished(
    runs: Sequence[Run], training: Training, images: Images, owned: OwnedFolder
) -> list[Finished]:
    """
    Return the finished runs; what is missing or damaged of SAE folders and figures is made.

    Raises:
        InputError: if a checkpoint is of other settings or damaged, or a file that must be
            made would replace one of the user's.
    """
    found = (_finished(run, training, images, owned) for run in runs)
    return [run for run in found if run is not None]


def _finished(
    run: Run, training: Training, images: Images, owned: OwnedFolder
) -> Finished | None:
    folder = owned.path / run.name
    path = folder / CHECKPOINT
    if not os.path.lexists(path):
        return None
    described = identity(run, training, images)
    weights = initial_weights(run.setting, training, seed=run.seed)
    state = new_state(weights, training.learning_rate)
    load_state_(path, state, described)
    if state.epoch < training.epochs:
        return None
    key = _key(sha256(path))
    if _stored(folder, key) is None:
        _publish(run, weights, described, key, images.pixels, owned)
    evaluation = _stored(folder, key)
    assert evaluation is not None
    return Finished(run, weights, evaluation, state.history)


def _publish(
    run: Run,
    weights: Weights,
    described: dict[str, Any],
    key: str,
    pixels: Tensor,
    owned: OwnedFolder,
) -> None:
    """Save the SAE, then its figures: whoever finds the figures finds the SAE."""
    # imports SAELens, which takes long
    from eval_recipes.studies.mnist.finished import SAE_FILES, save_sae

    names = [f"{SAE_FOLDER}/{name}" for name in SAE_FILES]
    owned.claim(f"{run.name}/{name}" for name in (*names, EVALUATION))
    folder = owned.path / run.name
    save_sae(weights, described, folder / SAE_FOLDER)
    figures = evaluate(weights, pixels)._asdict()
    files = {name: sha256(folder / name) for name in names}
    write_figures(folder / EVALUATION, key, {**figures, _FILES: files})


def _key(checkpoint: str) -> str:
    """Return what changes when the checkpoint or what is measured does."""
    parts = [checkpoint, KEPT_SHARES, Evaluation._fields]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _stored(folder: Path, key: str) -> Evaluation | None:
    """Return the figures; None unless they and the SAE's files are there and whole."""
    figures = read_figures(folder / EVALUATION, key)
    if figures is None:
        return None
    for name, expected in figures.pop(_FILES).items():
        path = folder / name
        if not path.is_file():
            return None
        if sha256(path) != expected:
            logger.warning("File %r is damaged; it is written again.", str(path))
            return None
    return Evaluation(**figures)


SAE_FILES = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME)
"""What ``save_sae`` writes."""


def to_saelens(weights: Weights, identity: Mapping[str, Any]) -> StandardSAE:
    """Return the SAE with the same activations and reconstructions; absent biases are 0."""
    d_sae, d_in = weights.dec.shape
    config = StandardSAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        apply_b_dec_to_input=weights.b_dec is not None,
        metadata=SAEMetadata(
            model_name="MNIST pixels", hook_name="pixels / 255", study=dict(identity)
        ),
    )
    sae = StandardSAE(config)
    with torch.no_grad():
        sae.W_enc.copy_(weights.enc.T)
        sae.W_dec.copy_(weights.dec)
        for target, bias in ((sae.b_enc, weights.b_enc), (sae.b_dec, weights.b_dec)):
            target.zero_() if bias is None else target.copy_(bias)
    return sae


def save_sae(weights: Weights, identity: Mapping[str, Any], folder: Path) -> Path:
    """Write the SAE for ``SAE.load_from_disk(folder)``."""
    with TemporaryDirectory() as made:
        to_saelens(weights, identity).save_model(made)
        # one by one: the folder may hold files of the user's
        for name in SAE_FILES:
            with atomic_path(folder / name) as temporary:
                shutil.copyfile(Path(made, name), temporary)
    return folder
