"""The weight penalty against its formula in plain tensors, and against AdamW."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from sae_lens.training.optim import get_lr_scheduler

import saereg_plugin as sr
from saereg_plugin.regularizers.weight_penalty import WeightNorm
from tests.training import (
    ARCHITECTURES,
    D_SAE,
    assert_same_state,
    batches,
    forward,
    make_cfg,
    make_sae,
    make_stock_sae,
    make_trainer,
    run_steps,
)

NORMS = ("l1", "l2", "frobenius")
TARGETS = {"encoder": ["W_enc"], "decoder": ["W_dec"], "both": ["W_enc", "W_dec"]}
REDUCTIONS = ("sum", "mean")
MASKS = ("none", "batch_active", "alive")


def by_latent(sae: Any, name: str) -> torch.Tensor:
    """One row per latent."""
    return sae.W_enc.T if name == "W_enc" else sae.W_dec


def formula(
    sae: Any, norm: Any, target: Any, reduction: Any, kept: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(())
    for name in TARGETS[target]:
        weights = by_latent(sae, name)[kept]
        size = weights.numel() if reduction == "mean" else 1
        if norm == "l1":
            total = total + weights.abs().sum() / size
        elif norm == "l2":
            total = total + (weights * weights).sum() / size
        else:
            total = total + ((weights * weights).sum() / size).sqrt()
    return total


def dead_latents() -> torch.Tensor:
    return torch.arange(D_SAE) % 3 == 0


def kept_latents(mask: Any, output: Any) -> torch.Tensor:
    if mask == "none":
        return torch.ones(D_SAE, dtype=torch.bool)
    if mask == "alive":
        return ~dead_latents()
    return (output.feature_acts > 0).any(dim=0)


def with_penalty(architecture: str = "topk", **fields: Any) -> Any:
    return make_sae(architecture, regularizers=[sr.WeightPenalty(**fields)])


@pytest.mark.parametrize(
    ("norm", "target", "reduction", "mask"),
    list(itertools.product(NORMS, TARGETS, REDUCTIONS, MASKS)),
)
def test_value_and_gradient_are_those_of_the_formula(
    norm: Any, target: Any, reduction: Any, mask: Any, activations: torch.Tensor
) -> None:
    plain = make_stock_sae()
    x = activations[:16]
    output = forward(plain, x, dead_latents())
    kept = kept_latents(mask, output)
    assert kept.all() == (mask == "none")
    reference = formula(plain, norm, target, reduction, kept)
    named = {name: getattr(plain, name) for name in TARGETS[target]}
    wanted = dict(
        zip(named, torch.autograd.grad(reference, list(named.values())), strict=True)
    )
    output.loss.backward()
    largest = max(float(plain.get_parameter(n).grad.abs().max()) for n in named)
    coefficient = largest / max(float(g.abs().max()) for g in wanted.values())

    ours = with_penalty(
        norm=norm,
        target=target,
        reduction=reduction,
        mask=mask,
        coefficient=coefficient,
    )
    penalised = forward(ours, x, dead_latents())
    penalised.loss.backward()
    value = penalised.losses["weight_penalty"]
    torch.testing.assert_close(value, coefficient * reference, rtol=1e-5, atol=0)
    torch.testing.assert_close(penalised.loss, output.loss + value, rtol=1e-6, atol=0)
    for name, parameter in plain.named_parameters():
        gradient = ours.get_parameter(name).grad
        if name in wanted:
            expected = coefficient * wanted[name].double()
            added = gradient.double() - parameter.grad.double()
            torch.testing.assert_close(added, expected, rtol=1e-5, atol=2e-7 * largest)
        else:
            assert torch.equal(gradient, parameter.grad), name


@pytest.mark.parametrize(
    ("norm", "reduction", "masked"),
    list(itertools.product(NORMS, REDUCTIONS, (False, True))),
)
def test_gradient_is_that_of_finite_differences(
    norm: Any, reduction: Any, masked: bool
) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    # no entry within a step of 0, where |w| has a corner
    weight += 0.1 * weight.sign()
    mask = torch.tensor([True, False, True, True, False, True, True])[:, None]
    kept = mask if masked else None
    penalty = WeightNorm(norm, reduction)
    gradient = torch.full_like(weight, 2.0)
    penalty.add_gradient(gradient, weight, kept, 0.3)
    h = 1e-6
    for row, column in itertools.product(range(7), range(5)):
        ends: list[torch.Tensor] = []
        for sign in (1, -1):
            moved = weight.clone()
            moved[row, column] += sign * h
            ends.append(penalty.value(moved, kept))
        slope = float(ends[0] - ends[1]) / (2 * h)
        added = float(gradient[row, column]) - 2
        assert added == pytest.approx(0.3 * slope, rel=1e-6, abs=1e-8)
        assert (added == 0) == (masked and not mask[row])


@pytest.mark.parametrize(
    ("norm", "target", "reduction", "mask"),
    list(itertools.product(NORMS, TARGETS, REDUCTIONS, MASKS)),
)
def test_whole_step_agrees_with_finite_differences_in_float64(
    norm: Any, target: Any, reduction: Any, mask: Any
) -> None:
    """The value that is logged, moved weight by weight; TopK's choice must not change."""
    sae = make_sae(
        d_in=6,
        d_sae=9,
        k=2,
        dtype="float64",
        regularizers=[
            sr.WeightPenalty(
                coefficient=0.3,
                norm=norm,
                target=target,
                reduction=reduction,
                mask=mask,
            )
        ],
    )
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)).double()
    dead = torch.arange(9) % 3 == 0

    def value() -> float:
        return float(forward(sae, x, dead).losses["weight_penalty"])

    plain = make_stock_sae(d_in=6, d_sae=9, k=2, dtype="float64")
    plain.load_state_dict(sae.state_dict(), strict=False)
    forward(plain, x, dead).loss.backward()
    forward(sae, x, dead).loss.backward()
    h, moved_any = 1e-6, False
    for name in ("W_enc", "W_dec"):
        parameter = sae.get_parameter(name)
        added = parameter.grad - plain.get_parameter(name).grad
        for position in range(0, parameter.numel(), 5):
            flat = parameter.data.view(-1)
            start = float(flat[position])
            ends: list[float] = []
            for sign in (1, -1):
                flat[position] = start + sign * h
                ends.append(value())
            flat[position] = start
            slope = (ends[0] - ends[1]) / (2 * h)
            assert float(added.reshape(-1)[position]) == pytest.approx(
                slope, rel=1e-5, abs=1e-8
            )
            moved_any |= slope != 0
    assert moved_any


