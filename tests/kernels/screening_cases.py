"""Inputs and encoders on which a screened selection is compared with a dense one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

ROWS = 10_000
D_IN = 64
D_SAE = 1000
"""No multiple of a group."""

K = 12


@dataclass(frozen=True)
class Case:
    """
    An encoder and its inputs.

    Attributes:
        sae_in: [ROWS, d_in].
        W_enc: [d_in, d_sae].
        b_enc: [d_sae].
        norms: [d_sae] or None.
        k: latents that are selected in a row.
    """

    sae_in: torch.Tensor
    W_enc: torch.Tensor
    b_enc: torch.Tensor
    norms: torch.Tensor | None = None
    k: int = K


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def encoder(d_in: int = D_IN, d_sae: int = D_SAE) -> tuple[torch.Tensor, torch.Tensor]:
    """A random encoder of unit vectors, and biases."""
    source = generator(1)
    weight = torch.randn(d_in, d_sae, generator=source)
    return weight / weight.norm(dim=0), torch.randn(d_sae, generator=source) / 10


def normal() -> Case:
    return Case(torch.randn(ROWS, D_IN, generator=generator(0)), *encoder())


def rescaled() -> Case:
    case = normal()
    norms = torch.rand(D_SAE, generator=generator(2)) + 0.1
    return Case(case.sae_in, case.W_enc, case.b_enc, norms)


def heavy_tailed() -> Case:
    """Student's t of two degrees of freedom, in inputs and weights."""
    source = generator(3)

    def draw(*shape: int) -> torch.Tensor:
        chi = torch.randn(2, *shape, generator=source).square().sum(0)
        return torch.randn(*shape, generator=source) / (chi / 2).sqrt()

    return Case(draw(ROWS, D_IN), draw(D_IN, D_SAE), draw(D_SAE))


def with_outliers() -> Case:
    """Some rows of norm 800 in one dimension, as BOS has in language models."""
    case = normal()
    case.sae_in[::100, 7] = 800
    return case


def all_equal() -> Case:
    return Case(
        torch.ones(ROWS, D_IN), torch.ones(D_IN, D_SAE), torch.ones(D_SAE) * 0.5
    )


def with_ties() -> Case:
    """Every latent is there five times."""
    case = normal()
    n = D_SAE // 5
    return Case(case.sae_in, case.W_enc[:, :n].repeat(1, 5), case.b_enc[:n].repeat(5))


def zeros() -> Case:
    """Rows of zeros have the biases alone; so have all in latents of zeros."""
    case = normal()
    case.sae_in[::3] = 0
    case.W_enc[:, ::2] = 0
    return case


def denormal() -> Case:
    """Rows and latents of numbers that hardware may take for 0."""
    case = normal()
    case.sae_in[::2] *= 1e-39
    case.W_enc[:, ::2] *= 1e-39
    case.b_enc.mul_(1e-39)
    return case


def tiny() -> Case:
    """Numbers whose squares vanish."""
    case = normal()
    return Case(case.sae_in * 1e-22, case.W_enc, torch.zeros(D_SAE))


def negative() -> Case:
    """Few or no pre-activations are positive."""
    case = normal()
    return Case(case.sae_in, case.W_enc, case.b_enc - 3)


def of_one() -> Case:
    case = normal()
    return Case(case.sae_in, case.W_enc, case.b_enc, k=1)


def wide_bias() -> Case:
    case = normal()
    return Case(case.sae_in, case.W_enc, case.b_enc * 100)


def swapped() -> Case:
    """
    The k-th and the next value differ by 1e-6, and bfloat16 swaps them.

    Inputs and weights lie next to the middle of two bfloat16 numbers. Those of the k-th
    latent are rounded down, those of the next one up: by 1.6 %.
    """
    middle, delta, n = 1 + 2.0**-8, 2e-7, 4
    below, above = middle - delta, middle + delta
    sae_in = torch.zeros(ROWS, D_IN)
    sae_in[:, :n], sae_in[:, n : 2 * n] = below, above
    # powers of two change no rounding
    sae_in *= 2.0 ** (torch.arange(ROWS) % 8)[:, None]
    W_enc = torch.rand(D_IN, D_SAE, generator=generator(4)) / 100
    # next to each other, and so in different groups
    larger, first, second = slice(0, K - 1), K - 1, K
    W_enc[:, larger] = 2
    W_enc[:, first] = W_enc[:, second] = 0
    W_enc[:n, first] = below
    wanted = n * below**2 * (1 - 1e-6)
    W_enc[n : 2 * n, second] = above
    W_enc[n, second] = wanted / above - (n - 1) * above
    return Case(sae_in, W_enc, torch.zeros(D_SAE))


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        *(normal, rescaled, heavy_tailed, with_outliers, all_equal, with_ties),
        *(zeros, denormal, tiny, negative, of_one, wide_bias, swapped),
    )
}
