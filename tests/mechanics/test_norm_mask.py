"""Activations far above the running median norm stay out of training."""

from __future__ import annotations

import math

import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.errors import InputError
from tests.training import (
    D_IN,
    batches,
    component,
    forward,
    make_cfg,
    make_sae,
    make_stock_sae,
    make_trainer,
    run_steps,
)


def rows_of_norm(*norms: float) -> torch.Tensor:
    directions = torch.eye(D_IN)[: len(norms)]
    return directions * torch.tensor(norms)[:, None]


def test_rows_above_the_running_median_are_dropped() -> None:
    sae = make_sae(max_norm_multiple=2.0)
    steps = [
        # median of the batch, running median, norms that stay
        ((1.0, 2.0, 3.9, 4.1, 1.5), 2.0, (1.0, 2.0, 3.9, 1.5)),
        ((4.0, 4.0, 4.05, 1.0, 9.0), 0.99 * 2 + 0.01 * 4, (4.0, 4.0, 1.0)),
        ((1.0, 1.0, 1.0), 0.99 * 2.02 + 0.01, (1.0, 1.0, 1.0)),
    ]
    trainer = make_trainer(sae, iter([rows_of_norm(*norms) for norms, _, _ in steps]))
    for norms, median, kept in steps:
        (output,) = run_steps(trainer, 1)
        mask = component(sae, "norm_mask")
        assert float(mask.running_median) == pytest.approx(median, rel=1e-6)
        assert tuple(output.sae_in.norm(dim=-1).tolist()) == pytest.approx(kept)
        assert output.metrics["norm_mask_dropped"] == len(norms) - len(kept)
        assert output.metrics["norm_mask_running_median"] == pytest.approx(median)


def test_passes_without_an_optimiser_step_do_not_move_the_median() -> None:
    sae = make_sae(max_norm_multiple=2.0)
    median = component(sae, "norm_mask").running_median
    output = forward(sae, rows_of_norm(1.0, 2.0, 3.0))
    assert output.metrics["norm_mask_running_median"] == 2
    assert median == 0
    run_steps(make_trainer(sae, iter([rows_of_norm(4.0, 5.0, 6.0)])), 1)
    assert median == 5
    forward(sae, rows_of_norm(7.0, 8.0, 9.0))
    assert median == 5


def test_dropped_rows_leave_no_trace(activations: torch.Tensor) -> None:
    x = activations[:64].clone()
    x[[3, 17, 40]] *= 1000
    norms = x.norm(dim=-1)
    rest = norms <= 10 * norms.median()
    assert not rest[[3, 17, 40]].any() and rest.sum() > 50
    ours, stock = make_sae(max_norm_multiple=10.0), make_stock_sae()
    trainer = make_trainer(ours, iter([x]))
    (output,) = run_steps(trainer, 1)
    oracle = make_trainer(stock, iter([x[rest]]))
    (expected,) = run_steps(oracle, 1)
    assert torch.equal(output.sae_in, x[rest])
    assert torch.equal(output.loss, expected.loss)
    assert torch.equal(ours.W_dec, stock.W_dec)
    assert torch.equal(trainer.act_freq_scores, oracle.act_freq_scores)


def test_ordinary_batches_pass_untouched(activations: torch.Tensor) -> None:
    sae = make_sae(max_norm_multiple=1000.0)
    x = activations[:64]
    assert forward(sae, x).sae_in is x


def test_a_jump_of_scale_is_an_error(activations: torch.Tensor) -> None:
    sae = make_sae(max_norm_multiple=2.0)
    run_steps(make_trainer(sae, batches(activations)), 1)
    with pytest.raises(
        InputError, match="every activation of the batch exceeds 2.0 x the running"
    ):
        forward(sae, activations[:64] * 1e6)


@pytest.mark.parametrize("multiple", [1.0, 0.5, -10.0, math.nan, math.inf])
def test_bad_multiple_is_refused(multiple: float) -> None:
    with pytest.raises(sr.InputError, match="expected a number above 1"):
        make_cfg(max_norm_multiple=multiple)
