"""The off-support L1 against its formula; what it and the ratio refuse."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saereg_plugin as sr
from saereg_plugin.regularizers.off_support import off_support_l1
from tests.oracles import activation_penalty_oracle as oracle
from tests.regularizers.synthetic import (
    D_SAE,
    in_batches,
    small_fields,
    small_sae,
    small_stock_sae,
    sparse_data,
)
from tests.training import forward, make_cfg, make_trainer, run_steps

SELECTING = ("topk", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated")
TOPK_KINDS = SELECTING[:3]


def formula(output: Any, *, masked: bool, architecture: str) -> torch.Tensor:
    """``sum_i ||mu (a_i - z_i)||_1`` from a stock SAE's dense tensors, by autograd."""
    a, z = output.hidden_pre.relu(), output.feature_acts
    # JumpReLU's support is a constant, too: nothing goes to the threshold
    difference = a * (z == 0) if architecture == "jumprelu" else a - z
    mu = (z > 0).any(dim=0).detach() if masked else torch.ones(D_SAE)
    return (difference.abs() * mu).sum()


@pytest.mark.parametrize(
    ("architecture", "mask", "reduction"),
    [
        *product(SELECTING, ("batch_active", "none"), ("mean",)),
        ("topk", "batch_active", "sum"),
    ],
)
def test_value_and_gradients_are_those_of_the_formula(
    architecture: str, mask: str, reduction: str
) -> None:
    rows = sparse_data(6)
    penalty = sr.OffSupportL1(coefficient=0.3, mask=mask, reduction=reduction)  # type: ignore[arg-type]
    ours = small_sae(architecture, regularizers=[penalty])
    stock = small_stock_sae(architecture)
    output, plain = forward(ours, rows), forward(stock, rows)
    total = formula(plain, masked=mask != "none", architecture=architecture)
    assert total > 0
    wanted = 0.3 * total / (len(rows) if reduction == "mean" else 1)
    torch.testing.assert_close(output.losses["off_support_l1"], wanted)
    torch.testing.assert_close(output.loss, plain.loss + wanted)
    output.loss.backward()
    (plain.loss + wanted).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad, parameter.grad, msg=name
        )


@pytest.mark.parametrize("rescale", [True, False])
def test_gradient_reaches_decoder_norms_only_if_activations_are_rescaled(
    rescale: bool,
) -> None:
    rows = sparse_data(6)
    gradients = []
    for coefficient in (0.0, 1.0):
        sae = small_sae(
            rescale_acts_by_decoder_norm=rescale,
            regularizers=[sr.OffSupportL1(coefficient=coefficient)],
        )
        forward(sae, rows).loss.backward()
        gradients.append(sae.W_dec.grad)
    assert torch.equal(*gradients) != rescale


def matrices(draw: Any) -> tuple[torch.Tensor, torch.Tensor]:
    n, d = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    seed = draw(st.integers(0, 10_000))
    generator = torch.Generator().manual_seed(seed)
    pre = torch.randn(n, d, generator=generator, dtype=torch.float64)
    kept = torch.rand(n, d, generator=generator) < 0.3
    return pre, pre.relu() * kept


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_plain_loops_agree(data: st.DataObject) -> None:
    pre, acts = matrices(data.draw)
    mask = oracle.fires_in_batch(acts.tolist())
    for chosen in (mask, [True] * len(mask)):
        value = off_support_l1(pre, acts, torch.tensor(chosen))
        wanted = oracle.off_support_l1(pre.tolist(), acts.tolist(), chosen)
        assert value.item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    unmasked = off_support_l1(pre, acts, None)
    assert unmasked.item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("masked", [True, False])
