"""Language models by name, and limits on models that releases name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import NonNegativeInt, TypeAdapter, ValidationError
from transformer_lens import HookedTransformer as HookedTransformer
from transformer_lens.loading_from_pretrained import (
    get_official_model_name,
    get_pretrained_model_config,
    make_model_alias_map,
)
from transformer_lens.model_bridge import TransformerBridge as TransformerBridge
from transformers import AutoTokenizer

from saereg_plugin.errors import InputError, brief, suggest, suggest_path
from saereg_plugin.files import folder_identity
from saereg_plugin.machine import torch_dtype
from saereg_plugin.sources.assets import hub_identity, require_hub_repo
from saereg_plugin.sources.model_folders import EMBEDDED as EMBEDDED
from saereg_plugin.sources.model_folders import (
    embedded_folder,
    embedded_source,
    ensure_embedded,
    ensure_model_folder,
    neutral_path,
    register,
)

LanguageModel: TypeAlias = HookedTransformer
"""
Type of a language model in signatures, which upstream's functions also name.

A ``TransformerBridge`` is passed as one: it has the same hooks and methods.
"""

HOOKED = "HookedTransformer"
BRIDGE = "TransformerBridge"
MODEL_CLASSES = (HOOKED, BRIDGE)
"""TransformerLens' classes that ``load`` makes, by name."""


def ensure(name: str, *, model_class_name: str = "HookedTransformer") -> Path | None:
    """
    Make a model loadable by its name, or fail within seconds.

    An embedded model is fetched and converted the first time, in about a minute. Its
    hashes are checked every time. ``HookedTransformer.from_pretrained*`` then knows its
    name, and that of a local folder.

    Args:
        name: an embedded model, a local Hugging Face folder, a name that TransformerLens
            knows, or (for ``AutoModelForCausalLM``) a hub repository.
        model_class_name: the class that will load the model, as SAELens calls it.

    Returns:
        the folder of an embedded or local model, otherwise None.

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
    model_class: str = HOOKED,
    **from_pretrained_kwargs: Any,
) -> LanguageModel:
    """
    Return the model as TransformerLens computes it, its weights as published.

    Further arguments go to ``HookedTransformer.from_pretrained_no_processing``, or to
    ``TransformerBridge.boot_transformers``. Python files in a local folder are run only with
    ``trust_remote_code=True``.

    Raises:
        InputError: if the name cannot be loaded, see :func:`ensure`; for an unknown
            ``model_class``, or an argument that it does not take.
    """
    numbers = torch_dtype(dtype)
    require_model_class(model_class)
    folder = ensure(name)
    if model_class == BRIDGE:
        place = hub_name(name) if folder is None else str(folder)
        return _boot_bridge(place, numbers, device, from_pretrained_kwargs)
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


def require_model_class(name: str) -> str:
    """Return the name of a class that ``load`` makes; raise InputError for another one."""
    if name not in MODEL_CLASSES:
        raise InputError(
            f"Unknown model class {name!r}. {suggest(name, MODEL_CLASSES)}"
        )
    return name


_BOOT_ARGUMENTS = (
    "checkpoint_index",
    "checkpoint_value",
    "n_ctx",
    "n_devices",
    "revision",
    "trust_remote_code",
)


def _boot_bridge(
    place: str, dtype: torch.dtype, device: str | torch.device, given: Mapping[str, Any]
) -> LanguageModel:
    """Return a ``TransformerBridge``; refuse arguments that would change its weights."""
    # False and None leave the weights as published, as the bridge does
    arguments = {k: v for k, v in given.items() if v is not None and v is not False}
    for name in arguments:
        if name not in _BOOT_ARGUMENTS:
            raise InputError(
                f"{BRIDGE} takes no {name}={brief(arguments[name])}; expected only "
                f"{', '.join(_BOOT_ARGUMENTS)}. Use the model class {HOOKED!r}."
            )
    bridge = TransformerBridge.boot_transformers(
        place, dtype=dtype, device=device, **arguments
    )
    return cast(LanguageModel, bridge)


def hub_name(name: str) -> str:
    """Return the hub repository of a name that TransformerLens knows; else the name."""
    return make_model_alias_map().get(name.lower(), name)


def _harmless_tokenizer(name: str) -> Any:
    """
    Return a local folder's tokenizer if TransformerLens would run the folder's code for it.

    TransformerLens trusts folders of some architectures by the architecture's name alone.
    Otherwise return None.
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
    Return plain JSON that changes with the weights of a model; loads nothing.

    For an embedded model that is the hash of its archive. For a local folder it is names,
    sizes and times of files; for a cached hub model its commit; otherwise the name.
    """
    if name in EMBEDDED:
        return embedded_source(name)
    if Path(name).is_dir():
        return folder_identity(Path(name))
    return hub_identity(hub_name(name))


def register_names() -> None:
    """Tell TransformerLens the folders of the embedded models; downloads nothing."""
    for name in EMBEDDED:
        folder = embedded_folder(name)
        register(neutral_path(folder) or folder, [name])


def _ensure_hub(name: str, model_class_name: str) -> None:
    if name.startswith((".", "/", "~")):
        raise InputError(
            f"Model folder {name!r} does not exist; expected a Hugging Face folder. "
            f"{suggest_path(name)}".rstrip()
        )
    known = make_model_alias_map()
    repo = name
    if model_class_name == "HookedTransformer":
        if name.lower() not in known:
            public = [alias for alias in known if not Path(alias).is_absolute()]
            raise InputError(
                f"Unknown model {name!r}; expected an embedded model "
                f"({', '.join(map(repr, EMBEDDED))}), a local Hugging Face folder, or a name "
                f"that TransformerLens knows. {suggest_path(name) or suggest(name, public)}"
            )
        repo = known[name.lower()]
    if isinstance(try_to_load_from_cache(repo, "config.json"), str):
        return
    require_hub_repo(
        repo,
        kind="model",
        advice=f"{next(iter(EMBEDDED))!r} works offline, as does the path of a local folder.",
    )


def ignore_deprecation() -> None:
    """Silence HookedTransformer's deprecation in a block of caught warnings."""
    # SAELens still uses it
    warnings.filterwarnings("ignore", "HookedTransformer", DeprecationWarning)


