"""A trained SAE as SAELens' own ``standard`` architecture, which SAELens alone can load."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sae_lens import StandardSAE, StandardSAEConfig
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from sae_lens.saes.sae import SAEMetadata

from eval_recipes.studies.mnist.weights import Weights
from saereg_plugin.files import atomic_path

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
