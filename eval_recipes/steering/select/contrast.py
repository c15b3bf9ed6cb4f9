"""Latents that separate two sets of texts: AUROC with DeLong's interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sae_lens import SAE
from scipy.special import expit, logit
from scipy.stats import norm, rankdata

from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.generate.language_model import LanguageModel, residuals
from eval_recipes.steering.stats.rates import Array
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256

FEWEST_TEXTS = 4
"""Fewest texts of a set; half of them select, half of them measure."""

PERFECT = "every text of one set lies above every text of the other"
NO_VARIANCE = "the placements do not vary, so the spread cannot be estimated"


def auroc(a: ArrayLike, b: ArrayLike) -> Interval:
    """
    Return P(x > y) + P(x = y) / 2 for a random x of ``a`` and y of ``b``.

    Interval: DeLong's variance (1988), the sum over both sets of the variance of placements
    divided by their number; normal on the logit scale, so that it stays within 0 and 1.
    ``n`` is the number of values. A perfect separation has no interval.

    Raises:
        ValueError: for fewer than 2 values of a set.

    >>> auroc([3.0, 1.0], [2.0, 0.0]).value
    0.75
    """
    x, y = (np.asarray(values, dtype=np.float64).ravel() for values in (a, b))
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{len(x)} and {len(y)} values; expected 2 of each or more")
    n = len(x) + len(y)
    joint = rankdata(np.concatenate([x, y]))
    above = (joint[: len(x)] - rankdata(x)) / len(y)
    below = 1 - (joint[len(x) :] - rankdata(y)) / len(x)
    value = float(above.mean())
    variance = float(above.var(ddof=1) / len(x) + below.var(ddof=1) / len(y))
    if value in (0.0, 1.0):
        return Interval(value, None, None, n, PERFECT)
    if variance <= 1e-15:
        return Interval(value, None, None, n, NO_VARIANCE)
    half = float(norm.ppf(0.975)) * math.sqrt(variance)
    half /= value * (1 - value)
    centre = float(logit(value))
    return Interval(value, float(expit(centre - half)), float(expit(centre + half)), n)


def aurocs(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the AUROC of every column, shape (d,), of sets of shape (n_a, d) and (n_b, d)."""
    x, y = (np.asarray(values, dtype=np.float64) for values in (a, b))
    joint = rankdata(np.concatenate([x, y]), axis=0)
    return (joint[: len(x)].mean(0) - (len(x) + 1) / 2) / len(y)


@dataclass(frozen=True)
class Split:
    """Indices of texts that select latents and train probes, and of texts that measure."""

    select: NDArray[np.intp]
    measure: NDArray[np.intp]


def halves(n: int, *, seed: int) -> Split:
    """
    Split ``n`` texts at random into halves; the first is the larger if ``n`` is odd.

    Raises:
        ValueError: for fewer than ``FEWEST_TEXTS``.
    """
    if n < FEWEST_TEXTS:
        raise ValueError(f"{n} texts; expected {FEWEST_TEXTS} or more")
    order = np.random.default_rng(seed).permutation(n)
    cut = (n + 1) // 2
    return Split(np.sort(order[:cut]), np.sort(order[cut:]))


@dataclass(frozen=True)
class Separating:
    """A latent that was chosen because it separates two sets of texts."""

    latent: int
    selected: float
    """AUROC on the texts that it was chosen by: too high, since it is the best of many."""
    measured: Interval
    """AUROC on the other texts: an unbiased figure."""


def best_latents(
    a: Array, b: Array, pool: list[int], n: int, *, seed: int
) -> list[Separating]:
    """
    Return ``n`` latents of a pool that are larger on ``a`` than on ``b``, best first.

    Half of each set, values of shape (texts, d_sae), ranks the latents by AUROC, ties by id; the
    other half gives the reported figure. ``seed`` decides the split.
    """
    of_a, of_b = halves(len(a), seed=seed), halves(len(b), seed=seed)
    columns = np.array(pool)
    ranked = aurocs(a[of_a.select][:, columns], b[of_b.select][:, columns])
    order = np.lexsort((columns, -ranked))[:n]
    return [
        Separating(
            latent,
            selected=float(ranked[place]),
            measured=auroc(a[of_a.measure, latent], b[of_b.measure, latent]),
        )
        for place, latent in zip(order, columns[order].tolist(), strict=True)
    ]


@dataclass(frozen=True)
class TextSets:
    """Texts with the target property and texts without it."""

    a: tuple[str, ...]
    b: tuple[str, ...]

    @classmethod
    def read(cls, paths: Sequence[str]) -> TextSets:
        """
        Read two files, one text per line; empty lines and repeated texts are left out.

        Raises:
            InputError: if a file cannot be read or has too few texts, or they share a text.
        """
        a, b = (_lines(Path(path)) for path in paths)
        others = set(b)
        both = [text for text in a if text in others]
        if both:
            raise InputError(
                f"{len(both)} texts stand in {str(paths[0])!r} and in {str(paths[1])!r}, such "
                f"as {both[0][:60]!r}; expected different texts. Leave them out of one."
            )
        return cls(a, b)


def identity(paths: Sequence[str]) -> list[str]:
    """Return the SHA-256 of both files; raises InputError if a file is missing."""
    for path in paths:
        if not Path(path).is_file():
            raise InputError(
                f"File {path!r} does not exist; expected texts, one a line, for 'contrast'."
            )
    return [sha256(Path(path)) for path in paths]


@torch.no_grad()
def mean_activations(
    model: LanguageModel, sae: SAE[Any], texts: Sequence[str]
) -> Array:
    """
    Return each latent's mean activation over a text's tokens, shape (text, d_sae).

    Special tokens are left out; texts are cut at 128 tokens. A text of special tokens alone
    has zeros.
    """
    metadata = sae.cfg.metadata
    hook_name, prepend_bos = metadata.hook_name, metadata.prepend_bos is not False
    assert hook_name is not None
    found: list[Array] = []
    for vectors, kept in residuals(model, texts, hook_name, prepend_bos=prepend_bos):
        latents = sae.encode(vectors.to(sae.device, sae.dtype)).float().cpu()
        latents = latents.to_dense() if latents.layout != torch.strided else latents
        total = (latents * kept[..., None]).sum(1)
        mean = total / kept.sum(1, keepdim=True).clamp(min=1)
        found.append(mean.numpy().astype(np.float64))
    return np.concatenate(found)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error}); expected texts in UTF-8, one a line."
        ) from error
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < FEWEST_TEXTS:
        raise InputError(
            f"File {str(path)!r} has {len(texts)} different texts; expected {FEWEST_TEXTS} or "
            "more, one a line: half of them select latents, half of them measure."
        )
    return texts
