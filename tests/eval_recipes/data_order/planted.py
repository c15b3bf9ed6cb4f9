"""Texts with planted latents, and their features without a model."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from eval_recipes.data_order.features import Features
from eval_recipes.data_order.texts import Labels, Texts

LATENTS, PLANTED, OF_QUALITY = 40, 7, 11


def planted_texts(n: int = 120, *, per_group: int = 1) -> Texts:
    """Texts of random words, in groups of neighbours."""
    words = np.random.default_rng(1).integers(50, size=(n, 12))
    texts = tuple(" ".join(f"w{word}" for word in row) for row in words)
    groups = np.arange(n) // per_group
    return Texts(tuple(f"t{i}" for i in range(n)), texts, groups)


def planted_features(texts: Texts, seed: int = 0) -> Features:
    """Rates of independent latents; raw activations that know nothing of them."""
    generator = np.random.default_rng(seed)
    n = len(texts)
    rates = generator.random((n, LATENTS)) * (generator.random((n, LATENTS)) < 0.6)
    rates[:, 3] = 0.0
    return Features(
        sae=csr_matrix(rates),
        raw=generator.normal(size=(n, 16)),
        tokens=generator.integers(20, 30, size=n),
        texts=texts.texts,
    )


def planted_labels(features: Features) -> Labels:
    """Difficulty is linear in one latent's rate, quality a threshold of another's."""
    rates = features.sae.toarray()
    quality = rates[:, OF_QUALITY] > np.median(rates[:, OF_QUALITY])
    return Labels(3 + 4 * rates[:, PLANTED], quality.astype(np.float64))
