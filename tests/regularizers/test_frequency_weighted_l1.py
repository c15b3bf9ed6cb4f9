"""The frequency-weighted L1 against its formula, its state, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TrainingSAE

import saereg_plugin as sr
from tests.oracles import activation_penalty_oracle as oracle
from tests.regularizers.synthetic import (
    D_SAE,
    in_batches,
    small_fields,
    small_sae,
    small_stock_sae,
    sparse_data,
)
from tests.training import (
    ARCHITECTURES,
    TOPK_ARCHITECTURES,
    assert_same_optimizer,
    assert_same_state,
    component,
    forward,
    make_cfg,
    make_trainer,
    run_steps,
)

LABEL = "frequency_weighted_l1"


def freq(**fields: Any) -> sr.FrequencyWeightedL1:
    values: dict[str, Any] = {"coefficient": 0.04, **fields}
    return sr.FrequencyWeightedL1(**values)


def rates_of(sae: Any) -> torch.Tensor:
    return component(sae, LABEL).firing_rate


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_value_and_gradients_are_those_of_the_formula(architecture: str) -> None:
    rows = sparse_data(7)
    penalty = freq(coefficient=0.5, beta=3.0, beta_warm_up_steps=0, decay=0.6)
    ours = small_sae(architecture, regularizers=[penalty])
    stock = small_stock_sae(architecture)
    past = torch.rand(D_SAE, generator=torch.Generator().manual_seed(0))
    rates_of(ours).copy_(past)
    output, plain = forward(ours, rows), forward(stock, rows)
    z = plain.feature_acts
    rate = 0.6 * past + 0.4 * (z > 0).float().mean(dim=0)
    # z is never negative; abs() would hide z = 0 from the estimate of JumpReLU's threshold
    assert (z >= 0).all()
    wanted = 0.5 * ((1 + 3 * rate) * z).sum(dim=-1).mean()
    assert wanted > 0
    torch.testing.assert_close(output.losses[LABEL], wanted)
    loops = 0.5 * oracle.weighted_l1(z.tolist(), rate.tolist(), 3.0)
    assert output.losses[LABEL].item() == pytest.approx(loops, rel=1e-5)
    output.loss.backward()
    (plain.loss + wanted).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad, parameter.grad, msg=name
        )


def test_gradient_against_finite_differences() -> None:
    rows = sparse_data(9).double()
    penalty = freq(coefficient=0.5, beta=3.0, beta_warm_up_steps=0)
    sae = small_sae("standard", dtype="float64", regularizers=[penalty])

    def value() -> torch.Tensor:
        return forward(sae, rows).losses[LABEL]

    (gradient,) = torch.autograd.grad(value(), sae.W_enc)
    for i, j in [(0, 0), (3, 17), (15, 47), (8, 30)]:
        ends = []
        for shift in (1e-6, -2e-6):
            with torch.no_grad():
                sae.W_enc[i, j] += shift
            ends.append(value().item())
        with torch.no_grad():
            sae.W_enc[i, j] += 1e-6
        difference = (ends[0] - ends[1]) / 2e-6
        assert gradient[i, j].item() == pytest.approx(difference, rel=1e-5, abs=1e-9)


def test_running_rates_and_beta_step_by_step() -> None:
    """By hand: latent 0 fires in 1, 2 and 0 of 2 rows, latent 1 in 2, 0 and 1."""
    sae = small_sae(
        "standard",
        regularizers=[freq(coefficient=1.0, beta=0.5, beta_warm_up_steps=2, decay=0.5)],
    )
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.b_enc.fill_(-1.0)
        sae.b_enc[:2] = 0.0
        sae.W_enc[:2, :2] = torch.eye(2)
    steps = [
        ([[2.0, 1.0], [0.0, 3.0]], [0.25, 0.5], 0.0, (2 + 1 + 3) / 2),
        (
            [[1.0, 0.0], [4.0, 0.0]],
            [0.625, 0.25],
            0.25,
            (1 + 0.25 * 0.625) * (1 + 4) / 2,
        ),
        ([[0.0, 2.0], [0.0, 0.0]], [0.3125, 0.375], 0.5, (1 + 0.5 * 0.375) * 2 / 2),
    ]
    # a learning rate of 0 in all but name: the weights stay as they are
    trainer = make_trainer(sae, iter([]), lr=1e-30, lr_end=1e-31, batch_size=2)
    for values, rates, beta, penalty in steps:
        rows = torch.zeros(2, 16)
        rows[:, :2] = torch.tensor(values)
        output = trainer.step(rows)
        assert rates_of(sae)[:2].tolist() == pytest.approx(rates)
        assert (rates_of(sae)[2:] == 0).all()
        assert output.metrics[f"{LABEL}_beta"] == beta
        assert output.losses[LABEL].item() == pytest.approx(penalty)
        assert output.metrics[f"{LABEL}_max_rate"] == pytest.approx(max(rates))


def test_one_update_in_a_training_step() -> None:
    data = in_batches(sparse_data(640), 64)
    sae = small_sae("standard", regularizers=[freq(decay=0.8)])
    trainer = make_trainer(sae, data, batch_size=64)
    seen = []
    for _ in range(3):
        forward(sae, sparse_data(20, seed=5))
        forward(sae, sparse_data(20, seed=6))
        (output,) = run_steps(trainer, 1)
        seen.append(output.feature_acts.tolist())
        before = rates_of(sae).clone()
        forward(sae, sparse_data(20, seed=7))
        assert torch.equal(rates_of(sae), before)
        wanted = torch.tensor(oracle.firing_rates(seen, 0.8))
        torch.testing.assert_close(before, wanted)
        assert not output.losses[LABEL].isnan()


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_sparse_step_is_the_dense_step(architecture: str, rescale: bool) -> None:
    fields: dict[str, Any] = {
        "dtype": "float64",
        "rescale_acts_by_decoder_norm": rescale,
        "regularizers": [freq(coefficient=0.1, beta=2.0, beta_warm_up_steps=3)],
    }
    rows = sparse_data(640).double()
    saes = [
        small_sae(architecture, sparse_step=way, **fields)
        for way in ("never", "always")
    ]
    outputs = [
        run_steps(make_trainer(sae, in_batches(rows, 64), batch_size=64), 8)
        for sae in saes
    ]
    assert [sae.took_sparse_step for sae in saes] == [False, True]
    for dense, sparse in zip(*outputs, strict=True):
        for key in (f"{LABEL}_penalty", f"{LABEL}_mean_rate", f"{LABEL}_max_rate"):
            torch.testing.assert_close(sparse.metrics[key], dense.metrics[key])
        torch.testing.assert_close(sparse.loss, dense.loss)
    torch.testing.assert_close(rates_of(saes[1]), rates_of(saes[0]))
    for name, parameter in saes[0].named_parameters():
        torch.testing.assert_close(
            saes[1].get_parameter(name), parameter, rtol=1e-8, atol=1e-8, msg=name
        )


def test_resumed_training_equals_uninterrupted(tmp_path: Path) -> None:
    penalty = freq(beta=0.5, beta_warm_up_steps=10, decay=0.9)
    sae = small_sae("standard", regularizers=[penalty])
    rows = sparse_data(640)
    trainer = make_trainer(sae, in_batches(rows, 64), batch_size=64)
    run_steps(trainer, 4)
    trainer.save_checkpoint("four", base_path=tmp_path)
    run_steps(trainer, 4)

    loaded = TrainingSAE.load_from_disk(tmp_path / "four")
    resumed = make_trainer(loaded, in_batches(rows, 64, start=4), batch_size=64)
    resumed.load_trainer_state(tmp_path / "four")
    assert rates_of(loaded).max() > 0
    run_steps(resumed, 4)
    assert_same_state(loaded, sae)
    assert_same_optimizer(resumed.optimizer, trainer.optimizer)


def test_times_decoder_norm_is_saelens_weighting() -> None:
    rows = sparse_data(16)
    penalty = freq(coefficient=0.5, beta=0.0, times_decoder_norm=True)
    ours = small_sae("standard", regularizers=[penalty])
    stock = small_stock_sae("standard", l1_coefficient=0.5)
    output, plain = forward(ours, rows), forward(stock, rows)
    torch.testing.assert_close(output.loss, plain.loss)
    output.loss.backward()
    plain.loss.backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad, parameter.grad, msg=name
        )


def test_saelens_own_l1_is_refused() -> None:
    fields = small_fields("standard", l1_coefficient=1.0)
    with pytest.raises(
        sr.InputError, match=r"l1_coefficient is 1\.0 .* Set l1_coefficient=0\."
    ):
        make_cfg("standard", **fields, regularizers=[freq()])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"beta": -0.1}, "beta is -0.1; expected a finite number, 0 or more"),
        ({"beta": float("nan")}, "beta is nan"),
        (
            {"beta_warm_up_steps": -1},
            "beta_warm_up_steps is -1; expected a whole number, 0 or more",
        ),
        ({"decay": 1.0}, "decay is 1.0; expected at least 0 and below 1"),
        ({"decay": -0.5}, "decay is -0.5"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=f"{LABEL}: {message}"):
        sr.FrequencyWeightedL1(**fields)


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [("topk", {}), ("standard", {"decoder_constraint": "unit_norm"})],
)
def test_norms_are_not_counted_twice(architecture: str, fields: dict[str, Any]) -> None:
    weighted = freq(times_decoder_norm=True)
    with pytest.raises(sr.InputError, match="Set times_decoder_norm=False"):
        small_sae(architecture, **fields, regularizers=[weighted])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_50_steps_of_saelens_trainer(architecture: str) -> None:
    sae = small_sae(architecture, regularizers=[freq(coefficient=0.01)])
    trainer = make_trainer(
        sae, in_batches(sparse_data(1600), 32), steps=50, batch_size=32
    )
    outputs = run_steps(trainer, 50)
    assert all(bool(output.loss.isfinite()) for output in outputs)
    assert sae.step_index == 50
