"""Local model folders in TransformerLens' tables, under paths it reads rightly."""

from __future__ import annotations

from hashlib import sha256 as hash_bytes
from pathlib import Path

from transformer_lens.loading_from_pretrained import (
    MODEL_ALIASES,
    OFFICIAL_MODEL_NAMES,
    get_pretrained_model_config,
)

from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path
from saereg_plugin.sources.assets import cache_dir

# TransformerLens infers the architecture from these words anywhere in a model's
# path: the first group in the path as registered, the second in the resolved one.
_NAME_WORDS = ("llama", "gemma")
_PATH_WORDS = ("hubert", "wav2vec2", "bert", "t5")


def ensure_model_folder(name: str, model_class_name: str) -> Path:
    """
    Return the folder, absolute, and let TransformerLens know it if that will load it.

    Raises:
        InputError: if it holds no model, or none that the class can load.
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
    Return a path to ``folder`` from which TransformerLens infers no architecture.

    It takes "llama" or "gemma" anywhere in the path for the architecture and
    then reads no config.json; a link with a plain name makes it read the file.
    """
    if not _name_words_in(folder):
        return folder
    link = cache_dir() / "links" / hash_bytes(str(folder).encode()).hexdigest()[:16]
    if not (link.is_symlink() and link.readlink() == folder):
        with atomic_path(link) as temporary:
            temporary.symlink_to(folder, target_is_directory=True)
    return link


def require_neutral_path(path: Path) -> None:
    """
    Refuse a path from which TransformerLens would infer a wrong architecture.

    Raises:
        InputError: naming the word.
    """
    found = [
        *_name_words_in(path),
        *(
            word
            for word in _PATH_WORDS
            if word in str(path) or word in str(path.resolve())
        ),
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
    # TransformerLens raises whatever the first missing field of a config.json leads to.
    except Exception as error:
        raise InputError(
            f"TransformerLens cannot read the model in folder {name!r} "
            f"({type(error).__name__}: {error}); expected an architecture that it supports. "
            "Use the model class 'AutoModelForCausalLM' for another one."
        ) from error


def register(folder: Path, aliases: list[str]) -> None:
    """Enter the folder in TransformerLens' tables, where an earlier entry gives way to it."""
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
