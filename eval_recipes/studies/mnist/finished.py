"""Finished SAEs on MNIST: saved for SAELens, their figures measured once."""

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
from typing import Any, NamedTuple

import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from eval_recipes.studies.mnist.autoencoder import Weights, initial_weights
from eval_recipes.studies.mnist.settings import Run, Training
from eval_recipes.studies.mnist.training import (
    CHECKPOINT,
    identity,
    load_state_,
    new_state,
)
from saereg_plugin.files import atomic_path, sha256
from saereg_plugin.metrics import alive_mask, encoder_decoder_cosines
from saereg_plugin.owned_folder import OwnedFolder
from saereg_plugin.sources.inputs.mnist import Images

logger = logging.getLogger(__name__)

KEPT_SHARES = (0.01, 0.02, 0.05, 0.1, 250 / 1568, 0.2, 0.3, 0.5, 0.75, 1.0)
"""
Shares of all latents that are kept for the reconstruction error by alignment; the paper
keeps 250 of 1568.
"""

RANDOM_DRAWS = 5
"""Orders of latents drawn at random, for what any latents carry."""

_RANDOM_SEED = 0
_BATCH = 1000


class Evaluation(NamedTuple):
    """Figures of one SAE over all training images: a census, so without intervals."""

    mse: float
    """Mean over images and pixels, pixels in [0, 1]."""
    variance_explained: float
    """1 - squared error over squared distance to the mean image."""
    density: float
    """Share of activations that are not zero."""
    firing: int
    """Latents that fire on at least one image."""
    alive: int
    """Latents with cos(enc, dec) > .1 (the paper's definition)."""
    dead: int
    """Latents that are not alive."""
    kept_mse: Sequence[float]
    """MSE with only the share ``KEPT_SHARES`` of latents of largest |cos(enc, dec)|."""
    without_mse: Sequence[float]
    """MSE with all latents but those."""
    random_mse: Sequence[Sequence[float]]
    """MSE with only as many latents chosen at random, for ``RANDOM_DRAWS`` draws."""


@torch.no_grad()
def evaluate(weights: Weights, pixels: Tensor) -> Evaluation:
    """Return the figures over all ``pixels`` [n, d_in] uint8."""
    cosines = encoder_decoder_cosines(weights.enc, weights.dec)
    d_sae = len(cosines)
    generator = torch.Generator().manual_seed(_RANDOM_SEED)
    orders = [
        cosines.abs().argsort(descending=True, stable=True),
        *(torch.randperm(d_sae, generator=generator) for _ in range(RANDOM_DRAWS)),
    ]
    kept = torch.zeros(len(orders), len(KEPT_SHARES), dtype=torch.float64)
    without = torch.zeros(len(KEPT_SHARES), dtype=torch.float64)
    spread = 0.0
    active = torch.zeros(d_sae, dtype=torch.float64)
    mean = pixels.float().mean(dim=0).div_(255)
    for block in pixels.split(_BATCH):
        x = block.float().div_(255)
        centered = weights.centered(x)
        acts = weights.encode(centered)
        active += (acts > 0).float().sum(dim=0)
        spread += float((x - mean).square().sum(dtype=torch.float64))
        for number, order in enumerate(orders):
            residuals = _residuals(weights, centered, acts, order)
            kept[number] += _squares(residuals)
            if number == 0:
                # all latents less the kept ones
                without += _squares([residuals[-1] + centered - r for r in residuals])
    alive = int(alive_mask(weights.enc, weights.dec).sum())
    aligned, *drawn = (kept / pixels.numel()).tolist()
    return Evaluation(
        mse=aligned[-1],
        variance_explained=1 - float(kept[0, -1]) / spread,
        density=float(active.sum()) / (len(pixels) * d_sae),
        firing=int((active > 0).sum()),
        alive=alive,
        dead=d_sae - alive,
        kept_mse=aligned,
        without_mse=(without / pixels.numel()).tolist(),
        random_mse=drawn,
    )


def _residuals(
    weights: Weights, centered: Tensor, acts: Tensor, order: Tensor
) -> list[Tensor]:
    """Return what the first latents of ``order`` leave, for each share of them."""
    bounds = [0, *(max(1, round(share * len(order))) for share in KEPT_SHARES)]
    left = [centered]
    # each share adds its latents to the ones before: one decoding in all
    for start, end in zip(bounds, bounds[1:]):
        chosen = order[start:end]
        left.append(left[-1] - acts[:, chosen] @ weights.dec[chosen])
    return left[1:]


def _squares(residuals: Sequence[Tensor]) -> Tensor:
    return torch.stack([r.square().sum(dtype=torch.float64) for r in residuals])


SAE_FOLDER = "sae"
EVALUATION = "evaluation.json"
_FILES = "files"
SAE_FILES = (SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME)
"""Files of ``save_sae``."""


@dataclass(frozen=True)
class Finished:
    """One SAE that has all its epochs."""

    run: Run
    weights: Weights
    evaluation: Evaluation
    history: list[dict[str, Any]]


def find_finished(
    runs: Sequence[Run], training: Training, images: Images, owned: OwnedFolder
) -> list[Finished]:
    """
    Return the finished runs; missing or damaged SAE folders and figures are made again.

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
    """Save the SAE before its figures, so that figures imply a saved SAE."""
    names = [f"{SAE_FOLDER}/{name}" for name in SAE_FILES]
    owned.claim(f"{run.name}/{name}" for name in (*names, EVALUATION))
    folder = owned.path / run.name
    save_sae(weights, described, folder / SAE_FOLDER)
    figures = evaluate(weights, pixels)._asdict()
    files = {name: sha256(folder / name) for name in names}
    write_figures(folder / EVALUATION, key, {**figures, _FILES: files})


def _key(checkpoint: str) -> str:
    """Return a key of the checkpoint and of the figures to measure."""
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
