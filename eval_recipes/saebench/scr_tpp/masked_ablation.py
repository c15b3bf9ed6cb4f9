"""
Zero ablation of latents on real tokens only, on mean activations and linear probes.

SCR and TPP (arXiv 2411.18895) read a probe on a text's mean activation, and ablate latents
at every position. Decoding is linear in the latents, so with f_jt the activation of latent j
at position t and d_j its decoder row, ablating the set S moves a text's mean by
``-(1 / n) sum_{j in S} (sum_t f_jt) d_j``, n the number of real tokens. Upstream's sum runs
over padded positions too, where the input is the zero vector, on which latents may fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

Array = NDArray[np.float64]


class TextMeans(NamedTuple):
    """What ablations of a set of texts are made of; every row is divided by its real tokens."""

    clean: Tensor
    """Summed activations, shape (texts, d_in)."""
    real: Tensor
    """Latents summed over real tokens, shape (texts, latents)."""
    padded: Tensor
    """Latents summed over padded positions, shape (texts, latents)."""


def real_positions(acts: Tensor) -> Tensor:
    """
    Return where activations (texts, tokens, d_in) are those of a token, shape (texts, tokens).

    Upstream has set padded and special positions to zero. It finds them again by a sum of
    zero, which a real token may have by chance.
    """
    return (acts != 0).any(-1)


@torch.no_grad()
def text_means(
    sae: SAE[Any], acts: Tensor, latents: Tensor, *, batch_size: int
) -> TextMeans:
    """
    Return means of activations and of the chosen latents, in float32.

    Memory: the latents of one batch, ``batch_size x tokens x d_sae`` values.

    Args:
        sae: the SAE; its ``decode`` must be linear in the latents of a token.
        acts: shape (texts, tokens, d_in), zero at padded positions.
        latents: indices of the latents wanted.
        batch_size: texts encoded at once.
    """
    parts: list[TextMeans] = []
    for batch in acts.split(batch_size):
        real = real_positions(batch)
        count = real.sum(1, keepdim=True)
        # encode keeps what decode needs to undo a normalisation: read it off before it is used.
        values = sae.encode(batch)[..., latents].float()
        values = values * _output_scale(sae, batch)[..., None]
        on_real = torch.where(real[..., None], values, 0)
        parts.append(
            TextMeans(
                clean=batch.float().sum(1) / count,
                real=on_real.sum(1) / count,
                padded=(values - on_real).sum(1) / count,
            )
        )
    return TextMeans(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _output_scale(sae: SAE[Any], acts: Tensor) -> Tensor:
    """By what ``decode`` multiplies each token's output after ``encode(acts)``, (texts, tokens)."""
    units = torch.tensor([1.0, 0.0], dtype=acts.dtype, device=acts.device)
    out = sae.run_time_activation_norm_fn_out(units.expand(*acts.shape[:2], 2))
    return (out[..., 0] - out[..., 1]).float()


def logits(clean: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a probe's logits (texts, probes) for weights (probes, d_in) and bias (probes,)."""
    return clean.double() @ weight.double().T + bias.double()


def logit_shift(contribution: Tensor, selected: Tensor, effect: Tensor) -> Tensor:
    """
    Return by how much ablating latents moves each probe's logit, shape (texts, probes).

    Args:
        contribution: ``TextMeans.real``, ``.padded`` or their sum, (texts, latents).
        selected: True for a latent to ablate, shape (latents,).
        effect: decoder rows times probe weights, shape (latents, probes).
    """
    return -(contribution[:, selected].double() @ effect[selected].double())


class Sampled(NamedTuple):
    """A figure, its bootstrap resamples and the number of texts behind it."""

    value: float
    draws: Array
    n: int


def stratified(
    strata: Sequence[Array], *, resamples: int, seed: Sequence[int]
) -> tuple[Array, Array]:
    """
    Return the sum over strata of column means, and its bootstrap resamples.

    Texts are resampled within their stratum (a class), whose size stays.

    Args:
        strata: one array (texts of the stratum, columns) each.
        resamples: number of resamples.
        seed: seed of the resampling.

    Returns:
        Shapes (columns,) and (resamples, columns).
    """
    generator = np.random.default_rng(list(seed))
    value = sum((s.mean(0) for s in strata), np.zeros(strata[0].shape[1]))
    draws = np.zeros((resamples, strata[0].shape[1]))
    for stratum in strata:
        n = len(stratum)
        weights = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
        draws += weights @ stratum / n
    return value, draws


def averaged(sets: Sequence[dict[str, Sampled]]) -> dict[str, Sampled]:
    """Average every figure over data sets, which are fixed; their texts are independent."""
    return {
        name: Sampled(
            float(np.mean([figures[name].value for figures in sets])),
            np.mean([figures[name].draws for figures in sets], axis=0),
            sum(figures[name].n for figures in sets),
        )
        for name in sets[0]
    }


def share(part: Array, rest: Array) -> Array:
    """Return part / (part + rest), 0 where both are 0."""
    whole = part + rest
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def flat(figures: dict[str, Sampled]) -> dict[str, float | int]:
    """
    Spread figures over a metric's four fields; the interval is the 95 % percentile bootstrap.

    >>> flat({"x": Sampled(0.5, np.array([0.5, 0.5]), 7)})
    {'x': 0.5, 'x_ci_low': 0.5, 'x_ci_high': 0.5, 'x_n': 7}
    """
    fields: dict[str, float | int] = {}
    for name, figure in figures.items():
        low, high = np.percentile(figure.draws, [2.5, 97.5])
        fields[name] = figure.value
        fields[f"{name}_ci_low"] = float(low)
        fields[f"{name}_ci_high"] = float(high)
        fields[f"{name}_n"] = figure.n
    return fields
