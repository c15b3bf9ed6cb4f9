"""Pooled latents of texts, and the features they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.statistics.interval import Array
from eval_recipes.steering.generate.language_model import LanguageModel, residuals

Pool = Literal["mean", "max", "share"]
"""
How the codes of a text's tokens become one vector.

- ``mean``: over all tokens.
- ``max``: the largest activation of each latent.
- ``share``: the share of tokens on which a latent fires.
"""

Kind = Literal["sae", "raw", "tfidf", "length"]
"""
Features of a text.

- ``sae``: pooled latents.
- ``raw``: the mean of the activations that the SAE reads.
- ``tfidf``: words, numbers and signs, one and two in a row.
- ``length``: the logarithm of the number of tokens.
"""

KINDS: tuple[Kind, ...] = ("sae", "raw", "tfidf", "length")

MOST_TERMS = 2000
"""Most terms of tf-idf, the most frequent ones of the training texts."""

_AT_ONCE = 16


@dataclass(frozen=True)
class Features:
    """
    What is known of texts before any label.

    Attributes:
        sae: pooled latents, (texts, d_sae).
        raw: mean activations, (texts, d_in).
        tokens: number of tokens read, special tokens left out, (texts,).
        texts: the texts.
    """

    sae: Any
    raw: Array
    tokens: NDArray[np.int64]
    texts: tuple[str, ...]

    def columns(
        self, kind: Kind, train: NDArray[np.intp], rest: NDArray[np.intp]
    ) -> tuple[Array, Any, NDArray[np.intp]]:
        """
        Return scaled features of training and of other texts.

        Latents, activations and length are divided by their standard deviation over the
        training texts; columns that do not vary there are left out. Latents are not centred,
        so that they stay sparse. Terms of tf-idf are those of the training texts.

        Returns:
            Training rows, dense; other rows, dense or sparse; the numbers of the columns kept.
        """
        if kind == "tfidf":
            return self._terms(train, rest)
        table: Any = self.sae
        if kind == "raw":
            table = self.raw
        if kind == "length":
            table = np.log1p(self.tokens.astype(np.float64))[:, None]
        own = table[train]
        dense: Array = np.asarray(own.toarray() if kind == "sae" else own)
        spread = dense.std(0)
        kept = np.flatnonzero(spread > 1e-12 * np.abs(dense).max(0))
        scale = spread[kept]
        others = table[rest][:, kept]
        if kind == "sae":
            return (
                np.asfortranarray(dense[:, kept] / scale),
                csr_matrix(others.multiply(1 / scale)),
                kept,
            )
        mean = dense[:, kept].mean(0)
        return (
            np.asfortranarray((dense[:, kept] - mean) / scale),
            (others - mean) / scale,
            kept,
        )

    def _terms(
        self, train: NDArray[np.intp], rest: NDArray[np.intp]
    ) -> tuple[Array, Any, NDArray[np.intp]]:
        terms: Any = term_table()
        own = terms.fit_transform([self.texts[i] for i in train]).toarray()
        others: Any = csr_matrix((0, own.shape[1]))
        if len(rest):
            others = terms.transform([self.texts[i] for i in rest])
        return np.asfortranarray(own), others, np.arange(own.shape[1])


def term_table() -> TfidfVectorizer:
    """Return a tf-idf vectoriser of words, numbers and signs, one and two in a row."""
    return TfidfVectorizer(
        ngram_range=(1, 2),
        max_features=MOST_TERMS,
        sublinear_tf=True,
        # digits and signs count: of a sum they say most
        token_pattern=r"\w+|[^\w\s]",
    )


@torch.no_grad()
def read_features(
    model: LanguageModel,
    sae: SAE[Any],
    texts: Sequence[str],
    *,
    pool: Pool = "mean",
    most_tokens: int = 512,
) -> Features:
    """
    Run a language model up to an SAE's hook, and pool the latents of each text.

    Special tokens are left out; texts are cut at ``most_tokens`` tokens. A text of special
    tokens alone has zeros.
    """
    metadata = sae.cfg.metadata
    hook_name, prepend_bos = metadata.hook_name, metadata.prepend_bos is not False
    assert hook_name is not None
    # texts of one length next to each other need little padding
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    batches = residuals(
        model,
        [texts[number] for number in order],
        hook_name,
        prepend_bos=prepend_bos,
        batch_size=_AT_ONCE,
        most_tokens=most_tokens,
    )
    latents: list[Any] = []
    raw = np.zeros((len(texts), int(sae.cfg.d_in)))
    tokens = np.zeros(len(texts), dtype=np.int64)
    total = -(-len(texts) // _AT_ONCE)
    for vectors, kept in tqdm(batches, desc="texts", total=total):
        for rows, own in zip(vectors, kept, strict=True):
            number, read = order[len(latents)], rows[own]
            tokens[number] = len(read)
            raw[number] = read.double().sum(0).numpy() / max(1, len(read))
            codes = sae.encode(read.to(sae.device, sae.dtype)).float().cpu()
            latents.append(csr_matrix(pooled(codes, pool).numpy()[None]))
    # rows are in the order of length
    table: Any = vstack(latents, format="csr")
    return Features(table[np.argsort(order)], raw, tokens, tuple(texts))


def pooled(codes: Tensor, pool: Pool) -> Tensor:
    """
    Return the vector of one text's codes (tokens, d_sae), float64; of zeros without tokens.

    >>> pooled(torch.tensor([[0.0, 2.0], [4.0, 2.0]]), "mean").tolist()
    [2.0, 2.0]
    >>> pooled(torch.tensor([[0.0, 2.0], [4.0, 2.0]]), "share").tolist()
    [0.5, 1.0]
    """
    codes = codes.to_dense() if codes.layout != torch.strided else codes
    values = codes.double()
    if not len(values):
        return values.new_zeros(values.shape[1])
    if pool == "max":
        return values.amax(0)
    return (values != 0).double().mean(0) if pool == "share" else values.mean(0)
