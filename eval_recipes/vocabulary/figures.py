"""From nearest tokens to figures with intervals, and the random dictionary's."""

from __future__ import annotations

import torch
from torch import Tensor

from eval_recipes.statistics.seeds import Interval, bootstrap_mean_interval
from eval_recipes.vocabulary.options import VocabularyEvalConfig
from saereg_plugin.metrics import unit_rows
from saereg_plugin.metrics.vocabulary import (
    TokenAlignment,
    aligned_mask,
    covered_tokens,
    nearest_token,
)


def alignment_figures(
    alignment: TokenAlignment, n_tokens: int, config: VocabularyEvalConfig
) -> dict[str, Interval | None]:
    """Return aligned fraction, mean max cosine and token coverage."""
    threshold = config.aligned_threshold
    return {
        "aligned_fraction": mean_of(
            aligned_mask(alignment, threshold=threshold), config
        ),
        "mean_max_cos": mean_of(alignment.cosine, config),
        "token_coverage": mean_of(
            covered_tokens(alignment, n_tokens, threshold=threshold), config
        ),
    }


def mean_of(values: Tensor, config: VocabularyEvalConfig) -> Interval:
    """Return a mean with its bootstrap interval; a share of 0 or 1 with its bound."""
    return bootstrap_mean_interval(
        [values.numpy()],
        caps=[1.0] if values.dtype == torch.bool else None,
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def share_difference(a: Tensor, b: Tensor, config: VocabularyEvalConfig) -> Interval:
    """Return the share of True in ``a`` minus that in ``b``, both resampled on their own."""
    return bootstrap_mean_interval(
        [a.numpy(), b.numpy()],
        weights=[1.0, -1.0],
        caps=[1.0, 1.0],
        n_resamples=config.n_resamples,
        seed=config.random_seed,
    )


def random_alignment(
    shape: tuple[int, int], tokens: Tensor, *, seed: int
) -> TokenAlignment:
    """
    Return the nearest tokens of a dictionary in uniformly random directions.

    Args:
        shape: (d_sae, d_in).
        tokens: embeddings as unit rows, [tokens, d_in].
        seed: seed of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = unit_rows(torch.randn(shape, generator=generator))
    return nearest_token(rows, tokens, unit=True)
