"""The command distill: trains, ranks, measures and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.distillation.comparison import COLUMNS
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.run import subjects_of
from tests.distillation.tiny import SAE
from tests.sweeps.tiny import fields


class Made(NamedTuple):
    out: Path
    written: dict[str, Any]
    frame: pd.DataFrame
    output: str


WORDS = [
    *("--cycles", "2", "--share", ".6", "--quantile", ".9", "--score-tokens", "300"),
    *("--heldout-tokens", "512", "--loss-contexts", "2", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Made:
    folder = tmp_path_factory.mktemp("command")
    file, out = folder / "sweep.yaml", folder / "out"
    given = fields(model=str(small_model), sae=SAE, groups={"sae": {}})
    file.write_text(yaml.safe_dump(given), encoding="utf-8")
    words = ["distill", str(file), "--out", str(out), *WORDS]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    written = json.loads((out / "distillation.json").read_text())
    frame = pd.DataFrame(written["rows"], columns=pd.Index(COLUMNS))
    return Made(out, written, frame, result.output)


def one(made: Made, group: str, figure: str, seed: int | None) -> Any:
    frame = made.frame
    of = frame["seed"].isna() if seed is None else frame["seed"] == seed
    chosen = (frame["group"] == group) & (frame["figure"] == figure) & of
    (row,) = frame.loc[chosen & frame["other"].isna()].to_dict("records")
    return row


GROUPS = ["plain", "distilled-2", "random-2", "frequency-2", "matched"]


def test_every_group_has_its_figures(made: Made) -> None:
    assert list(dict.fromkeys(made.frame["group"])) == GROUPS
    assert made.written["cycles"] == 2 and made.written["stopped"] == []
    assert len(made.written["sentences"]) == 4
    for group in GROUPS:
        for figure in ("explained_variance", "l0", "l0_core", "l0_rest", "ce_gap"):
            for seed in (0, 1, None):
                row = one(made, group, figure, seed)
                assert row["low"] <= row["value"] <= row["high"]
        assert one(made, group, "core_agreement", None)["null"] > 0
    assert "distilled-2" in made.output and "Wrote" in made.output


def test_the_effective_l0_includes_the_core(made: Made) -> None:
    for group in GROUPS:
        l0, core, rest = (
            one(made, group, name, 0)["value"] for name in ("l0", "l0_core", "l0_rest")
        )
        assert l0 == pytest.approx(core + rest)
        assert (core > 0) is (group not in ("plain", "matched"))


def test_figures_are_those_of_the_shared_pass(made: Made) -> None:
    for part in ("cycle-1", "cycle-2", "matched"):
        context = RunContext(
            subjects=subjects_of(str(made.out / part)),
            out=made.out,
            heldout_tokens=512,
        )
        table = heldout_of(context)
        for subject in context.subjects:
            found = table[subject.sae_id]
            for name, value in (
                ("explained_variance", found.explained_variance),
                ("l0", found.l0),
            ):
                row = one(made, subject.group, name, subject.seed)
                assert row["value"] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_the_mean_gain_is_that_of_the_seeds(made: Made) -> None:
    for other in ("plain", "random-2", "frequency-2", "matched"):
        found = one(made, "distilled-2", f"variance_over_{other}", None)
        own, theirs = (
            one(made, group, "explained_variance", None)["value"]
            for group in ("distilled-2", other)
        )
        assert found["value"] == pytest.approx(own - theirs, abs=1e-9)
        assert found["low"] <= found["value"] <= found["high"]


def test_sizes_of_cores_are_told_by_cycle(made: Made) -> None:
    sizes = one(made, "plain", "core_promoted", None)["value"]
    for group in GROUPS[1:4]:
        assert one(made, group, "core_frozen", None)["value"] == sizes
        kept = one(made, group, "core_kept", None)
        assert 0 <= kept["value"] <= 1 and kept["null"] > 0
        scored = one(made, group, "core_kept_by_attribution", None)
        assert 0 <= scored["value"] <= 1 and 0 < scored["null"] < 1
        assert one(made, group, "core_attribution", None)["value"] > 0
    lasting = one(made, "random-2", "core_in_all_cycles", None)["value"]
    assert lasting <= sizes


def test_the_same_command_trains_nothing(made: Made) -> None:
    before = (made.out / "distillation.json").read_text()
    file = made.out.parent / "sweep.yaml"
    words = ["distill", str(file), "--out", str(made.out), *WORDS]
    torch.manual_seed(3)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.output.count("trained already") == 3
    assert (made.out / "distillation.json").read_text() == before


def test_tokens_are_no_setting_of_a_release(made: Made) -> None:
    first = str(made.out / "cycle-1")
    words = ["distill", first, "--tokens", "100", "--out", str(made.out / "x")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code != 0
    assert "--tokens belongs to the file" in str(result.exception)
