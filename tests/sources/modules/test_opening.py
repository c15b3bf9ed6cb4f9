"""Models of transformers and timm by name, on small random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BitImageProcessor,
    CLIPConfig,
    CLIPImageProcessor,
    ConvNextConfig,
    ConvNextImageProcessor,
    DeiTConfig,
    Dinov2WithRegistersConfig,
    LlamaConfig,
    SiglipConfig,
    SiglipImageProcessor,
    ViTConfig,
    ViTImageProcessor,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
)

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Clip
from saereg_plugin.sources.modules import load_module, module_facts, module_identity

TINY: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
    "image_size": 32,
}
TOWERS: dict[str, Any] = {
    "vision_config": TINY,
    "text_config": {**TINY, "vocab_size": 100, "max_position_embeddings": 8},
}
SQUARE = {"height": 32, "width": 32}
IMAGE_MODELS: dict[str, tuple[Any, Any, int, bool]] = {
    "vit": (ViTConfig(**TINY), ViTImageProcessor(size=SQUARE), 1, True),
    "deit": (DeiTConfig(**TINY), ViTImageProcessor(size=SQUARE), 2, True),
    "registers": (
        Dinov2WithRegistersConfig(**TINY, num_register_tokens=4),
        BitImageProcessor(size={"shortest_edge": 36}, crop_size=SQUARE),
        5,
        True,
    ),
    "clip": (
        CLIPConfig(**TOWERS),
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
        1,
        True,
    ),
    "siglip": (SiglipConfig(**TOWERS), SiglipImageProcessor(size=SQUARE), 0, False),
    "convnext": (
        ConvNextConfig(hidden_sizes=[4, 8], depths=[1, 1], num_stages=2),
        ConvNextImageProcessor(size={"shortest_edge": 32}),
        0,
        False,
    ),
}
"""Configuration, image processor, tokens before the patches, whether one is a class token."""


def save(config: Any, processor: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", IMAGE_MODELS)
def test_a_folder_of_transformers_is_opened(
    kind: str, tmp_path: Path, photos: list[Any]
) -> None:
    config, processor, prefix, has_class = IMAGE_MODELS[kind]
    folder = str(save(config, processor, tmp_path / kind))
    for size, patches in ((None, 16), (64, 64)):
        loaded = load_module(folder, image_size=size)
        assert (loaded.prefix_tokens, loaded.has_class_token) == (prefix, has_class)
        kwargs = loaded.prepare(photos).kwargs
        assert kwargs["pixel_values"].shape == (2, 3, size or 32, size or 32)
        with torch.no_grad():
            states = loaded.module(**kwargs).last_hidden_state
        if kind != "convnext":
            assert states.shape == (2, prefix + patches, 8)
        facts = module_facts(folder, image_size=size)
        meta = facts.module(**facts.prepare(photos).kwargs).last_hidden_state
        assert meta.shape == states.shape
        assert meta.is_meta
        assert json.loads(json.dumps(loaded.preprocessing)) == loaded.preprocessing
    assert module_identity(folder)[0] == str(tmp_path / kind)


def test_waves_are_padded_to_the_longest_clip(tmp_path: Path) -> None:
    config = Wav2Vec2Config(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(4, 4),
        conv_stride=(5, 5),
        conv_kernel=(10, 5),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    folder = save(config, Wav2Vec2FeatureExtractor(), tmp_path / "wav2vec2")
    loaded = load_module(str(folder))
    noise = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    prepared = loaded.prepare([Clip(noise, 8000), Clip(noise[:2000], 8000)])
    assert loaded.takes == "clips"
    assert prepared.kwargs["input_values"].shape == (2, 16_000)
    assert prepared.share is not None
    assert prepared.share.tolist() == pytest.approx([1.0, 0.25])
    with torch.no_grad():
        assert loaded.module(**prepared.kwargs).last_hidden_state.shape[2] == 8


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
    )
    save(config, None, tmp_path / "llama")
    with pytest.raises(
        InputError, match="reads 'input_ids'; expected a model of images"
    ):
        module_facts(str(tmp_path / "llama"))


def test_a_folder_without_a_model_or_a_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no config.json"):
        load_module(str(tmp_path))
    save(ViTConfig(**TINY), None, tmp_path / "vit")
    with pytest.raises(InputError, match="cannot read the image processor"):
        load_module(str(tmp_path / "vit"))
    (tmp_path / "vit" / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot read the model"):
        load_module(str(tmp_path / "vit"))
    with pytest.raises(InputError, match="does not exist.*Did you mean"):
        load_module(str(tmp_path / "vitt"))


@pytest.mark.usefixtures("offline")
def test_a_model_folder_begins_at_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "vit").mkdir()
    with pytest.raises(InputError, match="has no config.json"):
        load_module("~/vit")
    assert module_identity("~/vit") == module_identity(str(tmp_path / "vit"))


def test_a_repository_that_cannot_be_reached_is_refused() -> None:
    for name in ("nobody/no-such-model", "timm:resnet18"):
        with pytest.raises(InputError, match="'dinov2-small' works offline"):
            load_module(name)


def test_timm_knows_its_models_without_their_weights(photos: list[Any]) -> None:
    name = "timm:vit_tiny_patch16_224"
    facts = module_facts(name, image_size=64)
    kwargs = facts.prepare(photos).kwargs
    assert kwargs["x"].shape == (2, 3, 64, 64)
    assert kwargs["x"].is_meta
    tokens: Any = facts.module.get_submodule("patch_embed")
    assert tokens(kwargs["x"]).shape == (2, 16, 192)
    assert (facts.prefix_tokens, facts.has_class_token) == (1, True)
    assert facts.preprocessing["input_size"] == [3, 64, 64]
    assert module_identity(name)["repository"].startswith("timm/vit_tiny_patch16_224.")
    with pytest.raises(InputError, match="multiple of 16"):
        module_facts(name, image_size=60)
    with pytest.raises(InputError, match="Did you mean 'resnet18'"):
        module_facts("timm:resnet19")