FLAG = "--trust-remote-code"

_CountOrNone: TypeAlias = NonNegativeInt | None

HARMLESS: Mapping[str, Any] = {
    "center_unembed": bool,
    "center_writing_weights": bool,
    "checkpoint_index": _CountOrNone,
    "checkpoint_value": _CountOrNone,
    "default_padding_side": Literal["left", "right"] | None,
    "default_prepend_bos": bool | None,
    "first_n_layers": _CountOrNone,
    "fold_ln": bool,
    "fold_value_biases": bool,
    "n_ctx": _CountOrNone,
    "n_devices": NonNegativeInt,
    "refactor_factored_attn_matrices": bool,
}
"""
Types of the loader arguments that only choose how known weights are used.

``revision`` is left out: anybody can open a pull request, which is a revision of a hub
repository. ``attn_implementation`` can name a hub repository of compiled code.
"""


def require_harmless(given: object, *, trusted: bool, source: str) -> dict[str, Any]:
    """
    Return the arguments that a release gives for the loader of its language model.

    Args:
        given: ``model_from_pretrained_kwargs`` of an SAE's metadata.
        trusted: pass on any argument.
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
        if trusted or (known is not None and _accepts(known, value)):
            continue
        raise InputError(
            f"{source} wants its language model loaded with {name}={brief(value)}, which may run "
            f"code; expected only {', '.join(HARMLESS)}, with plain values. Leave the SAE out, "
            f"or give {FLAG} if you trust the release."
        )
    return arguments


def _accepts(kind: Any, value: object) -> bool:
    try:
        TypeAdapter[Any](kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def is_inside(path: object, folder: Path) -> bool:
    """Return whether a path exists and leads into a folder, links followed or not."""
    if not isinstance(path, str) or "\0" in path or not os.path.lexists(path):
        return False
    roots = {folder.absolute(), folder.resolve()}
    spelled = {Path(os.path.abspath(path)), Path(path).resolve()}
    return any(place.is_relative_to(root) for place in spelled for root in roots)


def texts_in(settings: Any) -> Iterator[str]:
    """Yield every text in the settings of a source, each of which may be a path."""
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, Mapping):
        for value in settings.values():
            yield from texts_in(value)
    elif isinstance(settings, Iterable):
        for value in settings:
            yield from texts_in(value)


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
