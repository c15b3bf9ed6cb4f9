"""Balance of latents: every removal done in full, exchange rates, errors over contexts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig
from torch import Tensor

from eval_recipes.mdl.bins import bin_numbers
from eval_recipes.mdl.code import code_length
from eval_recipes.mdl.latents import LatentBalance, latent_balance
from eval_recipes.mdl.tally import CodeTally, HeldOutCodes
from tests.eval_recipes.mdl.planted import held_codes
from tests.oracles import mdl_oracle as oracle

D_IN, D_SAE = 6, 12


def small_sae(kind: str) -> Any:
    """An SAE of a kind: how it selects, and how it normalises."""
    generator = torch.Generator().manual_seed(0)
    normalise = kind if kind in ("layer_norm", "constant_norm_rescale") else "none"
    shape: dict[str, Any] = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "normalize_activations": normalise,
    }
    if kind == "relu":
        sae: Any = StandardSAE(StandardSAEConfig(**shape))
    else:
        rescale = kind == "rescale"
        cfg = TopKSAEConfig(k=4, rescale_acts_by_decoder_norm=rescale, **shape)
        sae = TopKSAE(cfg)
    sae.W_dec.data = torch.randn(D_SAE, D_IN, generator=generator)
    sae.W_enc.data = sae.W_dec.data.T.clone()
    sae.b_dec.data = torch.randn(D_IN, generator=generator)
    return sae


KINDS = ["topk", "rescale", "relu", "layer_norm", "constant_norm_rescale"]


def text() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(5, 7, D_IN, generator=generator) + 1
    keep = torch.ones(5, 7, dtype=torch.bool)
    keep[:, 0] = False
    keep[2, 3:] = False
    return x, keep


def coded(sae: Any) -> tuple[HeldOutCodes, Tensor]:
    """Codes of the text, in two batches, and its kept rows."""
    x, keep = text()
    tally = CodeTally(sae)
    for part, mask in zip(x.split(3), keep.split(3), strict=True):
        tally.update(part, mask)
    return tally.result(), x[keep]


def decoded(sae: Any, z: Tensor, x: Tensor) -> Tensor:
    sae.run_time_activation_norm_fn_in(x)
    with torch.no_grad():
        return sae.decode(z).double()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gain_is_what_the_error_rises_by_without_the_latent(kind: str) -> None:
    sae = small_sae(kind)
    held, x = coded(sae)
    with torch.no_grad():
        z = sae.encode(x)
    error = (x.double() - decoded(sae, z, x)).square().sum(1)
    assert held.residual.tolist() == pytest.approx(error.tolist(), rel=1e-4)
    gains = held.codes.selected.latent_sums(held.gains())
    for latent in range(D_SAE):
        cut = z.clone()
        cut[:, latent] = 0
        rise = (x.double() - decoded(sae, cut, x)).square().sum() - error.sum()
        assert float(gains[latent]) == pytest.approx(float(rise), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_of_other_activations_is_that_of_decoding_them(kind: str) -> None:
    sae = small_sae(kind)
    held, x = coded(sae)
    dense = held.codes.selected.to_coo(held.codes.values * 1.3 - 0.1).to_dense()
    expected = (x.double() - decoded(sae, dense, x)).square().sum(1)
    found = held.residual_with(held.codes.values * 1.3 - 0.1)
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-4)


def test_contexts_are_those_of_the_kept_rows() -> None:
    held, _ = coded(small_sae("topk"))
    counts = torch.bincount(held.contexts, minlength=held.n_contexts)
    assert counts.tolist() == [6, 6, 2, 6, 6]


def balance_of(held: HeldOutCodes, width: float, rate: float | None) -> LatentBalance:
    widths = torch.full((len(held.codes.values),), width)
    length = code_length(held.codes, bin_numbers(held.codes.values, widths))
    return latent_balance(held, length, exchange_rate=rate)


@pytest.mark.parametrize("rate", [None, 0.3])
def test_balance_equals_plain_python(rate: float | None) -> None:
    sae = small_sae("topk")
    held, x = coded(sae)
    found = balance_of(held, 0.5, rate)
    with torch.no_grad():
        z = sae.encode(x).tolist()
    rows, dec, bias = x.tolist(), sae.W_dec.tolist(), sae.b_dec.tolist()
    error = oracle.squared_error(rows, z, dec, bias)
    for latent in range(D_SAE):
        column = [row[latent] for row in z]
        firing, value = oracle.latent_bits(column, 0.5)
        rest = oracle.squared_error(rows, oracle.without(z, latent), dec, bias)
        worth = oracle.worth(error, rest, D_IN, rate)
        assert float(found.cost[latent]) == pytest.approx(firing + value, abs=1e-6)
        assert float(found.worth[latent]) == pytest.approx(worth, rel=1e-3, abs=1e-5)
        rise = (rest - error) / (len(z) * D_IN)
        assert float(found.gain[latent]) == pytest.approx(rise, rel=1e-3, abs=1e-5)
        assert bool(found.unpaid[latent]) == (any(column) and worth < firing + value)
        assert int(found.fires[latent]) == sum(v != 0 for v in column)


def test_errors_over_contexts_equal_plain_python() -> None:
    held, _ = coded(small_sae("topk"))
    widths = torch.full((len(held.codes.values),), 0.5)
    length = code_length(held.codes, bin_numbers(held.codes.values, widths))
    found = latent_balance(held, length, exchange_rate=0.3)
    parts = 30 * held.gains() / (held.residual.sum() / len(held.codes))
    parts = (parts - length.firing - length.value).tolist()
    counts = torch.bincount(held.contexts, minlength=held.n_contexts).tolist()
    for latent in range(D_SAE):
        sums = [0.0] * held.n_contexts
        for part, j, c in zip(
            parts,
            held.codes.latents.tolist(),
            held.pair_contexts.tolist(),
            strict=True,
        ):
            if j == latent:
                sums[c] += part
        expected = oracle.error_of_mean(sums, counts)
        assert float(found.error[latent]) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_planted_latents_pay_as_planted() -> None:
    """
    Orthonormal rows: removing a latent raises the error by p z^2, so its worth is known.

    Half of the rows fire, at one value: the code of each takes 1 bit.
    """
    rows, d_in, sigma = 64, 4, 0.5
    z = torch.zeros(rows, 3)
    z[::2] = torch.tensor([2.0, 0.5, 0.05])
    residual = torch.zeros(rows, d_in)
    residual[:, 3] = sigma
    held = held_codes(z, torch.eye(d_in)[:3], residual)
    found = balance_of(held, 4.0, None)
    assert found.cost.tolist() == pytest.approx([1.0] * 3)
    shares = [0.5 * v**2 / sigma**2 for v in (2.0, 0.5, 0.05)]
    assert found.relative.tolist() == pytest.approx(shares)
    worth = [d_in / 2 * math.log2(1 + share) for share in shares]
    assert found.worth.tolist() == pytest.approx(worth)
    assert found.unpaid.tolist() == [False, False, True]
    assert found.break_even.tolist() == pytest.approx([1 / (100 * s) for s in shares])
    # every context is alike
    assert found.error.tolist() == pytest.approx([0.0] * 3, abs=1e-9)


def test_a_latent_on_the_wrong_rows_is_harmful() -> None:
    """Activations on rows without the latent's direction raise the error."""
    rows = 32
    z = torch.zeros(rows, 1)
    z[::2] = 1.0
    # x is along the direction on the other rows
    x = torch.zeros(rows, 2)
    x[1::2, 0] = 1.0
    held = held_codes(z, torch.eye(2)[:1], x - z @ torch.eye(2)[:1])
    found = balance_of(held, 1.0, 1.0)
    assert float(found.relative[0]) == pytest.approx(-0.5)
    assert found.unpaid.tolist() == [True]
    assert found.break_even.tolist() == [math.inf]


def test_one_context_gives_no_error() -> None:
    held = held_codes(torch.ones(4, 1), torch.ones(1, 2), torch.ones(4, 2), contexts=1)
    assert balance_of(held, 1.0, None).error.isnan().all()


class Squared(TopKSAE):
    """A decoder that squares the activations."""

    def decode(self, feature_acts: Tensor) -> Tensor:
        return super().decode(feature_acts.square())


def test_a_decoder_that_is_not_linear_is_refused() -> None:
    sae = Squared(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=4))
    x, keep = text()
    with pytest.raises(ValueError, match="not linear in the activations"):
        CodeTally(sae).update(x, keep)