@pytest.mark.parametrize("norm", NORMS)
def test_value_is_exact_for_ten_million_weights(norm: Any) -> None:
    weight = torch.randn(16_384, 576, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.vector_norm(weight.double(), ord=1 if norm == "l1" else 2)
    value = WeightNorm(norm, "sum").value(weight)
    wanted = float(exact**2 if norm == "l2" else exact)
    assert float(value) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_adds_the_penalty(
    architecture: str, activations: torch.Tensor
) -> None:
    plain = make_stock_sae(architecture)
    ours = with_penalty(architecture, coefficient=0.5, norm="l2")
    without, output = (forward(sae, activations[:16]) for sae in (plain, ours))
    added = 0.5 * (plain.W_enc.square().sum() + plain.W_dec.square().sum())
    torch.testing.assert_close(output.loss, without.loss + added)
    without.loss.backward()
    output.loss.backward()
    for name in ("W_enc", "W_dec"):
        weight = plain.get_parameter(name)
        torch.testing.assert_close(
            ours.get_parameter(name).grad, weight.grad + weight.detach()
        )


def test_two_penalties_add_up_and_are_numbered(activations: torch.Tensor) -> None:
    sae = make_sae(
        regularizers=[
            sr.WeightPenalty(coefficient=1.0, norm="l1", target="decoder"),
            sr.WeightPenalty(coefficient=2.0, norm="l2", target="encoder"),
            sr.WeightPenalty(coefficient=3.0, label="third"),
        ]
    )
    plain = make_stock_sae()
    without = forward(plain, activations[:8])
    output = forward(sae, activations[:8])
    weights = {name: plain.get_parameter(name).double() for name in TARGETS["both"]}
    l2 = {name: weight.square().sum().float() for name, weight in weights.items()}
    expected = {
        "weight_penalty": weights["W_dec"].abs().sum().float(),
        "weight_penalty_2": 2 * l2["W_enc"],
        "third": 3 * (l2["W_enc"] + l2["W_dec"]),
    }
    assert output.losses.keys() - without.losses.keys() == expected.keys()
    for label, value in expected.items():
        torch.testing.assert_close(
            output.losses[label], value.detach(), rtol=1e-5, atol=0
        )
    torch.testing.assert_close(output.loss, without.loss + sum(expected.values()))
    assert output.metrics["weight_penalty_2_coefficient"] == 2.0
    torch.testing.assert_close(
        output.metrics["weight_penalty_2_penalty"], l2["W_enc"].detach()
    )


def test_labels_never_collide() -> None:
    penalties = [
        sr.WeightPenalty(label="weight_penalty_2"),
        sr.WeightPenalty(),
        sr.WeightPenalty(),
    ]
    labelled = make_cfg(regularizers=penalties).labelled_regularizers()
    assert list(labelled) == [
        "weight_penalty_2",
        "weight_penalty",
        "weight_penalty_3",
    ]


def test_schedule_is_counted_in_completed_steps(activations: torch.Tensor) -> None:
    schedule = sr.Schedule(
        warm_up_steps=4, anneal="linear", anneal_start=6, anneal_steps=2
    )
    sae = with_penalty(coefficient=0.8, schedule=schedule)
    outputs = run_steps(make_trainer(sae, batches(activations)), 9)
    used = [output.metrics["weight_penalty_coefficient"] for output in outputs]
    assert used == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.4, 0])


