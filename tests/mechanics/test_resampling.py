"""Dead latents start anew where the reconstruction is worst."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.mechanics.resampling import dead_latents, draw_rows, restart_latents_
from tests.mechanics.small import (
    D_IN,
    D_SAE,
    ROWS,
    STEPS,
    backward,
    data,
    small_sae,
    small_stock,
    train,
)
from tests.training import assert_same_state, component, row_norms

EVERY_STEP = sr.DeadLatentResampling(
    decay=0.0, threshold=0.01, every=1, until=1, then_every=1000, norm=1.0
)
DEAD = torch.arange(4, 10)


def kill(sae: Any) -> Any:
    """Make the latents DEAD fire on nothing."""
    with torch.no_grad():
        for name in ("b_enc", "b_gate", "b_mag"):
            if hasattr(sae, name) and getattr(sae, name) is not None:
                getattr(sae, name)[DEAD] = -1e3
        if hasattr(sae, "threshold"):
            sae.threshold[DEAD] = 7.0
    return sae


def rows_of(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """One row a latent."""
    return tensor.T if name == "W_enc" else tensor


def module(sae: Any) -> Any:
    return component(sae, "resampling")


def test_due_steps_by_hand() -> None:
    cfg = sr.DeadLatentResampling()
    due = [step for step in range(1, 2600) if cfg.is_due(step)]
    assert due == [*range(100, 1001, 100), 1500, 2000, 2500]
    cfg = sr.DeadLatentResampling(every=3, until=7, then_every=4, stop=15)
    assert [step for step in range(1, 40) if cfg.is_due(step)] == [3, 6, 11, 15]


def test_dead_latents_come_with_the_lowest_rate_first() -> None:
    rate = torch.tensor([0.02, 0.004, 0.0, 0.005, 0.004, 0.001])
    assert dead_latents(rate, 0.005).tolist() == [2, 5, 1, 4]
    assert dead_latents(rate + 1, 0.005).tolist() == []


def test_rows_are_drawn_by_their_error() -> None:
    """First draws against their probabilities, with six standard errors."""
    error = torch.tensor([1.0, 0.0, 3.0, 4.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    n = 4000
    draws = torch.stack([draw_rows(error, 4, generator) for _ in range(n)])
    share = torch.bincount(draws[:, 0], minlength=5) / n
    p = error / error.sum()
    assert ((share - p).abs() <= 6 * (p * (1 - p) / n).sqrt()).all()
    assert all(len(set(row)) == 4 for row in draws.tolist())
    assert not (draws == 1).any()


def test_rows_run_out() -> None:
    generator = torch.Generator().manual_seed(0)
    error = torch.tensor([0.0, 2.0, math.nan, 0.0, 1.0])
    assert sorted(draw_rows(error, 10, generator).tolist()) == [1, 4]
    assert draw_rows(torch.zeros(3), 2, generator).tolist() == []
    assert draw_rows(error, 0, generator).tolist() == []


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_one_resampling_in_full(architecture: str, fields: dict[str, Any]) -> None:
    ours = kill(small_sae(architecture, mechanics=[EVERY_STEP], **fields))
    plain = kill(small_sae(architecture, **fields))
    (batch,) = data(1)
    optimizers = [train(sae, [batch]) for sae in (ours, plain)]
    dead = (module(ours).rate < 0.01).nonzero().squeeze(1)
    assert set(DEAD.tolist()) <= set(dead.tolist())
    assert module(ours).metrics()["last_resampled"] == len(dead) < ROWS
    alive = torch.ones(D_SAE, dtype=torch.bool)
    alive[dead] = False
    assert alive.any()

    units = batch / batch.norm(dim=-1, keepdim=True)
    nearest = (ours.W_dec[dead] @ units.T).argmax(dim=1)
    assert len(set(nearest.tolist())) == len(dead)  # every row at most once
    torch.testing.assert_close(ours.W_dec[dead].detach(), units[nearest])
    torch.testing.assert_close(ours.W_enc.T[dead].detach(), units[nearest])
    start = {"threshold": 0.01}
    for name, parameter in ours.named_parameters():
        state = optimizers[0].state[parameter]
        expected = optimizers[1].state[plain.get_parameter(name)]
        if name == "b_dec":
            assert torch.equal(parameter, plain.b_dec)
            assert torch.equal(state["exp_avg"], expected["exp_avg"])
            continue
        if parameter.ndim == 1:
            assert (parameter[dead] == start.get(name, 0.0)).all(), name
        own = plain.get_parameter(name)
        assert torch.equal(rows_of(name, parameter)[alive], rows_of(name, own)[alive])
        for key in ("exp_avg", "exp_avg_sq"):
            values, before = rows_of(name, state[key]), rows_of(name, expected[key])
            assert not values[dead].any(), (name, key)
            assert torch.equal(values[alive], before[alive])
        assert torch.equal(state["step"].cpu(), expected["step"].cpu())
    # it would not have been 0 without
    assert optimizers[1].state[plain.W_dec]["exp_avg"].any()


def test_only_due_steps_resample_and_the_rate_decides() -> None:
    cfg = sr.DeadLatentResampling(
        decay=0.5, threshold=0.05, every=3, until=6, then_every=2, norm=1.0
    )
    sae = kill(small_sae("standard", mechanics=[cfg]))
    events: list[tuple[int, int]] = []
    rate = torch.zeros(D_SAE)

    def check(output: Any) -> None:
        nonlocal rate
        fired = (output.feature_acts.detach() > 0).float().mean(dim=0)
        rate = 0.5 * rate + 0.5 * fired
        step = sae.step_index
        below = int((rate < 0.05).sum())
        assert output.metrics["resampling_below_threshold"] == below
        restarted = (sae.b_enc == 0).nonzero().squeeze(1).tolist()
        if step in (3, 6, 8, 10):
            expected = dead_latents(rate, 0.05).tolist()
            assert sorted(expected) == restarted
            events.append((step, len(expected)))
        else:
            assert restarted == []

    train(sae, data(10), each=check)
    assert [step for step, _ in events] == [3, 6, 8, 10]
    assert events[0][1] >= len(DEAD)


def planted(mechanics: list[Any], steps: int = 60, **fields: Any) -> tuple[Any, Any]:
    """Standard SAEs with six dead latents of 24, trained; their firing in the last steps."""
    sae = kill(small_sae("standard", mechanics=mechanics, l1_coefficient=0.0, **fields))
    counts = torch.zeros(D_SAE)
    errors: list[float] = []

    def count(output: Any) -> None:
        nonlocal counts
        errors.append(float(output.losses["mse_loss"].detach()))
        if sae.step_index > steps - 10:
            counts = counts + (output.feature_acts.detach() > 0).sum(dim=0)

    train(sae, data(steps), each=count)
    return counts, sum(errors[-10:]) / 10


def test_resampled_latents_fire_again_and_help() -> None:
    cfg = sr.DeadLatentResampling(decay=0.9, every=20, until=20, stop=20, norm=0.3)
    counts, error = planted([cfg])
    plain_counts, plain_error = planted([])
    assert (plain_counts[DEAD] == 0).all()
    # each fires in at least 5 % of the last 160 rows
    assert (counts[DEAD] >= 8).all()
    assert error < plain_error


def test_unit_norm_and_fused_optimiser() -> None:
    cfg = sr.DeadLatentResampling(decay=0.0, threshold=0.01, every=2, until=1000)
    sae = kill(
        small_sae(mechanics=[cfg], decoder_constraint="unit_norm", sparse_step="always")
    )

    def check(_: Any) -> None:
        norms = sae.W_dec.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones(D_SAE), rtol=0, atol=1e-6)

    optimizer = train(sae, data(9), each=check)
    assert optimizer.param_groups[0]["fused"]
    assert module(sae).metrics()["last_resampled"] > 0


@pytest.mark.parametrize(
    ("fields", "own", "norm"),
    [
        ({}, None, 0.1),
        ({"decoder_init_norm": 0.25}, None, 0.25),
        ({"initialization": "untied"}, None, 1.0),
        ({"decoder_constraint": "unit_norm"}, None, 1.0),
        ({"decoder_init_norm": 0.25}, 2.0, 2.0),
    ],
)
def test_norm_of_new_latents(
    fields: dict[str, Any], own: float | None, norm: float
) -> None:
    cfg = sr.DeadLatentResampling(
        decay=0.0, threshold=0.01, every=1, until=1, then_every=99, norm=own
    )
    sae = kill(small_sae("standard", mechanics=[cfg], **fields))
    train(sae, data(1))
    for rows in (sae.W_dec, sae.W_enc.T):
        lengths = rows[DEAD].norm(dim=-1)
        torch.testing.assert_close(lengths, torch.full((len(DEAD),), norm))


def test_decoder_bias_is_subtracted_if_asked() -> None:
    cfg = sr.DeadLatentResampling(
        **{**dataclasses.asdict(EVERY_STEP), "subtract_b_dec": True}
    )
    sae = kill(small_sae("standard", mechanics=[cfg], b_dec_init="mean"))
    (batch,) = data(1)
    train(sae, [batch])
    centred = batch - sae.b_dec.detach()
    units = centred / centred.norm(dim=-1, keepdim=True)
    best = (sae.W_dec[DEAD].detach() @ units.T).max(dim=1).values
    torch.testing.assert_close(best, torch.ones(len(DEAD)))
    plain = batch / batch.norm(dim=-1, keepdim=True)
    assert (sae.W_dec[DEAD].detach() @ plain.T).max() < 0.999


def test_more_dead_than_rows_leaves_the_others() -> None:
    sae = small_sae("standard", mechanics=[EVERY_STEP])
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    before = sae.W_dec.detach().clone()
    (batch,) = data(1)
    train(sae, [batch[:3]])
    changed = (sae.b_enc == 0).nonzero().squeeze(1).tolist()
    assert changed == [0, 1, 2]  # all rates are 0: the first
    assert (sae.W_dec[3:] - before[3:]).norm() < 1.0


def test_without_dead_latents_nothing_changes() -> None:
    cfg = sr.DeadLatentResampling(decay=0.0, threshold=1e-9, every=1)
    saes = [small_sae("standard", mechanics=[cfg]), small_stock("standard")]
    for sae in saes:
        train(sae, data(4, rows=256))
    assert (module(saes[0]).rate > 0).all()
    assert_same_state(*saes)
    assert module(saes[0]).metrics()["last_resampled"] == 0


def test_draws_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    def new_rows(init_seed: int) -> torch.Tensor:
        sae = small_sae("standard", mechanics=[EVERY_STEP], init_seed=init_seed)
        with torch.no_grad():
            sae.W_enc.copy_(small_stock("standard").W_enc)
        kill(sae)
        before = torch.get_rng_state()
        train(sae, data(1))
        assert torch.equal(torch.get_rng_state(), before)
        return sae.W_dec[DEAD].detach()

    assert torch.equal(new_rows(1), new_rows(1))
    assert not torch.equal(new_rows(1), new_rows(2))


def test_batch_is_let_go() -> None:
    sae = kill(small_sae("standard", mechanics=[EVERY_STEP]))
    backward(sae, data(1)[0])
    assert module(sae)._batch is not None
    sae.zero_grad()
    train(sae, data(2))
    assert module(sae)._batch is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 0.0}, r"threshold is 0.0; expected a number in \(0, 1\)"),
        ({"decay": -0.1}, r"decay is -0.1; expected a number in \[0, 1\)"),
        ({"every": 0}, "every is 0; expected a whole number, 1 or more"),
        ({"until": -1}, "until is -1; expected a whole number, 0 or more"),
        ({"then_every": 2.5}, "then_every is 2.5; expected a whole number"),
        ({"stop": -5}, "stop is -5; expected a whole number, 0 or more"),
        ({"norm": 0.0}, "norm is 0.0; expected a number above 0, or None"),
        ({"subtract_b_dec": "yes"}, "subtract_b_dec is 'yes'; expected a bool"),
    ],
)
def test_bad_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match="resampling: " + message):
        sr.DeadLatentResampling(**fields)


def test_threshold_that_most_latents_cannot_reach_is_refused() -> None:
    with pytest.raises(
        sr.InputError,
        match=f"with k=4 of d_sae={D_SAE * 100} latents the mean firing rate is 0.0017",
    ):
        small_sae(d_sae=D_SAE * 100, mechanics=[sr.DeadLatentResampling()])


def test_norm_against_unit_norm_is_refused() -> None:
    with pytest.raises(
        sr.InputError, match="norm is 0.5, but decoder_constraint='unit"
    ):
        small_sae(
            mechanics=[sr.DeadLatentResampling(norm=0.5)],
            decoder_constraint="unit_norm",
        )


@pytest.mark.parametrize("constraint", ["unit_norm", "none"])
@pytest.mark.parametrize("subtract_b_dec", [False, True])
def test_rows_of_zeros_are_never_drawn(constraint: str, subtract_b_dec: bool) -> None:
    """Padding has an error as soon as b_dec moves, but no direction to start in."""
    cfg = sr.DeadLatentResampling(
        every=5, threshold=0.12, subtract_b_dec=subtract_b_dec
    )
    sae = small_sae(
        "topk", d_sae=64, k=8, decoder_constraint=constraint, mechanics=[cfg]
    )
    padded = [torch.cat([batch[:4], torch.zeros(28, D_IN)]) for batch in data(12)]
    restarted: list[float] = []
    train(
        sae,
        padded,
        each=lambda output: restarted.append(
            float(output.metrics["resampling_last_resampled"])
        ),
    )
    # no more than there are rows with a direction
    assert restarted[-1] == 4
    assert (row_norms(sae) > 1e-3).all()
    assert sae.W_enc.isfinite().all()
    if constraint == "unit_norm":
        assert (row_norms(sae) - 1).abs().max() < 1e-5


def test_without_a_usable_row_nobody_starts_anew() -> None:
    sae = kill(small_sae("topk", mechanics=[EVERY_STEP]))
    with torch.no_grad():
        sae.b_dec += 1
    train(sae, [torch.zeros(ROWS, D_IN)])
    assert module(sae).metrics()["last_resampled"] == 0


def test_new_rows_keep_double_precision() -> None:
    sae = small_sae("topk", mechanics=[EVERY_STEP], dtype="float64")
    latents = torch.arange(3)
    directions = data(1)[0][:3].double()
    with torch.no_grad():
        restart_latents_(sae, latents, directions, norm=1.0)
    assert (sae.W_dec[:3].detach().norm(dim=-1) - 1).abs().max() < 1e-15
