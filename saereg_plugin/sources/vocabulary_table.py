"""Each latent's nearest token as a parquet file in a release folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from sae_lens import TrainingSAE
from transformers import AutoTokenizer

from saereg_plugin.files import atomic_path, sha256
from saereg_plugin.metrics.similarity import (
    ALIGNED_THRESHOLD,
    TokenAlignment,
    nearest_token,
)
from saereg_plugin.sources import models
from saereg_plugin.sources.embeddings import (
    TensorFile,
    hub_repository,
    read_vocabulary,
)

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
