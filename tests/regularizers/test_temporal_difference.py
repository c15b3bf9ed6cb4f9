"""The temporal difference against its formula, and its adaptive weight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import TrainingSAE

import saereg_plugin as sr
from saereg_plugin.kernels.encode import ActiveLatents
from saereg_plugin.regularizers.temporal_difference import (
    squared_differences,
    squared_differences_of_active,
)
from saereg_plugin.regularizers.token_order import without_starts
from tests.kernels.test_selected import selected_from
from tests.oracles import activation_penalty_oracle as oracle
from tests.regularizers.synthetic import (
    CONTEXT,
    in_batches,
    small_sae,
    small_stock_sae,
    token_data,
)
from tests.training import (
    ARCHITECTURES,
    TOPK_ARCHITECTURES,
    assert_same_optimizer,
    assert_same_state,
    component,
    estimate_scale,
    forward,
    make_trainer,
    run_steps,
)

LABEL = "temporal_difference"
BATCH = 8 * CONTEXT


def temporal(**fields: Any) -> sr.TemporalDifference:
    values: dict[str, Any] = {"coefficient": 0.1, "context_size": CONTEXT, **fields}
    return sr.TemporalDifference(**values)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_value_and_gradients_are_those_of_the_formula(
    architecture: str, reduction: str
) -> None:
    tokens = token_data(3)
    rows = without_starts(tokens, CONTEXT)
    assert len(rows) == 3 * (CONTEXT - 1)
    penalty = temporal(reduction=reduction)
    ours = small_sae(architecture, regularizers=[penalty])
    stock = small_stock_sae(architecture)
    # SAELens' own losses are those of the rows without position 0
    output, plain = forward(ours, tokens), forward(stock, rows)
    z = plain.feature_acts.reshape(3, CONTEXT - 1, -1)
    total = (z[:, 1:] - z[:, :-1]).square().sum()
    pairs = 3 * (CONTEXT - 2)
    error = (plain.sae_out - rows).square().mean().detach()
    alpha = torch.sigmoid(5 * (0.01 * error - error))
    wanted = 0.1 * alpha * total / (pairs if reduction == "mean" else 1)
    assert wanted > 0
    torch.testing.assert_close(output.losses[LABEL], wanted)
    torch.testing.assert_close(output.losses["mse_loss"], plain.losses["mse_loss"])
    loops = oracle.squared_differences(plain.feature_acts.tolist(), CONTEXT - 1)
    assert loops[1] == pairs == output.metrics[f"{LABEL}_pairs"]
    assert total.item() == pytest.approx(loops[0], rel=1e-4)
    output.loss.backward()
    (plain.loss + wanted).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad, parameter.grad, msg=name
        )


def drawn(n: int, d: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("length", [2, 3, 4, 12])
def test_gradient_against_finite_differences(length: int) -> None:
    acts = drawn(12, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: squared_differences(z, length), (acts,))


@pytest.mark.parametrize("length", [3, 7, 300])
def test_blocks_of_a_wide_matrix_add_up(length: int) -> None:
    """More rows than a block has, at lengths that do not divide a block."""
    acts = drawn(2100, 1024).requires_grad_()
    value = squared_differences(acts, length)
    (gradient,) = torch.autograd.grad(value, acts)
    sequences = acts.reshape(-1, length, 1024)
    wanted = (sequences[:, 1:] - sequences[:, :-1]).square().sum()
    (expected,) = torch.autograd.grad(wanted, acts)
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(gradient, expected)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_pairs_of_a_sparse_step_are_those_of_the_dense_one(data: st.DataObject) -> None:
    n, length = data.draw(st.integers(1, 4)), data.draw(st.integers(2, 5))
    d_sae, seed = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 10_000))
    share = data.draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n * length, d_sae, generator=generator) < share
    dense = drawn(n * length, d_sae, seed) * mask
    values = dense[mask].requires_grad_()
    active = ActiveLatents(selected_from(mask), values, None)
    sparse_value = squared_differences_of_active(active, length)
    dense.requires_grad_()
    dense_value = squared_differences(dense, length)
    wanted = oracle.squared_differences(dense.tolist(), length)[0]
    assert dense_value.item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    torch.testing.assert_close(sparse_value, dense_value)
    (expected,) = torch.autograd.grad(dense_value, dense)
    (gradient,) = torch.autograd.grad(sparse_value, values)
    torch.testing.assert_close(gradient, expected[mask])


@pytest.mark.parametrize("start", ["zero", "first_loss"])
def test_adaptive_weight_step_by_step(start: str) -> None:
    penalty = temporal(decay=0.9, sharpness=3.0, average_start=start, coefficient=0.01)
    sae = small_sae("standard", regularizers=[penalty])
    trainer = make_trainer(sae, in_batches(token_data(64), BATCH), batch_size=BATCH)
    errors, seen = [], []
    for _ in range(6):
        # passes without a step count nothing
        forward(sae, token_data(4, seed=5))
        (output,) = run_steps(trainer, 1)
        forward(sae, token_data(4, seed=6))
        errors.append((output.sae_out - output.sae_in).square().mean().item())
        metrics: dict[str, Any] = output.metrics
        names = ("alpha", "average_loss")
        seen.append([float(metrics[f"{LABEL}_{name}"]) for name in names])
    first = errors[0] if start == "first_loss" else 0.0
    wanted = oracle.adaptive_weights(errors, 0.9, 3.0, first)
    for values, expected in zip(seen, wanted, strict=True):
        assert values == pytest.approx(expected, rel=1e-5)
    assert component(sae, LABEL).average_loss.item() == pytest.approx(wanted[-1][1])


def test_no_pair_crosses_a_context_or_a_batch() -> None:
    """Contexts of one token repeated cost nothing, however different their neighbours are."""
    tokens = token_data(6).reshape(6, CONTEXT, -1)
    tokens[:, 1:] = tokens[:, 1:2]
    sae = small_sae("standard", regularizers=[temporal()])
    trainer = make_trainer(
        sae, in_batches(tokens.reshape(-1, 16), 2 * CONTEXT), batch_size=2 * CONTEXT
    )
    for output in run_steps(trainer, 3):
        acts = output.feature_acts.reshape(2, CONTEXT - 1, -1)
        assert (acts[0, -1] - acts[1, 0]).square().sum() > 0.01
        assert output.metrics[f"{LABEL}_mean_difference"] == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_sparse_step_is_the_dense_step(architecture: str, rescale: bool) -> None:
    fields: dict[str, Any] = {
        "dtype": "float64",
        "rescale_acts_by_decoder_norm": rescale,
        "regularizers": [temporal()],
    }
    rows = token_data(64).double()
    saes = [
        small_sae(architecture, sparse_step=way, **fields)
        for way in ("never", "always")
    ]
    outputs = [
        run_steps(make_trainer(sae, in_batches(rows, BATCH), batch_size=BATCH), 8)
        for sae in saes
    ]
    assert [sae.took_sparse_step for sae in saes] == [False, True]
    for dense, sparse in zip(*outputs, strict=True):
        for key in (f"{LABEL}_mean_difference", f"{LABEL}_alpha"):
            torch.testing.assert_close(sparse.metrics[key], dense.metrics[key])
        torch.testing.assert_close(sparse.loss, dense.loss)
    for name, parameter in saes[0].named_parameters():
        torch.testing.assert_close(
            saes[1].get_parameter(name), parameter, rtol=1e-6, atol=1e-7, msg=name
        )


@pytest.mark.parametrize("scaling", ["none", "expected_average_only_in"])
def test_resumed_training_equals_uninterrupted(scaling: str, tmp_path: Path) -> None:
    sae = small_sae(
        "standard",
        normalize_activations=scaling,
        regularizers=[temporal(average_start="first_loss")],
    )
    rows = token_data(128)
    trainer = make_trainer(sae, in_batches(rows, BATCH), batch_size=BATCH)
    used = 2 if scaling != "none" else 0
    if used:
        assert estimate_scale(trainer) != 1
    run_steps(trainer, 4)
    trainer.save_checkpoint("four", base_path=tmp_path)
    run_steps(trainer, 4)

    loaded = TrainingSAE.load_from_disk(tmp_path / "four")
    data = in_batches(rows, BATCH, start=used + 4)
    resumed = make_trainer(loaded, data, batch_size=BATCH)
    resumed.load_trainer_state(tmp_path / "four")
    run_steps(resumed, 4)
    assert component(loaded, LABEL).average_loss > 0
    assert_same_state(loaded, sae)
    assert_same_optimizer(resumed.optimizer, trainer.optimizer)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_50_steps_of_saelens_trainer(architecture: str) -> None:
    sae = small_sae(architecture, regularizers=[temporal(context_size=None)])
    sae.cfg.metadata.context_size = CONTEXT
    trainer = make_trainer(
        sae, in_batches(token_data(400), BATCH), steps=50, batch_size=BATCH
    )
    outputs = run_steps(trainer, 50)
    assert all(bool(output.loss.isfinite()) for output in outputs)
    assert outputs[-1].losses["mse_loss"] < outputs[0].losses["mse_loss"]
