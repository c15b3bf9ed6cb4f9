"""Outlier severity of activations, and the born-dead share it predicts."""

from __future__ import annotations

import torch
from scipy.stats import norm
from torch import Tensor

TOKENS = 100_000
"""N of C = Phi^-1(1 - 1/N), as in arXiv 2605.31518."""

SEVERE_SHARE = 0.01
"""Predicted born-dead share from which centring is advised; ours."""

_EPS = 1e-5
"""Of the paper's LayerNorm."""


def layer_normalised(x: Tensor) -> Tensor:
    """
    Return each row less its mean, over its standard deviation, in float64.

    The LayerNorm without weights of arXiv 2605.31518, which its published code also
    multiplies with sqrt(d): gamma and effective rank do not change with scale.

    Args:
        x: [..., d_in].
    """
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + _EPS).sqrt()


def outlier_severity(mean_square: float, square_mean: float) -> float:
    """
    Return gamma = ||mu|| / ||sigma|| (arXiv 2605.31518).

    mu and sigma hold the mean and the standard deviation of each dimension over tokens, so
    that ``||sigma||^2 = mean ||x||^2 - ||mu||^2``. Infinite where rows do not vary.

    Args:
        mean_square: mean of ||x||^2.
        square_mean: ||mean of x||^2.

    >>> round(outlier_severity(5.0, 4.0), 6)
    2.0
    """
    spread = mean_square - square_mean
    # below this the difference is rounding
    if spread <= 1e-12 * mean_square:
        return torch.inf if mean_square > 0 else torch.nan
    return (max(square_mean, 0.0) / spread) ** 0.5


def effective_rank(covariance: Tensor) -> float:
    """
    Return exp(entropy of the eigenvalues' shares) of a covariance [d, d].

    As in arXiv 2605.31518; d for equal variances, 1 for a single direction, NaN for none.

    >>> round(effective_rank(torch.eye(4)), 6)
    4.0
    """
    values = torch.linalg.eigvalsh(covariance.double()).clamp(min=0)
    total = values.sum()
    if not float(total) > 0:
        return torch.nan
    shares = values / total
    shares = shares[shares > 1e-12]
    return float((-(shares * shares.log()).sum()).exp())


def born_dead_by_relu(gamma: float, *, tokens: int = TOKENS) -> float:
    """
    Return the share of latents whose pre-activation is predicted to be never positive.

    Phi(-C / gamma), C = Phi^-1(1 - 1/N) (arXiv 2605.31518): a random encoder row sees a
    mean of z ||mu|| and a largest deviation of C ||sigma||, both over sqrt(d), z normal.

    Args:
        gamma: see ``outlier_severity``.
        tokens: N.

    >>> born_dead_by_relu(0.0), round(born_dead_by_relu(1e9), 6)
    (0.0, 0.5)
    """
    return _share(0.0, gamma, tokens)


def born_dead_by_topk(
    gamma: float, *, k: float, d_sae: int, tokens: int = TOKENS
) -> float:
    """
    Return the share of latents predicted never to be among the k largest, ReLU's included.

    Phi(t_k - C / gamma), t_k = Phi^-1(1 - k / n) (arXiv 2605.31518): the k-th largest
    pre-activation of a token is taken as t_k ||mu|| / sqrt(d), which holds where gamma is
    large. At a gamma near 1 it is too low, and so is the prediction; see
    ``born_dead_by_spread_topk``.

    Args:
        gamma: see ``outlier_severity``.
        k: selected latents.
        d_sae: n, all latents.
        tokens: N.

    >>> born_dead_by_topk(0.0, k=4, d_sae=64)
    0.0
    """
    if k >= d_sae:
        return 0.0
    return _share(float(norm.isf(k / d_sae)), gamma, tokens)


def born_dead_by_spread_topk(
    gamma: float, *, k: float, d_sae: int, tokens: int = TOKENS
) -> float:
    """
    Return the same share with the length of whole tokens in place of their mean's; ours.

    Phi(t_k sqrt(1 + 1 / gamma^2) - C / gamma): pre-activations of a token have the spread
    ||x|| / sqrt(d) over random latents, with ||x||^2 = ||mu||^2 + ||sigma||^2. It tends to
    ``born_dead_by_topk`` where gamma is large, and to 0 with gamma.

    Args:
        gamma: see ``outlier_severity``.
        k: selected latents.
        d_sae: n, all latents.
        tokens: N.

    >>> born_dead_by_spread_topk(0.0, k=4, d_sae=64)
    0.0
    """
    if k >= d_sae or gamma == 0:
        return 0.0
    level = float(norm.isf(k / d_sae)) * (1 + gamma**-2) ** 0.5
    return _share(level, gamma, tokens)


def _share(offset: float, gamma: float, tokens: int) -> float:
    if gamma == 0:
        return 0.0
    # isf keeps digits that 1 - 1/N would lose
    return float(norm.cdf(offset - norm.isf(1 / tokens) / gamma))