def test_penalty_is_float32_under_autocast(activations: torch.Tensor) -> None:
    sae = with_penalty(coefficient=1e-3)
    start = (sae.W_enc.square().sum() + sae.W_dec.square().sum()).detach()
    exact = forward(make_stock_sae(), activations[:64])
    trainer = make_trainer(sae, batches(activations), autocast=True)
    (output,) = run_steps(trainer, 1)
    rounding = (output.hidden_pre - exact.hidden_pre).abs().max()
    assert rounding > 1e-4 * exact.hidden_pre.abs().max()
    value = output.losses["weight_penalty"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, 1e-3 * start, rtol=1e-6, atol=0)


@pytest.mark.parametrize("warm_up_steps", [0, 5])
def test_decoupled_l2_is_adamw_bit_for_bit(
    warm_up_steps: int, activations: torch.Tensor
) -> None:
    coefficient = 0.3
    ours = with_penalty(coefficient=coefficient, mode="decoupled", norm="l2")
    data = {"steps": 40, "lr_warm_up_steps": warm_up_steps, "lr_decay_steps": 10}
    trainer = make_trainer(ours, batches(activations), **data)
    outputs = run_steps(trainer, 40)

    stock = make_stock_sae()
    oracle = make_trainer(stock, batches(activations), **data)
    decayed = [stock.W_enc, stock.W_dec]
    oracle.optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 2 * coefficient},
            {"params": [stock.b_enc, stock.b_dec], "weight_decay": 0.0},
        ],
        lr=oracle.cfg.lr,
        betas=(oracle.cfg.adam_beta1, oracle.cfg.adam_beta2),
    )
    assert oracle.cfg.lr_end is not None
    oracle.lr_scheduler = get_lr_scheduler(
        oracle.cfg.lr_scheduler_name,
        lr=oracle.cfg.lr,
        optimizer=oracle.optimizer,
        warm_up_steps=oracle.cfg.lr_warm_up_steps,
        decay_steps=oracle.cfg.lr_decay_steps,
        training_steps=oracle.cfg.total_training_steps,
        lr_end=oracle.cfg.lr_end,
        num_cycles=1,
    )
    run_steps(oracle, 40)
    assert_same_state(ours, stock)
    mse_only = outputs[0].losses["mse_loss"]
    auxiliary = outputs[0].losses["auxiliary_reconstruction_loss"]
    assert torch.equal(outputs[0].loss, mse_only + auxiliary)
    assert outputs[0].losses["weight_penalty"] > 0


def shrink_by_hand(
    sae: Any, norm: Any, target: Any, reduction: Any, kept: torch.Tensor, step: float
) -> None:
    """The proximal map of ``step * R``, R the norm of the kept latents' weights."""
    for name in TARGETS[target]:
        latents = by_latent(sae, name)
        weights = latents[kept]
        if norm == "l1":
            size = weights.numel() if reduction == "mean" else 1
            shrunk = torch.nn.functional.softshrink(weights, step / size)
        else:
            size = weights.numel() ** 0.5 if reduction == "mean" else 1
            length = float(weights.double().square().sum().sqrt())
            shrunk = weights * (max(0.0, length - step / size) / max(length, 1e-30))
        latents[kept] = shrunk


