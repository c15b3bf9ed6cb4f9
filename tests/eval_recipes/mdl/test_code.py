"""Length of codes: closed form, plain Python, properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.mdl.bins import (
    HALVINGS,
    NoWidthError,
    bin_numbers,
    coarsest_width,
    midpoints,
    width_units,
)
from eval_recipes.mdl.code import (
    CodeLength,
    code_length,
    crossed_bits,
    number_of_bins,
)
from saereg_plugin.metrics import Codes
from tests.eval_recipes.mdl.planted import bernoulli_uniform, held_codes
from tests.oracles import mdl_oracle as oracle


def length_of(
    z: torch.Tensor, widths: torch.Tensor
) -> tuple[Codes, torch.Tensor, CodeLength]:
    codes = Codes.of(z)
    numbers = bin_numbers(codes.values, widths[codes.latents])
    return codes, numbers, code_length(codes, numbers)


def binary_entropy(p: float) -> float:
    return oracle.entropy([round(p * 2**20), round((1 - p) * 2**20)])


@pytest.mark.parametrize("bits", [0, 1, 3, 5])
def test_bernoulli_times_uniform_has_its_closed_form(bits: int) -> None:
    """p of 2^-k and values uniform over 2^b bins: sum_j [H_b(p_j) + p_j b]."""
    rows, fires = 1024, [512, 256, 64, 32]
    z = bernoulli_uniform(fires, rows, values=32)
    codes, _, length = length_of(z, torch.full((4,), 2.0**-bits))
    firing, value = length.per_latent(codes)
    shares = [n / rows for n in fires]
    assert firing.tolist() == pytest.approx([binary_entropy(p) for p in shares])
    assert value.tolist() == pytest.approx([p * bits for p in shares], abs=1e-12)
    assert float((firing + value).sum()) == pytest.approx(
        sum(binary_entropy(p) + p * bits for p in shares)
    )


def test_a_latent_that_always_or_never_fires_has_no_bits_for_firing() -> None:
    z = torch.zeros(8, 3)
    z[:, 0], z[:, 1] = 1.0, torch.arange(1, 9) % 2 + 1.0
    codes, _, length = length_of(z, torch.ones(3))
    firing, value = length.per_latent(codes)
    assert firing.tolist() == [0.0, 0.0, 0.0]
    assert value.tolist() == [0.0, 1.0, 0.0]


CODES = st.integers(0, 2**32 - 1).map(
    lambda seed: _random_codes(torch.Generator().manual_seed(seed))
)


def _random_codes(generator: torch.Generator) -> torch.Tensor:
    rows, latents = torch.randint(1, 14, (2,), generator=generator).tolist()
    z = torch.randn(2 * rows, latents, generator=generator)
    keep = torch.rand(z.shape, generator=generator) < torch.rand(
        latents, generator=generator
    )
    return torch.where(keep, z, 0)


@settings(max_examples=60, deadline=None)
@given(CODES)
def test_lengths_equal_plain_python(z: torch.Tensor) -> None:
    widths = torch.linspace(0.2, 1.1, z.shape[1], dtype=torch.float64)
    codes, numbers, length = length_of(z, widths)
    firing, value = length.per_latent(codes)
    columns = z.double().T.tolist()
    expected = [
        oracle.latent_bits(c, w) for c, w in zip(columns, widths.tolist(), strict=True)
    ]
    assert firing.tolist() == pytest.approx([f for f, _ in expected], abs=1e-9)
    assert value.tolist() == pytest.approx([v for _, v in expected], abs=1e-9)
    coded = midpoints(numbers, widths[codes.latents])
    plain = [
        oracle.quantised(v, float(widths[j]))
        for v, j in zip(codes.values.tolist(), codes.latents.tolist(), strict=True)
    ]
    assert coded.tolist() == pytest.approx(plain)
    contexts = torch.arange(len(z)) // 2
    crossed = crossed_bits(codes, numbers, contexts, int(contexts[-1]) + 1)
    halves = (contexts % 2).tolist()
    assert float(crossed.sum()) == pytest.approx(
        oracle.crossed_bits(columns, widths.tolist(), halves), abs=1e-7
    )


@settings(max_examples=60, deadline=None)
@given(CODES, st.integers(0, 100))
def test_order_of_rows_and_latents_does_not_matter(z: torch.Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    moved = z[torch.randperm(len(z), generator=generator)]
    order = torch.randperm(z.shape[1], generator=generator)
    widths = torch.full((z.shape[1],), 0.3)
    codes, _, length = length_of(z, widths)
    other, _, changed = length_of(moved[:, order], widths)
    for first, second in zip(
        length.per_latent(codes), changed.per_latent(other), strict=True
    ):
        assert second.tolist() == pytest.approx(first[order].tolist(), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(CODES)
def test_contexts_share_all_bits(z: torch.Tensor) -> None:
    codes, _, length = length_of(z, torch.full((z.shape[1],), 0.3))
    contexts = torch.arange(len(z)) // 2
    parts = length.per_context(codes, contexts, int(contexts[-1]) + 1)
    for part, of_latents in zip(parts, length.per_latent(codes), strict=True):
        assert float(part.sum()) == pytest.approx(
            float(of_latents.sum()) * len(z), abs=1e-8
        )


@settings(max_examples=60, deadline=None)
@given(CODES)
def test_halved_bins_cost_more_and_move_less(z: torch.Tensor) -> None:
    wide = torch.full((z.shape[1],), 0.5)
    codes, numbers, length = length_of(z, wide)
    _, finer, longer = length_of(z, wide / 2)
    assert (longer.per_latent(codes)[1] >= length.per_latent(codes)[1] - 1e-9).all()
    for found, width in ((numbers, 0.5), (finer, 0.25)):
        coded = midpoints(found, torch.full((len(found),), width))
        error = (coded - codes.values.double()).abs()
        assert (error <= width / 2 + 1e-6).all()
        assert ((coded > 0) == (codes.values > 0)).all()


@settings(max_examples=60, deadline=None)
@given(CODES)
def test_the_code_is_within_the_bound(z: torch.Tensor) -> None:
    """H_b(p) <= p log2(e / p): L0 log2(e d_sae / L0) for firing, L0 B for values."""
    codes, numbers, length = length_of(z, torch.full((z.shape[1],), 0.3))
    firing, value = length.per_latent(codes)
    l0 = len(codes.values) / len(z)
    assert float(value.sum()) <= l0 * math.log2(number_of_bins(numbers)) + 1e-9
    if l0 > 0:
        bound = l0 * math.log2(math.e * z.shape[1] / l0)
        assert float(firing.sum()) <= bound + 1e-9


def planted_rise(bits: int, fires: list[int], values: int) -> float:
    """Summed squared error of bins of width 2^-bits for values (i + 1/2) / values."""
    inside = (4.0**-bits - values**-2.0) / 12
    return sum(fires) * inside


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_the_coarsest_width_is_the_planted_one(bits: int) -> None:
    """Latents in orthonormal directions next to a residual that they do not see."""
    rows, values, fires = 512, 64, [256, 128, 64]
    z = bernoulli_uniform(fires, rows, values)
    residual = torch.zeros(rows, 4)
    residual[:, 3] = 0.5
    held = held_codes(z, torch.eye(4)[:3], residual)
    units = torch.ones(3, dtype=torch.float64)
    rise = planted_rise(bits, fires, values) / (rows * 0.25)
    found = coarsest_width(held, units, epsilon=rise * 1.0001, halvings=0)
    assert found.relative == 2.0**-bits
    assert found.rise == pytest.approx(rise, rel=1e-5)
    less = coarsest_width(held, units, epsilon=rise * 0.9999, halvings=0)
    assert less.relative == 2.0 ** -(bits + 1)


@pytest.mark.parametrize("epsilon", [1e-3, 0.01, 0.1, 1.0])
def test_bisection_ends_just_below_the_bound(epsilon: float) -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(400, 20, generator=generator).relu()
    z *= torch.rand(z.shape, generator=generator) < 0.3
    directions = torch.randn(20, 8, generator=generator)
    # latents do not see the residual: the rise then grows with the width, but for small waves
    directions[:, 4:] = 0
    residual = torch.zeros(400, 8)
    residual[:, 4:] = torch.randn(400, 4, generator=generator)
    held = held_codes(z, directions, residual)
    units = width_units(held, 3.0, "output")
    found = coarsest_width(held, units, epsilon=epsilon)
    assert found.rise <= epsilon
    above = units * found.relative * 2 ** (2**-HALVINGS * 1.5)
    numbers = bin_numbers(held.codes.values, above[held.codes.latents])
    coded = held.residual_with(midpoints(numbers, above[held.codes.latents]))
    assert float(coded.sum() / held.residual.sum()) - 1 > epsilon * 0.9


@pytest.mark.parametrize("unit", ["output", "latent"])
def test_scale_of_a_latent_does_not_matter(unit: str) -> None:
    """Activations times c and rows over c are the same SAE, and have the same code."""
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(60, 5, generator=generator).relu()
    directions = torch.randn(5, 4, generator=generator)
    residual = torch.randn(60, 4, generator=generator)
    scale = torch.tensor([0.25, 1.0, 2.0, 8.0, 0.5])
    lengths: list[list[float]] = []
    for held in (
        held_codes(z, directions, residual),
        held_codes(z * scale, directions / scale[:, None], residual),
    ):
        units = width_units(held, 2.0, unit)  # type: ignore[arg-type]
        width = coarsest_width(held, units, epsilon=0.05)
        numbers = bin_numbers(held.codes.values, width.of_latents[held.codes.latents])
        length = code_length(held.codes, numbers)
        lengths.append([*length.per_latent(held.codes)[1].tolist(), width.relative])
    assert lengths[1] == pytest.approx(lengths[0])


def test_an_exact_reconstruction_has_no_width() -> None:
    held = held_codes(torch.ones(8, 1), torch.ones(1, 2), torch.zeros(8, 2))
    with pytest.raises(NoWidthError, match="exactly"):
        coarsest_width(held, torch.ones(1), epsilon=0.01)


def test_nothing_fires() -> None:
    held = held_codes(torch.zeros(8, 3), torch.ones(3, 2), torch.ones(8, 2))
    width = coarsest_width(held, width_units(held, 1.0, "latent"), epsilon=0.01)
    numbers = bin_numbers(held.codes.values, width.of_latents[held.codes.latents])
    firing, value = code_length(held.codes, numbers).per_latent(held.codes)
    assert [float(firing.sum()), float(value.sum()), width.rise] == [0, 0, 0]
    assert number_of_bins(numbers) == 1


def test_the_bound_of_the_paper() -> None:
    """GPT-2: 65 latents of 25,000 at 7 bits; 768 dimensions at 7 bits."""
    assert 65 * (7 + math.log2(25_000)) == pytest.approx(1405, abs=1)
    assert 768 * 7 == 5376
