"""Language models by name: embedded in a package, in a local folder, or on the hub."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformer_lens import HookedTransformer
from transformer_lens.loading_from_pretrained import (
    get_official_model_name,
    get_pretrained_model_config,
    make_model_alias_map,
)
from transformers import AutoTokenizer

from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.files import folder_identity
from saereg_plugin.machine import torch_dtype
from saereg_plugin.sources.assets import require_hub_repo
from saereg_plugin.sources.model_folders import (
    EMBEDDED,
    embedded_folder,
    embedded_source,
    ensure_embedded,
    ensure_model_folder,
    register,
)

__all__ = [
    "EMBEDDED",
    "ensure",
    "identity",
    "ignore_deprecation",
    "load",
    "register_names",
]


def ensure(name: str, *, model_class_name: str = "HookedTransformer") -> Path | None:
    """
    Make ``name`` loadable, and fail within seconds if it cannot be.

    An embedded model is fetched and converted the first time (about a minute),
    and checked against its hashes every time. After that
    ``HookedTransformer.from_pretrained*`` knows it, and a local folder, by name.

    Args:
        name: An embedded model, a local Hugging Face folder, a name that
            TransformerLens knows, or a hub repository (for
            ``AutoModelForCausalLM``).
        model_class_name: The class that will load it, as SAELens calls it.

    Returns:
        The folder of an embedded or local model, otherwise None.

    Raises:
        InputError: if it is unknown, unreachable or cannot be loaded.
    """
    if name in EMBEDDED:
        folder = ensure_embedded(name)
        register_names()
        return folder
    if Path(name).is_dir():
        return ensure_model_folder(name, model_class_name)
    _ensure_hub(name, model_class_name)
    return None


def load(
    name: str,
    *,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    **from_pretrained_kwargs: Any,
) -> HookedTransformer:
    """
    Return the model as TransformerLens computes it, its weights as published.

    Further arguments go to ``HookedTransformer.from_pretrained_no_processing``. Python
    files in a local folder are run only with ``trust_remote_code=True``.

    Raises:
        InputError: if the name cannot be loaded, see :func:`ensure`.
    """
    numbers = torch_dtype(dtype)
    folder = ensure(name)
    if folder is not None and not from_pretrained_kwargs.get("trust_remote_code"):
        from_pretrained_kwargs |= {
            "trust_remote_code": False,
            "tokenizer": _harmless_tokenizer(name),
        }
    with warnings.catch_warnings():
        ignore_deprecation()
        return HookedTransformer.from_pretrained_no_processing(
            name, dtype=numbers, device=device, **from_pretrained_kwargs
        )


def _harmless_tokenizer(name: str) -> Any:
    """
    Return a local folder's tokenizer where TransformerLens would run the folder's code for it.

    TransformerLens trusts every folder of some architectures, by the name of the architecture
    alone. None where it does not.
    """
    config = get_pretrained_model_config(
        get_official_model_name(name), device="cpu", trust_remote_code=False
    )
    if not config.trust_remote_code or config.tokenizer_name is None:
        return None
    return AutoTokenizer.from_pretrained(
        config.tokenizer_name,
        # as TransformerLens does for these architectures
        add_bos_token=False,
        use_fast="phi" not in config.tokenizer_name.lower(),
        trust_remote_code=False,
    )


def identity(name: str) -> Any:
    """
    Return plain JSON that changes when the weights behind ``name`` do; loads nothing.

    The archive's hash of an embedded model, names, sizes and times of a local folder's
    files, the commit of a hub model that is in the cache; otherwise the name itself.
    """
    if name in EMBEDDED:
        return embedded_source(name)
    if Path(name).is_dir():
        return folder_identity(Path(name))
    repo = make_model_alias_map().get(name.lower(), name)
    cached = try_to_load_from_cache(repo, "config.json")
    # .../snapshots/<commit>/config.json
    return [repo, Path(cached).parent.name] if isinstance(cached, str) else repo


def register_names() -> None:
    """Tell TransformerLens where the embedded models are, or will be; downloads nothing."""
    for name in EMBEDDED:
        register(embedded_folder(name), [name])


def _ensure_hub(name: str, model_class_name: str) -> None:
    if name.startswith((".", "/", "~")):
        raise InputError(
            f"Model folder {name!r} does not exist; expected a Hugging Face folder."
        )
    known = make_model_alias_map()
    repo = name
    if model_class_name == "HookedTransformer":
        if name.lower() not in known:
            raise InputError(
                f"Unknown model {name!r}; expected an embedded model "
                f"({', '.join(map(repr, EMBEDDED))}), a local Hugging Face folder, or a name "
                f"that TransformerLens knows. {suggest(name, _public(known))}"
            )
        repo = known[name.lower()]
    if isinstance(try_to_load_from_cache(repo, "config.json"), str):
        return
    require_hub_repo(
        repo,
        kind="model",
        advice=f"{next(iter(EMBEDDED))!r} works offline, as does the path of a local folder.",
    )


def _public(names: Iterable[str]) -> list[str]:
    """Leave out the folders that were registered here."""
    return [name for name in names if not Path(name).is_absolute()]


def ignore_deprecation() -> None:
    """Silence, in a block of caught warnings, what announces the end of HookedTransformer."""
    # SAELens still uses it.
    warnings.filterwarnings("ignore", "HookedTransformer", DeprecationWarning)


FLAG = "--trust-remote-code"


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _flag_or_null(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _count_or_null(value: object) -> bool:
    return value is None or _count(value)


def _side(value: object) -> bool:
    return value in (None, "left", "right")


HARMLESS: Mapping[str, Callable[[object], bool]] = {
    "center_unembed": _flag,
    "center_writing_weights": _flag,
    "checkpoint_index": _count_or_null,
    "checkpoint_value": _count_or_null,
    "default_padding_side": _side,
    "default_prepend_bos": _flag_or_null,
    "first_n_layers": _count_or_null,
    "fold_ln": _flag,
    "fold_value_biases": _flag,
    "n_ctx": _count_or_null,
    "n_devices": _count,
    "refactor_factored_attn_matrices": _flag,
}
"""
Loader arguments that only choose how known weights are used, and their plain values.