@pytest.mark.parametrize("mask", ["none", "batch_active"])
@pytest.mark.parametrize("target", ["encoder", "both"])
@pytest.mark.parametrize(
    ("norm", "reduction", "coefficient"),
    [
        ("l1", "sum", 0.5),
        ("l1", "mean", 2e4),
        ("frobenius", "sum", 1e3),
        ("frobenius", "mean", 2e5),
        ("frobenius", "sum", 1e6),
    ],
)
def test_decoupled_l1_and_frobenius_are_proximal_steps(
    norm: Any,
    reduction: Any,
    coefficient: float,
    target: Any,
    mask: Any,
    activations: torch.Tensor,
) -> None:
    proximal = sr.WeightPenalty(
        norm=norm,
        reduction=reduction,
        coefficient=coefficient,
        target=target,
        mask=mask,
        mode="decoupled",
    )
    ours = make_sae(rescale_acts_by_decoder_norm=False, regularizers=[proximal])
    oracle_sae = make_stock_sae(rescale_acts_by_decoder_norm=False)
    trainer = make_trainer(ours, batches(activations, 16), batch_size=16, lr=1e-3)
    oracle = make_trainer(oracle_sae, batches(activations, 16), batch_size=16, lr=1e-3)
    for _ in range(3):
        run_steps(trainer, 1)
        (output,) = run_steps(oracle, 1)
        before = oracle_sae.W_enc.detach().clone()
        with torch.no_grad():
            shrink_by_hand(
                oracle_sae,
                norm,
                target,
                reduction,
                kept_latents(mask, output),
                1e-3 * coefficient,
            )
        assert not torch.equal(oracle_sae.W_enc, before)
        for name, parameter in oracle_sae.named_parameters():
            torch.testing.assert_close(
                ours.get_parameter(name), parameter, rtol=1e-5, atol=1e-8
            )
        # rounding must not grow from step to step
        oracle_sae.load_state_dict(
            {key: ours.state_dict()[key] for key in oracle_sae.state_dict()}
        )


def test_decoupled_l1_makes_weights_exactly_zero(activations: torch.Tensor) -> None:
    sae = with_penalty(coefficient=3.0, norm="l1", mode="decoupled", target="decoder")
    run_steps(make_trainer(sae, batches(activations)), 3)
    zeros = (sae.W_dec == 0).float().mean()
    assert 0.3 < zeros < 1
    assert not (sae.W_enc == 0).any()


def test_dead_mask_decides_which_latents_decay(activations: torch.Tensor) -> None:
    sae = with_penalty(coefficient=1.0, norm="l2", mask="alive", target="encoder")
    plain = make_stock_sae()
    for each in (sae, plain):
        forward(each, activations[:8], dead_latents()).loss.backward()
    added = (sae.W_enc.grad - plain.W_enc.grad).norm(dim=0)
    assert (added[dead_latents()] == 0).all()
    assert (added[~dead_latents()] > 0).all()


@pytest.mark.parametrize("norm", ["l2", "frobenius"])
@pytest.mark.parametrize("target", ["decoder", "both"])
def test_decoupled_decay_of_unit_rows_is_refused(norm: Any, target: Any) -> None:
    void = sr.WeightPenalty(coefficient=1.0, norm=norm, target=target, mode="decoupled")
    with pytest.raises(sr.InputError, match="does nothing to a decoder of unit-norm"):
        make_cfg(decoder_constraint="unit_norm", regularizers=[void])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("norm", ["l2", "frobenius"])
def test_coupled_penalty_of_unit_rows_alone_is_refused(
    norm: Any, reduction: Any
) -> None:
    void = sr.WeightPenalty(
        coefficient=1.0, norm=norm, reduction=reduction, target="decoder"
    )
    with pytest.raises(sr.InputError, match=f"a coupled {norm} penalty .* nothing"):
        make_cfg(decoder_constraint="unit_norm", regularizers=[void])


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "l2", "target": "encoder", "mode": "decoupled"},
        {"norm": "l1", "target": "both", "mode": "decoupled"},
        {"norm": "l2", "target": "both", "mode": "coupled"},
    ],
)
def test_other_penalties_train_with_unit_rows(
    fields: dict[str, Any], activations: torch.Tensor
) -> None:
    shrinking = sr.WeightPenalty(coefficient=1.0, **fields)
    sae = make_sae(decoder_constraint="unit_norm", regularizers=[shrinking])
    plain = make_sae(decoder_constraint="unit_norm")
    for each in (sae, plain):
        run_steps(make_trainer(each, batches(activations)), 3)
    assert sae.W_enc.norm() < plain.W_enc.norm()
    torch.testing.assert_close(
        sae.W_dec.norm(dim=-1), torch.ones(D_SAE), rtol=0, atol=1e-6
    )
