"""A folder of small images, a tiny vision model, and SAEs on its activations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from saereg_plugin.activations.opening import open_source

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}
SIDE = 28
D_IN = 12
POINT = "encoder.layer.0"


def write_images(folder: Path, *, train: int = 12, heldout: int = 20) -> Path:
    """Write noisy images in one colour per class, into ``train`` and ``test``."""
    generator = np.random.default_rng(0)
    for split, n in (("train", train), ("test", heldout)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(n):
                noise = generator.normal(0, 25, (SIDE, SIDE, 3))
                pixels = (noise + colour).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """Save an untrained DINOv2 of one layer and 12 dimensions: four patches an image."""
    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=D_IN,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=14,
        mlp_ratio=1,
    )
    config.architectures = [Dinov2Model.__name__]
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(folder)
    return folder


def source_config(model: Path, images: Path, **fields: Any) -> dict[str, Any]:
    """The settings of a source on the patches."""
    return {
        "kind": "module",
        "model": str(model),
        "point": POINT,
        "rows": "patches",
        "data": str(images),
        **fields,
    }


def image_sae(config: dict[str, Any], *, seed: int, k: int = 3) -> TopKSAE:
    """A TopK SAE with random directions, centred on the source's mean activation."""
    source: Any = open_source(config)
    (found,) = source.passes(torch.arange(16))
    rows = found.rows(POINT)
    metadata = SAEMetadata(**source.metadata(POINT))
    sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=32, k=k, metadata=metadata))
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(32, D_IN, generator=generator)
    sae.W_dec.data = directions / directions.norm(dim=1, keepdim=True)
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    sae.b_dec.data = rows.mean(0)
    return sae
