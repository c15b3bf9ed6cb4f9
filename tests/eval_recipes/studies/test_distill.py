"""The study distill: its groups, and its stages at a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from eval_recipes.studies import distill
from eval_recipes.studies.framework.run import run_study
from saereg_plugin.errors import InputError
from tests.distillation.tiny import tiny_distill


def test_there_is_no_paper_scale() -> None:
    with pytest.raises(InputError, match="no paper scale"):
        distill.STUDY.plan("paper")


def test_every_part_of_the_distillation_is_a_stage() -> None:
    plan = distill.STUDY.plan("small")
    assert [stage.name for stage in plan.stages] == distill.SMALL.parts
    groups = [list(stage.sweep(pd.DataFrame()).groups) for stage in plan.stages]
    assert groups == [
        ["plain"],
        ["distilled-2", "random-2", "frequency-2"],
        ["distilled-3", "random-3", "frequency-3"],
        ["matched"],
    ]


@pytest.mark.slow
def test_its_stages_run_at_a_tiny_size(tmp_path: Path, small_model: Path) -> None:
    torch.set_num_threads(1)
    tiny = tiny_distill(small_model, cycles=3)
    study = replace(
        distill.STUDY,
        plan=lambda _: distill.small_plan(tiny, heldout_tokens=512),
        finish=distill.finish_of(tiny, loss_contexts=2),
    )
    told: list[str] = []
    out = tmp_path / "out"
    run = run_study(study, "small", out, device="cpu", progress=told.append)
    assert run.finished and run.failures == [] and run.stopped == []
    frame: Any = run.table_frame
    own = frame.loc[frame["eval"] == distill.DISTILLATION]
    assert set(own["seed"]) == {0, 1}
    assert set(own["group"]) == set(frame["group"])
    last = own.loc[own["group"] == "distilled-3"].groupby("metric")["value"].mean()
    assert last["figures/l0"] == pytest.approx(
        last["figures/l0_core"] + last["figures/l0_rest"]
    )
    assert last["figures/core_frozen"] > 0
    assert run.table is not None
    text = run.table.read_text(encoding="utf-8")
    assert distill.KEPT.title in text and "of the variance more than matched" in text
    assert "agreement of seeds" in text
    again = run_study(study, "small", out, device="cpu", progress=told.append)
    pd.testing.assert_frame_equal(again.frame, run.frame)
    assert sum("trained already" in line for line in told) == 4
    assert again.passages == run.passages
