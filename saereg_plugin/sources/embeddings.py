"""Token embeddings of a language model, and the tokens nearest to latents."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from sae_lens import TrainingSAE
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer

from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path, sha256
from saereg_plugin.kernels.blocks import row_blocks, row_norms
from saereg_plugin.metrics.similarity import (
    ALIGNED_THRESHOLD,
    TokenAlignment,
    nearest_token,
)
from saereg_plugin.sources import models
from saereg_plugin.sources.assets import require_hub_repo

EMBEDDING_NAMES = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "shared.weight",
)
"""Ends of tensor names that models give to their token embeddings."""

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_ADVICE = (
    "Write the embeddings [tokens, d_in] into a safetensors file and name it: "
    "embeddings='<file>' or '<file>::<tensor>'."
)


class TensorFile(NamedTuple):
    """A tensor in a safetensors file."""

    path: Path
    tensor: str


class Vocabulary(NamedTuple):
    """Token embeddings of a model."""

    rows: torch.Tensor
    """[tokens, d] as stored; on the CPU, pages of the file that readers share."""
    inverse_norms: torch.Tensor
    """[tokens] float32 or better; 0 for a token whose embedding is zero."""

    @classmethod
    def of(cls, rows: torch.Tensor) -> Vocabulary:
        """
        Take embeddings [tokens, d].

        Raises:
            InputError: if one of them is not finite.
        """
        norms = torch.cat([row_norms(part) for (part,) in row_blocks(rows)])
        if not bool(norms.isfinite().all()):
            token = int((~norms.isfinite()).nonzero()[0])
            raise InputError(
                f"The embedding of token {token} is not finite; expected finite numbers."
            )
        return cls(rows, torch.where(norms > 0, norms.reciprocal(), 0.0))


def find_embeddings(
    model_name: str | None,
    embeddings: str | None = None,
    *,
    model_class_name: str = "HookedTransformer",
) -> TensorFile:
    """
    Return the file and tensor of token embeddings, or fail within seconds.

    Of a hub model only the file with the embeddings is fetched.

    Args:
        model_name: an embedded model, a local folder, or a hub model (``models.ensure``).
        embeddings: a safetensors file to use instead, as ``path`` or ``path::tensor``.
        model_class_name: the class that loads the model, as SAELens calls it.

    Raises:
        InputError: if the model or file is missing, or has no embeddings.
    """
    if embeddings is not None:
        path, _, tensor = embeddings.partition("::")
        return TensorFile(Path(path), tensor or _only_tensor(Path(path)))
    if not model_name:
        raise InputError(
            "The SAE does not say which model's embeddings to take (its metadata has no "
            f"model_name). Set sae.cfg.metadata.model_name. Or: {_ADVICE}"
        )
    folder = models.ensure(model_name, model_class_name=model_class_name)
    if folder is not None:
        return _locate(partial(_folder_file, folder), f"Model folder {model_name!r}")
    repo = hub_repository(model_name)
    return _locate(partial(_hub_file, repo), f"Model {repo!r} on the hub")


def hub_repository(model_name: str) -> str:
    """Return the hub repository of a model's TransformerLens name."""
    return models.hub_name(model_name)


def embedding_shape(file: TensorFile) -> tuple[int, int]:
    """
    Return (tokens, d) without reading the tensor.

    Raises:
        InputError: if it cannot be read or is no matrix.
    """
    with _opened(file.path) as opened:
        if file.tensor not in opened.keys():  # noqa: SIM118
            raise InputError(
                f"{str(file.path)!r} has no tensor {file.tensor!r}; it has "
                f"{', '.join(map(repr, sorted(opened.keys())[:8]))}."
            )
        shape: list[int] = opened.get_slice(file.tensor).get_shape()
    if len(shape) != 2:
        raise InputError(
            f"Tensor {file.tensor!r} of {str(file.path)!r} has shape {tuple(shape)}; expected "
            "token embeddings [tokens, d_in]."
        )
    return shape[0], shape[1]


def require_embeddings(file: TensorFile, d_in: int) -> int:
    """
    Return the number of tokens of embeddings of width ``d_in``.

    Raises:
        InputError: for another width: cosines with decoder rows would have no meaning.
    """
    tokens, width = embedding_shape(file)
    if width != d_in:
        raise InputError(
            f"The token embeddings in {str(file.path)!r} have {width} dimensions, the SAE has "
            f"d_in={d_in}; expected the same space. Train on a hook of the residual stream, or "
            "give embeddings of that width: embeddings='<file>::<tensor>'."
        )
    return tokens


def read_vocabulary(
    file: TensorFile, d_in: int, device: torch.device | str = "cpu"
) -> Vocabulary:
    """
    Read the embeddings, nothing else of the file.

    Raises:
        InputError: if they cannot be read, are of another width, or not finite.
    """
    require_embeddings(file, d_in)
    with _opened(file.path) as opened:
        rows: torch.Tensor = opened.get_tensor(file.tensor)
    if not rows.is_floating_point():
        raise InputError(
            f"Tensor {file.tensor!r} of {str(file.path)!r} is {rows.dtype}; expected floats."
        )
    return Vocabulary.of(rows.to(device))


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"Embeddings file {str(path)!r} cannot be read as safetensors ({error})."
        ) from error


def _only_tensor(path: Path) -> str:
    with _opened(path) as opened:
        names = list(opened.keys())
    return names[0] if len(names) == 1 else _embedding_name(names, str(path))


