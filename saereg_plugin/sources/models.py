"""Language models by name: embedded in a package, in a local folder, or on the hub."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
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

from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import folder_identity
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
    "fast_dtype",
    "identity",
    "ignore_deprecation",
    "load",
    "register_names",
    "require_device",
    "torch_dtype",
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


def fast_dtype(device: str) -> str:
    """Return "bfloat16" where the device multiplies it in hardware, else "float32"."""
    if torch.device(device).type == "cuda":
        return (
            "bfloat16"
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else "float32"
        )
    # since torch 2.10
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    has = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    return "bfloat16" if has and torch.device(device).type == "cpu" else "float32"


def torch_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """
    Return a floating torch dtype by name.

    Raises:
        InputError: if there is none of that name, or models cannot compute in it.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(
            f"Unknown dtype {dtype!r}; expected the name of a torch dtype, such as "
            "'float32' or 'bfloat16'."
        )
    if not found.is_floating_point or found.itemsize < 2:
        raise InputError(
            f"Models cannot compute in dtype {dtype!r}; expected 'float32', 'bfloat16', "
            "'float16' or 'float64'."
        )
    return found


def require_device(device: str) -> torch.device:
    """
    Return a torch device by name, if this machine has it.

    Raises:
        InputError: if no device has that name, its driver is missing, or its index is
            too large.
    """
    try:
        found = torch.device(_text(device))
    except RuntimeError as error:
        raise InputError(
            f"Unknown device {device!r}; expected 'cpu', 'cuda', 'cuda:1' or 'mps'."
        ) from error
    count = _device_count(found.type)
    if count == 0:
        raise InputError(
            f"Device {device!r} is not available: torch {torch.__version__} finds no "
            f"{found.type} device on this machine. Use 'cpu', or check the driver."
        )
    if (found.index or 0) >= count:
        raise InputError(
            f"Device {device!r} does not exist: this machine has {count} {found.type} "
            f"device{'s' if count > 1 else ''}, counted from 0."
        )
    return found


def _text(device: object) -> str:
    # torch takes a number for the index of a GPU
    if not isinstance(device, str):
        raise InputError(f"Device {device!r} is no text; expected 'cpu' or 'cuda:1'.")
    return device


def _device_count(kind: str) -> int:
    """Return how many devices of a type torch can compute on; "meta" has no numbers."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if kind == "meta":
        return 0
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return int(module.device_count())


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