def test_gradient_against_finite_differences(masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(5, 9, generator=generator, dtype=torch.float64).requires_grad_()
    kept = torch.rand(5, 9, generator=generator) < 0.3
    mask = torch.arange(9) % 3 > 0 if masked else None
    acts = (pre.relu() * kept).detach()
    assert torch.autograd.gradcheck(lambda h: off_support_l1(h, acts, mask), (pre,))


def test_blocks_of_a_wide_matrix_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(300, 4096, generator=generator).requires_grad_()
    acts = (pre * (pre > 2)).detach()
    value = off_support_l1(pre, acts, None)
    (gradient,) = torch.autograd.grad(2 * value, pre)
    dropped = (pre > 0) & (acts == 0)
    torch.testing.assert_close(value.double(), (pre.double() * dropped).sum())
    assert torch.equal(gradient, 2.0 * dropped)


def test_mask_is_that_of_this_batch() -> None:
    """Latent 2 is positive but never selected: it is charged only without the mask."""
    sae = small_sae(k=1, regularizers=[sr.OffSupportL1(coefficient=1.0)])
    everything = small_sae(
        k=1, regularizers=[sr.OffSupportL1(coefficient=1.0, mask="none")]
    )
    for each in (sae, everything):
        with torch.no_grad():
            each.W_enc.zero_()
            each.b_enc.fill_(-1.0)
            each.W_enc[0, :3] = torch.tensor([1.0, 0.0, 0.25])
            each.W_enc[1, :3] = torch.tensor([0.0, 1.0, 0.25])
            each.b_enc[:3] = torch.tensor([0.0, 0.0, 0.0])
            each.W_dec.copy_(torch.eye(1, 16).expand(D_SAE, 16))
    one, other = torch.zeros(1, 16), torch.zeros(1, 16)
    one[0, :2] = torch.tensor([3.0, 2.0])
    other[0, :2] = torch.tensor([1.0, 4.0])
    # row one: a = (3, 2, 1.25), z = (3, 0, 0); row other: a = (1, 4, 1.25), z = (0, 4, 0)
    for rows, masked, unmasked, active in (
        (one, 0.0, 2 + 1.25, 1),
        (torch.cat([one, other]), (2 + 1) / 2, (2 + 1.25 + 1 + 1.25) / 2, 2),
        (other, 0.0, 1 + 1.25, 1),
    ):
        output = forward(sae, rows)
        assert output.losses["off_support_l1"].item() == pytest.approx(masked)
        assert output.metrics["off_support_l1_active_latents"] == active
        plain = forward(everything, rows)
        assert plain.losses["off_support_l1"].item() == pytest.approx(unmasked)
    share = forward(everything, one).metrics["off_support_l1_share"]
    assert share == pytest.approx(3.25 / 6.25)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.parametrize("config", [sr.OffSupportL1, sr.L1L2Ratio])
def test_saelens_sparse_activations_change_nothing(config: Any) -> None:
    rows = sparse_data(32)
    values = [
        forward(
            small_sae(
                use_sparse_activations=sparse, regularizers=[config(coefficient=0.5)]
            ),
            rows,
        )
        for sparse in (False, True)
    ]
    torch.testing.assert_close(values[1].loss, values[0].loss)
    assert values[1].feature_acts.is_sparse


@pytest.mark.parametrize("config", [sr.OffSupportL1, sr.L1L2Ratio])
def test_coefficient_follows_the_schedule_and_50_steps_are_finite(config: Any) -> None:
    schedule = sr.Schedule(warm_up_steps=4)
    for architecture in TOPK_KINDS:
        sae = small_sae(
            architecture, regularizers=[config(coefficient=0.02, schedule=schedule)]
        )
        trainer = make_trainer(
            sae, in_batches(sparse_data(1600), 32), steps=50, batch_size=32
        )
        outputs = run_steps(trainer, 50)
        label = config.name
        used = [output.metrics[f"{label}_coefficient"] for output in outputs[:6]]
        assert used == pytest.approx([0, 0.005, 0.01, 0.015, 0.02, 0.02])
        assert all(bool(output.loss.isfinite()) for output in outputs)
        assert outputs[-1].losses["mse_loss"] < outputs[0].losses["mse_loss"]


def test_under_autocast_the_sum_is_float32() -> None:
    sae = small_sae(regularizers=[sr.OffSupportL1(coefficient=1.0)])
    trainer = make_trainer(
        sae, in_batches(sparse_data(64), 64), batch_size=64, autocast=True
    )
    (output,) = run_steps(trainer, 1)
    exact = forward(small_sae(), sparse_data(64)).hidden_pre
    assert (output.hidden_pre - exact).abs().max() > 1e-4 * exact.abs().max()
    pre, acts = output.hidden_pre.detach(), output.feature_acts.detach()
    mask = (acts > 0).any(dim=0)
    wanted = ((pre.double().relu() - acts.double()) * mask).sum() / 64
    torch.testing.assert_close(
        output.losses["off_support_l1"].double(), wanted, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("config", [sr.OffSupportL1, sr.L1L2Ratio])
def test_standard_is_refused_because_nothing_is_left_out(config: Any) -> None:
    with pytest.raises(
        sr.InputError, match=f"{config.name} on regularized_standard: there z = "
    ):
        make_cfg("standard", **small_fields("standard"), regularizers=[config()])


@pytest.mark.parametrize("config", [sr.OffSupportL1, sr.L1L2Ratio])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mask": "alive"}, "mask is 'alive'. Known: 'batch_active', 'none'"),
        ({"reduction": "max"}, "reduction is 'max'. Known: 'mean', 'sum'"),
    ],
)
def test_unknown_choices_are_refused(
    config: Any, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(sr.InputError, match=f"{config.name}: {message}"):
        config(**fields)


@pytest.mark.parametrize("config", [sr.OffSupportL1, sr.L1L2Ratio])
def test_a_sparse_step_is_not_taken(config: Any) -> None:
    penalised = [config(coefficient=0.1)]
    for regularizers, is_sparse in (([], True), (penalised, False)):
        sae = small_sae(k=1, sparse_step="auto", regularizers=regularizers)
        forward(sae, sparse_data(8))
        assert sae.took_sparse_step == is_sparse
    with pytest.raises(sr.InputError, match="needs the pre-activations of all latents"):
        small_sae(sparse_step="always", regularizers=penalised)
