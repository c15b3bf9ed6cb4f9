"""Figures of pooled SAEs against plain versions, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.pooling.comparison import COLUMNS, compare
from eval_recipes.pooling.shares import Dictionary, pairs_of, shared_latents
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.run import subjects_of
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import unit_rows
from saereg_plugin.pooling.training import PoolPlan, plan_pool, run_pool
from saereg_plugin.releases.opening import register_release
from saereg_plugin.sweeps import run_sweep
from tests.oracles import cross_seed_oracle as oracle
from tests.sweeps.tiny import PENALTY, tiny_sweep
from tests.sweeps.tiny import SAE as TINY

UNIT = {**TINY, "decoder_constraint": "unit_norm"}


@settings(deadline=None, max_examples=30)
@given(
    n_a=st.integers(1, 7),
    n_b=st.integers(1, 7),
    d=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_shared_latents_of_unequal_widths_equal_plain_python(
    n_a: int, n_b: int, d: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def dictionary(n: int) -> Dictionary:
        dec = torch.randn(n, d, generator=generator)
        enc = dec + 0.3 * torch.randn(n, d, generator=generator)
        return Dictionary(unit_rows(enc), unit_rows(dec))

    a, b = dictionary(n_a), dictionary(n_b)
    found = shared_latents(a, b)
    assert len(found) == min(n_a, n_b)
    # in one dimension every cosine is 1, so that matchings are arbitrary
    if d > 1:
        pairs = oracle.shared_pairs(
            *(each.tolist() for each in (a.dec, a.enc, b.dec, b.enc)),
            list(range(n_a)),
            list(range(n_b)),
        )
        assert int(found.sum()) == len(pairs)
    assert torch.equal(found, shared_latents(b, a)) or n_a == n_b
    assert int(found.sum()) == int(shared_latents(b, a).sum())


def test_pairs_of_one_arm_come_once() -> None:
    one = Dictionary(torch.eye(2), torch.eye(2))
    a, b = {"x": one, "y": one, "z": one}, {"p": one, "q": one}
    assert pairs_of(a, a) == [("x", "y"), ("x", "z"), ("y", "z")]
    assert len(pairs_of(a, b)) == 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of two seeds."""
    folder = tmp_path_factory.mktemp("pools")
    groups = {"plain": {}, "l2": {"regularizers": [PENALTY]}}
    run_sweep(tiny_sweep(sae={**UNIT, "d_sae": 64}, groups=groups), folder / "own")
    register_release(folder / "own")
    return folder


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[PoolPlan, RunContext, pd.DataFrame, dict[str, Any]]:
    plan = plan_pool(folder / "own", groups=["l2"], steps=4, device="cpu")
    trained = run_pool(plan, folder / "arms", progress=list[str]().append)
    subjects = subjects_of(str(folder / "own"))
    for name in trained:
        subjects += subjects_of(str(folder / "arms" / name))
    context = RunContext(subjects, folder / "out", heldout_tokens=512)
    found = compare(plan, context)
    return plan, context, found.frame, {**found.pools, "verdicts": found.verdicts}


def row(frame: pd.DataFrame, figure: str, of: str, against: str | None) -> Any:
    at = frame["against"].isna() if against is None else frame["against"] == against
    wanted = (frame["figure"] == figure) & (frame["of"] == of) & at
    (found,) = frame.loc[wanted].to_dict("records")
    return found


def test_explained_variances_and_dead_latents_are_those_of_held_out_figures(
    made: tuple[PoolPlan, RunContext, pd.DataFrame, dict[str, Any]],
) -> None:
    plan, context, frame, _ = made
    table = heldout_of(context)
    names = ["l2-seed0", "l2-seed1", "l2-pooled-seed0"]
    names += [f"l2-{arm}-seed{s}" for arm in ("fresh", "control") for s in (2, 3)]
    values: dict[str, float] = {}
    for name in names:
        found = row(frame, "explained_variance", name, None)
        assert found["value"] == pytest.approx(table[name].explained_variance, abs=1e-9)
        assert found["low"] <= found["value"] <= found["high"] and found["n"] == 8
        values[name] = found["value"]
        dead = row(frame, "dead_share", name, None)
        width = 64 if name in names[:2] else plan.pools[0].union.width
        assert dead["n"] == width
        assert 0 <= dead["low"] <= dead["value"] <= dead["high"] <= 1
    for arm, of in (
        ("seeds", names[:2]),
        ("fresh", names[3:5]),
        ("control", names[5:]),
    ):
        mean = np.mean([values[name] for name in of])
        assert row(frame, "explained_variance", arm, None)["value"] == pytest.approx(
            mean, abs=1e-9
        )
        gain = row(frame, "explained_variance_gain", "pooled", arm)
        assert gain["value"] == pytest.approx(values[names[2]] - mean, abs=1e-9)
        assert gain["low"] <= gain["value"] <= gain["high"]


def test_a_pool_shares_its_latents_with_its_seeds_and_chance_shares_none(
    made: tuple[PoolPlan, RunContext, pd.DataFrame, dict[str, Any]],
) -> None:
    plan, _, frame, told = made
    assert list(frame.columns) == list(COLUMNS)
    (pool,) = plan.pools
    facts = told["l2"]
    assert sum(facts["shared_by"]) == facts["unique"] == pool.union.width
    assert facts["seeds"] == [0, 1] and facts["d_sae"] == 64
    own = row(frame, "shared", "pooled", "seeds")["value"]
    fresh = row(frame, "shared", "pooled", "fresh")
    assert own > 0.5 and own > fresh["value"]
    for kind in ("random", "gaussian"):
        null = row(frame, f"shared_{kind}", "pooled", "fresh")
        assert null["n"] == pool.union.width
    assert row(frame, "shared_random", "pooled", "seeds")["value"] == 0
    for arm in ("seeds", "fresh", "control"):
        assert 0 <= row(frame, "shared", arm, arm)["value"] <= 1
    assert (
        "l2: " in told["verdicts"]["l2"] and "over fresh SAEs" in told["verdicts"]["l2"]
    )


def test_an_arm_that_was_taken_out_is_named(
    made: tuple[PoolPlan, RunContext, pd.DataFrame, dict[str, Any]],
) -> None:
    plan, context, _, _ = made
    left = [s for s in context.subjects if "fresh" not in s.group]
    with pytest.raises(InputError, match="Every SAE of 'l2-fresh' was taken out"):
        compare(plan, RunContext(left, context.out, heldout_tokens=512))


def test_the_command_trains_compares_and_resumes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    words = ["pool", str(folder / "own"), "--group", "plain", "--out", str(out)]
    words += ["--steps", "2", "--heldout-tokens", "512", "--device", "cpu"]
    for _ in range(2):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
    assert "trained already" in result.output
    written = json.loads((out / "pool.json").read_text())
    assert set(written["verdicts"]) == set(written["pools"]) == {"plain"}
    assert {one["group"] for one in written["rows"]} == {"plain"}
    assert len(register_release(out / "plain-control").entries) == 2