def _embedding_name(names: list[str], where: str) -> str:
    for ending in EMBEDDING_NAMES:
        found = [name for name in names if f".{name}".endswith(f".{ending}")]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(
                f"{where} has several tensors that may be token embeddings "
                f"({', '.join(map(repr, found))}); name one: embeddings='<file>::<tensor>'."
            )
    raise InputError(
        f"{where} has no tensor that is called as token embeddings are "
        f"({', '.join(map(repr, EMBEDDING_NAMES))}). {_ADVICE}"
    )


def _locate(get: Callable[[str], Path | None], where: str) -> TensorFile:
    """Return the embeddings of a model in one file or several; ``get`` finds a file by name."""
    index = get(_INDEX)
    if index is not None:
        files = _weight_map(index)
        tensor = _embedding_name(list(files), where)
        shard = get(files[tensor])
        if shard is not None:
            return TensorFile(shard, tensor)
    single = get(_SINGLE)
    if single is None:
        raise InputError(
            f"{where} has no {_SINGLE}, so its embeddings cannot be read alone. {_ADVICE}"
        )
    return TensorFile(single, _only_tensor(single))


def _folder_file(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_file() else None


def _hub_file(repo: str, name: str) -> Path | None:
    """Return a file of a hub model, from the cache or the hub; None if there is none."""
    cached = try_to_load_from_cache(repo, name)
    if isinstance(cached, str):
        return Path(cached)
    # a model in one file has no index: the hub need not be asked for it
    if cached is not None or (
        name == _INDEX and isinstance(try_to_load_from_cache(repo, _SINGLE), str)
    ):
        return None
    require_hub_repo(repo, kind="model", advice=_ADVICE)
    try:
        return Path(hf_hub_download(repo, name))
    except EntryNotFoundError:
        return None
    except (OSError, HfHubHTTPError) as error:
        raise InputError(
            f"{name!r} of the model {repo!r} cannot be fetched ({type(error).__name__}: {error}). "
            f"Try again. Or: {_ADVICE}"
        ) from error


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The index of weights {str(index)!r} cannot be read ({error})."
        ) from error


ALIGNMENT_FILE = "vocabulary_alignment.parquet"


class AnchorVocabulary(NamedTuple):
    """The token embeddings to which a regulariser pulls decoder rows."""

    file: TensorFile
    model_name: str | None
    """Model whose tokenizer spells the tokens; None if the embeddings are no model's."""


def write_vocabulary_alignment(
    saes: Mapping[str, TrainingSAE[Any]], folder: Path
) -> dict[str, Any] | None:
    """
    Write ``folder/vocabulary_alignment.parquet`` for the SAEs whose rows are pulled to tokens.

    One row per latent: ``sae_id``, ``latent``, ``token_id``, ``token`` (as the tokenizer spells
    it; null if the embeddings came from a file), ``cosine`` and ``aligned`` (cosine at least
    .8). An exact search over the vocabulary, 20 s for 49,152 latents and tokens.

    Args:
        saes: trained SAEs by id, as they are saved.
        folder: the release folder.

    Returns:
        ``file``, ``rows`` and ``sha256``, for the manifest; None if there is no such SAE.
    """
    tables: list[Any] = []
    spelled: dict[str, list[str]] = {}
    for sae_id, sae in saes.items():
        anchor = _anchor_of(sae)
        if anchor is None:
            continue
        vocabulary = read_vocabulary(anchor.file, sae.cfg.d_in)
        name, tokens = anchor.model_name, None
        if name is not None:
            if name not in spelled:
                spelled[name] = token_texts(name, len(vocabulary.rows))
            tokens = spelled[name]
        alignment = nearest_token(sae.W_dec.detach().cpu(), vocabulary.rows)
        tables.append(alignment_table(sae_id, alignment, tokens))
    if not tables:
        return None
    table = pa.concat_tables(tables)
    target = folder / ALIGNMENT_FILE
    with atomic_path(target) as temporary:
        pq.write_table(table, temporary)
    return {"file": target.name, "rows": table.num_rows, "sha256": sha256(target)}


def _anchor_of(sae: TrainingSAE[Any]) -> AnchorVocabulary | None:
    """Return the vocabulary to which the first such regulariser pulls decoder rows."""
    for regularizer in getattr(sae.cfg, "regularizers", ()):
        found = regularizer.anchor_vocabulary(sae.cfg.metadata)
        if found is not None:
            return found
    return None


def alignment_table(
    sae_id: str,
    alignment: TokenAlignment,
    tokens: Sequence[str] | None,
    *,
    threshold: float = ALIGNED_THRESHOLD,
) -> Any:
    """Return the ``pyarrow.Table`` of one SAE, with a row for each latent."""
    ids = alignment.token.tolist()
    texts = [None] * len(ids) if tokens is None else [tokens[index] for index in ids]
    return pa.table(
        {
            "sae_id": pa.array([sae_id] * len(ids), pa.string()),
            "latent": pa.array(range(len(ids)), pa.int64()),
            "token_id": pa.array(ids, pa.int64()),
            "token": pa.array(texts, pa.string()),
            "cosine": pa.array(alignment.cosine.numpy(), pa.float32()),
            "aligned": pa.array((alignment.cosine >= threshold).numpy(), pa.bool_()),
        }
    )


def token_texts(model_name: str, n_tokens: int) -> list[str]:
    """
    Return how a model's tokenizer spells its first ``n_tokens`` tokens.

    Embeddings may have more rows than there are tokens (padding): those are empty.
    """
    folder = models.ensure(model_name)
    source = hub_repository(model_name) if folder is None else str(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    known = min(n_tokens, len(tokenizer))
    spelled: list[str] = tokenizer.convert_ids_to_tokens(list(range(known)))
    return [text or "" for text in spelled] + [""] * (n_tokens - known)
