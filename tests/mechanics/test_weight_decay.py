"""Decoupled weight decay is torch's AdamW."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import saereg_plugin as sr
from tests.mechanics.small import data, small_sae, small_stock, train
from tests.training import ARCHITECTURES, assert_same_state

LRS = [0.0, 1e-3, 1e-2, 3e-2, 1e-2, 1e-4, 5e-3, 1e-2]
DECAY = 0.3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_equals_adamw_bit_for_bit(architecture: str) -> None:
    ours = small_sae(architecture, mechanics=[sr.WeightDecay(decay=DECAY)])
    stock = small_stock(architecture)
    undecayed = small_stock(architecture)
    train(ours, data(8), lrs=LRS)
    adamw = torch.optim.AdamW(stock.parameters(), weight_decay=DECAY)
    train(stock, data(8), adamw, lrs=LRS)
    train(undecayed, data(8), lrs=LRS)
    assert_same_state(ours, stock)
    assert not torch.equal(stock.W_enc, undecayed.W_enc)


@pytest.mark.parametrize(
    ("target", "decayed"),
    [
        ("both", {"W_enc", "W_dec"}),
        ("encoder", {"W_enc"}),
        ("decoder", {"W_dec"}),
        ("all", {"W_enc", "W_dec", "b_enc", "b_dec"}),
    ],
)
def test_target_says_what_decays(target: Any, decayed: set[str]) -> None:
    """Two groups of AdamW, one with decay and one without."""
    ours = small_sae(mechanics=[sr.WeightDecay(decay=DECAY, target=target)])
    stock = small_stock()
    groups: list[dict[str, Any]] = [
        {
            "params": [p for n, p in stock.named_parameters() if (n in decayed) is on],
            "weight_decay": DECAY if on else 0.0,
        }
        for on in (True, False)
    ]
    adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=1e-2)
    train(ours, data(6))
    train(stock, data(6), adamw)
    assert_same_state(ours, stock)


def test_zero_decay_is_none() -> None:
    saes = [small_sae(mechanics=[sr.WeightDecay(decay=0.0)]), small_stock()]
    for sae in saes:
        train(sae, data(4))
    assert_same_state(*saes)


def test_fused_step_equals_adamw_up_to_rounding() -> None:
    ours = small_sae(
        mechanics=[sr.WeightDecay(decay=DECAY)], sparse_step="always", dtype="float64"
    )
    stock = small_stock(dtype="float64")
    batches = [batch.double() for batch in data(8)]
    optimizer = train(ours, batches)
    adamw = torch.optim.AdamW(stock.parameters(), lr=1e-2, weight_decay=DECAY)
    train(stock, batches, adamw)
    assert optimizer.param_groups[0]["fused"]
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name), parameter, rtol=1e-9, atol=1e-11
        )


def test_unit_norm_decoder_keeps_its_rows_and_decays_the_rest() -> None:
    fields: dict[str, Any] = {"decoder_constraint": "unit_norm"}
    ours = small_sae(mechanics=[sr.WeightDecay(decay=5.0)], **fields)
    plain = small_sae(**fields)
    for sae in (ours, plain):
        train(sae, data(6))
    torch.testing.assert_close(ours.W_dec.norm(dim=-1), torch.ones(len(ours.W_dec)))
    assert ours.W_enc.norm() < 0.9 * plain.W_enc.norm()


@pytest.mark.parametrize("target", ["both", "decoder"])
def test_void_target_is_refused(target: Any) -> None:
    with pytest.raises(
        sr.InputError,
        match=f"weight_decay: target='{target}' does nothing to a decoder of unit-norm",
    ):
        small_sae(
            mechanics=[sr.WeightDecay(target=target)], decoder_constraint="unit_norm"
        )


@pytest.mark.parametrize("decay", [-0.1, math.nan, math.inf, "0.1"])
def test_bad_decay_is_refused(decay: Any) -> None:
    with pytest.raises(sr.InputError, match=f"weight_decay: decay is {decay!r}"):
        sr.WeightDecay(decay=decay)


def test_bad_target_is_refused() -> None:
    with pytest.raises(sr.InputError, match="target is 'encodr'. Did you mean 'enc"):
        sr.WeightDecay(target="encodr")  # type: ignore[arg-type]