``revision`` is left out: a hub repository's pull requests are revisions, and anybody can open
one. ``attn_implementation`` can name a hub repository of compiled code.
"""


def require_harmless(given: object, *, trusted: bool, source: str) -> dict[str, Any]:
    """
    Return the arguments that a release gives for the loader of its language model.

    Args:
        given: ``model_from_pretrained_kwargs`` of an SAE's metadata.
        trusted: pass on whatever the release says.
        source: what errors call the SAE, such as "SAE 'k32-seed0'".

    Raises:
        InputError: for anything but ``HARMLESS`` with plain values, unless ``trusted``.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(
            f"{source} has model_from_pretrained_kwargs = {brief(given)}; expected a mapping of "
            "arguments. Correct its cfg.json or leave it out."
        )
    arguments: dict[str, Any] = dict(given or {})
    for name, value in arguments.items():
        known = HARMLESS.get(name)
        if trusted or (known is not None and known(value)):
            continue
        raise InputError(
            f"{source} wants its language model loaded with {name}={brief(value)}, which may run "
            f"code; expected only {', '.join(HARMLESS)}, with plain values. Leave the SAE out, "
            f"or give {FLAG} if you trust the release."
        )
    return arguments


def is_inside(path: object, folder: Path) -> bool:
    """Whether ``path`` is there and leads into ``folder``, links followed or not."""
    if not isinstance(path, str) or "\0" in path or not os.path.lexists(path):
        return False
    roots = {folder.absolute(), folder.resolve()}
    spelled = {Path(os.path.abspath(path)), Path(path).resolve()}
    return any(place.is_relative_to(root) for place in spelled for root in roots)


def require_outside(model: object, folder: Path, *, trusted: bool, source: str) -> None:
    """
    Refuse a model that is a folder inside the release that names it.

    Raises:
        InputError: if ``model`` is a path into ``folder``, unless ``trusted``.
    """
    if trusted or model in EMBEDDED or not is_inside(model, folder):
        return
    raise InputError(
        f"{source} reads the language model {brief(model)}, a folder inside the release itself, "
        "which may hold code; expected a model of your own or a public one. Leave the SAE "
        f"out, or give {FLAG} if you trust the release."
    )
