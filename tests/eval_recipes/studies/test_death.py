"""The study death: its controls, and its stages at a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from eval_recipes.studies import death
from eval_recipes.studies.framework.definition import (
    ALIVE,
    Plan,
    Revive,
    Scale,
    Stage,
    Study,
)
from eval_recipes.studies.framework.run import run_study
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig, expand
from tests.eval_recipes.studies.planted import planted_frame
from tests.sweeps.tiny import BATCH, tiny_sweep

GROUPS = death.groups()


def test_a_control_is_as_wide_as_the_median_of_the_alive_latents() -> None:
    shares = {name: {ALIVE: [0.5, 0.25, 0.75]} for name in GROUPS}
    frame = planted_frame(shares)
    _, controls = death.STUDY.plan("small").stages
    sweep = controls.sweep(frame)
    assert {fields["d_sae"] for fields in sweep.groups.values()} == {768}
    assert all(not fields["regularizers"] for fields in sweep.groups.values())
    assert sweep.matched_to["l2-weak-matched"] == "death-small-saes/l2-weak"
    assert len(sweep.matched_to) == len(GROUPS)


def test_a_control_needs_an_alive_share() -> None:
    _, controls = death.STUDY.plan("small").stages
    with pytest.raises(InputError, match="no alive share"):
        controls.sweep(planted_frame({"none": {ALIVE: [1.0]}}))


def test_there_is_no_paper_scale() -> None:
    with pytest.raises(InputError, match="no paper scale"):
        death.STUDY.plan("paper")


@pytest.mark.usefixtures("model_name")
def test_the_annealed_penalty_ends_at_half_of_the_steps() -> None:
    sweep = death.STUDY.plan("small").stages[0].sweep(pd.DataFrame())
    cfg: Any = next(m.cfg for m in expand(sweep) if m.group == "l2-annealed")
    (penalty,) = cfg.regularizers
    values = [
        penalty.schedule.value(penalty.coefficient, step)
        for step in (0, sweep.steps // 4, sweep.steps // 2, sweep.steps)
    ]
    assert values == pytest.approx([death.STRONG, death.STRONG / 2, 0.0, 0.0])


TINY_GROUPS = ("none-no-auxk", "l2-strong", "l2-annealed")


def _small(fields: dict[str, Any]) -> dict[str, Any]:
    # the penalty is made so strong that latents die within a few steps
    penalties = [{**one, "coefficient": 3.0} for one in fields["regularizers"]]
    return {**fields, "d_sae": 96, "k": 4, "regularizers": penalties}


def _saes(_: pd.DataFrame) -> SweepConfig:
    groups = {name: _small(GROUPS[name]) for name in TINY_GROUPS}
    return tiny_sweep(sae={}, groups=groups, tokens=30 * BATCH, lr=3e-3)


def _controls(_: pd.DataFrame) -> SweepConfig:
    groups = {
        f"{name}-matched": {**_small(GROUPS[name]), "regularizers": [], "d_sae": 48}
        for name in TINY_GROUPS
    }
    matched = {f"{name}-matched": f"death-small-saes/{name}" for name in TINY_GROUPS}
    return tiny_sweep(sae={}, groups=groups, tokens=8 * BATCH, matched_to=matched)


def _plan(_: Scale) -> Plan:
    first, second = death.STUDY.plan("small").stages
    return Plan(
        stages=(
            replace(first, sweep=_saes, options={"death": {"n_resamples": 20}}),
            Stage(second.name, _controls, evals=(), in_table=False),
        ),
        revive=Revive("saes", "controls", latents=4, steps=4, dead_after=5),
        settings="Tiny.",
        heldout_tokens=512,
    )


TINY: Study = replace(death.STUDY, plan=_plan)


@pytest.mark.slow
def test_its_stages_run_at_a_tiny_size(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    told: list[str] = []
    run = run_study(TINY, "small", tmp_path / "out", device="cpu", progress=told.append)
    assert run.finished and run.failures == [] and run.stopped == []
    frame = run.table_frame
    deaths: Any = frame.loc[frame["eval"] == "death", "group"]
    assert set(deaths) == set(TINY_GROUPS)
    gains = frame.loc[frame["eval"] == "revival"]
    assert "l2-strong" in set(gains["group"])
    figures = {name.removeprefix("figures/") for name in gains["metric"]}
    assert {"revived_variance_gain", "control_variance_gain", "fire_again"} <= figures
    assert set(gains["seed"]) == {0, 1}
    assert run.table is not None
    text = run.table.read_text(encoding="utf-8")
    assert death.REVIVED.title in text and death.BORN_DEAD.title in text
    again = run_study(
        TINY, "small", tmp_path / "out", device="cpu", progress=told.append
    )
    assert again.finished
    pd.testing.assert_frame_equal(again.frame, run.frame)
