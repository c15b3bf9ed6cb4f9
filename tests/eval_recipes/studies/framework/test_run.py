"""Studies end to end at a tiny size, on the embedded model: stages, resuming, the command."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock, Timeout
from transformer_lens import HookedTransformer
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.studies import temporal, topk_regularizers, vocabulary
from eval_recipes.studies.catalogue import GRID_STUDIES, study_named
from eval_recipes.studies.framework.definition import (
    ALIVE,
    L0,
    VARIANCE,
    Choice,
    Plan,
    Scale,
    Stage,
    Study,
    StudyRun,
    largest_without_loss,
)
from eval_recipes.studies.framework.report import TABLE, values_of, verdicts_of
from eval_recipes.studies.framework.run import _write_page, run_study
from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.framework.verdicts import Claim
from eval_recipes.studies.vision.study import STUDY as VISION
from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import MARK
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.release import Entry, Release, write_release
from saereg_plugin.sweeps import SweepConfig, SweepTrainer
from saereg_plugin.sweeps.config import group_fields
from saereg_plugin.sweeps.records import append_record
from saereg_plugin.yaml_text import read_yaml
from tests.eval_recipes.report.result_files import write_all
from tests.eval_recipes.studies.test_definitions import candidates
from tests.sweeps.tiny import BATCH, PENALTY, open_trainer, records_of, tiny_sweep


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Every group of every study


def tiny_groups(study: Study, frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The groups of a study's last small stage, at 256 latents (Matryoshka: levels of 64 and 256)."""
    sweep = study.plan("small").stages[-1].sweep(frame)
    groups: dict[str, dict[str, Any]] = {}
    for name, fields in group_fields(sweep).items():
        tiny = {**fields, "d_sae": 256}
        if "matryoshka_widths" in fields:
            tiny["matryoshka_widths"] = [64, 256]
        groups[f"{study.name}.{name}"] = tiny
    return groups


@pytest.mark.slow
@pytest.mark.parametrize("in_order", [False, True])
def test_every_group_of_every_study_trains(
    model: HookedTransformer, tmp_path: Path, in_order: bool
) -> None:
    groups: dict[str, dict[str, Any]] = {}
    for name in GRID_STUDIES:
        study = study_named(name)
        if study is VISION:
            # on images: test_vision trains its groups
            continue
        if (study is temporal.STUDY) == in_order:
            frame = candidates() if study is topk_regularizers.STUDY else pd.DataFrame()
            groups |= tiny_groups(study, frame)
    order: dict[str, Any] = {
        "exclude_special_tokens": False,
        "mixing_fraction": 0.0,
        "disable_concat_sequences": True,
    }
    sweep = tiny_sweep(
        sae={}, groups=groups, seeds=[0], log_every=1, **(order if in_order else {})
    )
    trainer: SweepTrainer = open_trainer(model, sweep, tmp_path)
    assert trainer.train(StopFlag(), steps=3)
    assert trainer.stopped == []
    records = records_of(tmp_path)
    assert set(records) == {f"{group}-seed0" for group in groups}
    for lines in records.values():
        assert all(isinstance(line["loss"], float) for line in lines)


# Stages

COEFFICIENTS = (1e-3, 10.0)
STEPS = 6


def _penalised(coefficient: float) -> dict[str, Any]:
    return {"regularizers": [{**PENALTY, "coefficient": coefficient}]}


def _first(_: pd.DataFrame) -> SweepConfig:
    candidates = {f"lambda{c:g}": _penalised(c) for c in COEFFICIENTS}
    return tiny_sweep(
        groups={"plain": {}, **candidates}, seeds=[0], tokens=STEPS * BATCH
    )


def _choices(frame: pd.DataFrame) -> list[Choice]:
    def variance(group: str) -> float:
        return values_of(frame, group, VARIANCE)[0]

    found = {c: variance(f"lambda{c:g}") for c in COEFFICIENTS}
    return [largest_without_loss("tiny", variance("plain"), found)]


def _second(frame: pd.DataFrame) -> SweepConfig:
    (choice,) = _choices(frame)
    groups = {"plain": {}, "chosen": _penalised(choice.coefficient)}
    return tiny_sweep(groups=groups, seeds=[1, 2], tokens=STEPS * BATCH)


def _plan(_: Scale) -> Plan:
    return Plan(
        stages=(
            Stage("choice", _first, evals=(), in_table=False, choice=_choices),
            Stage("saes", _second, evals=()),
        ),
        settings="Tiny.",
        heldout_tokens=512,
    )


TINY = Study(
    name="tiny",
    paper="none",
    summary="A few steps.",
    plan=_plan,
    columns=(VARIANCE, L0, ALIVE),
    claims=lambda _: [
        Claim(figure=VARIANCE.title, group="chosen", other="plain", direction="higher")
    ],
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny-study") / "out"


@pytest.fixture(scope="module")
def finished(model_name: str, out: Path) -> StudyRun:
    assert model_name
    return run_study(TINY, "small", out)


@pytest.mark.slow
def test_second_stage_trains_what_the_first_chose(
    finished: StudyRun, out: Path
) -> None:
    assert finished.finished
    assert finished.failures == []
    (choice,) = finished.choices
    measured: Any = read_yaml(out / "figures" / "choice.json")
    variances = {
        name: values["heldout"]["explained_variance"]
        for name, values in measured["figures"].items()
    }
    assert choice.baseline == variances["plain-seed0"]
    assert choice.candidates == {
        c: variances[f"lambda{c:g}-seed0"] for c in COEFFICIENTS
    }
    trained: Any = read_yaml(out / "releases" / "saes" / "sweep.json")
    assert trained["groups"]["chosen"] == _penalised(choice.coefficient)
    rows = finished.table_frame
    assert set(rows["group"]) == {"plain", "chosen"}
    for group in ("plain", "chosen"):
        assert set(values_of(rows, group, VARIANCE)) == {1, 2}
        assert values_of(rows, group, L0) == {1: 8.0, 2: 8.0}
    assert finished.training_seconds > 0


@pytest.mark.slow
def test_the_page_of_a_study_knows_the_releases_of_its_stages(
    finished: StudyRun, tmp_path: Path
) -> None:
    name = finished.plan.stages[0].name
    write_all(tmp_path / "results" / name)
    folder = tmp_path / "releases" / name
    folder.mkdir(parents=True)
    entries = (Entry("l2-seed0", "saes/l2", "l2", 0, {}),)
    write_release(Release("lab", "tiny", entries, folder, {"command": "train it"}))
    assert finished.table is not None
    shutil.copy(finished.table.parent / "results.json", tmp_path)
    page = _write_page(finished, tmp_path)
    assert page is not None and "train it" in page.read_text()


@pytest.mark.slow
def test_the_report_is_written_while_the_folder_is_held(
    finished: StudyRun, out: Path
) -> None:
    assert finished.table == out / TABLE
    refused: list[bool] = []

    def claims(_: Scale) -> list[Claim]:
        """Ask for the folder, as another process would."""
        with pytest.raises(Timeout):
            FileLock(out / ".lock").acquire(timeout=0)
        refused.append(True)
        return []

    (out / TABLE).unlink()
    run = run_study(dataclasses.replace(TINY, claims=claims), "small", out)
    assert refused and run.table == out / TABLE
    assert (out / TABLE).is_file()


@pytest.mark.slow
def test_finished_study_is_not_done_again(finished: StudyRun, out: Path) -> None:
    kept = sorted((out / "figures").iterdir())
    assert kept
    releases = sorted(out.rglob("release.yaml"))
    assert len(releases) == 2
    before = [path.stat().st_mtime_ns for path in [*kept, *releases]]
    told: list[str] = []
    again = run_study(TINY, "small", out, progress=told.append)
    assert [path.stat().st_mtime_ns for path in [*kept, *releases]] == before
    assert again.training_seconds == finished.training_seconds
    pd.testing.assert_frame_equal(again.frame, finished.frame)
    assert [v.to_dict() for v in verdicts_of(again)] == [
        v.to_dict() for v in verdicts_of(finished)
    ]
    assert "Stage 1 of 2, choice: 3 groups, 1 seeds, 6 steps." in told
    assert (out / TABLE).read_text().count("| chosen |") == 1


@pytest.mark.slow
def test_command_on_a_finished_study_writes_its_table_anew(
    finished: StudyRun, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that better words reach the table without training or measuring again."""
    assert finished.table == out / TABLE
    # the page shows the table
    written = {TABLE, "results.json", "results.csv", "report.html", MARK}
    kept = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file()
        and path.suffix != ".lock"
        and path.name not in (*written, ".lock")
    }
    assert any(path.suffix == ".safetensors" for path in kept)
    (out / TABLE).write_text("old words")
    (out / "results.csv").unlink()
    summary = "changed since it was trained"
    changed = dataclasses.replace(TINY, summary=summary)
    monkeypatch.setattr(
        "eval_recipes.commands.studies.study.study_named", lambda _: changed
    )
    result = CliRunner().invoke(app, ["study", "temporal", "--out", str(out)])
    assert result.exit_code == 0, result.output
    table = (out / TABLE).read_text(encoding="utf-8")
    assert summary in table
    assert table.count("| chosen |") == 1
    assert (out / "results.csv").is_file()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.slow
def test_damaged_figures_are_measured_again(finished: StudyRun, out: Path) -> None:
    path = out / "figures" / "choice.json"
    whole = path.read_bytes()
    digit = whole.index(b"0.") + 2
    flipped = whole[:digit] + bytes([whole[digit] ^ 1]) + whole[digit + 1 :]
    for damaged in (whole[:100], flipped, b"[" * 100_000):
        path.write_bytes(damaged)
        again = run_study(TINY, "small", out)
        assert path.read_bytes() == whole
        pd.testing.assert_frame_equal(again.frame, finished.frame)


def test_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    with study_folder(tmp_path, "tiny", "small"):
        mark_folder(tmp_path, "tiny", "small")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = dataclasses.replace(TINY, name="other")
    with pytest.raises(InputError, match="holds the study 'tiny' at scale 'small'"):
        run_study(other, "small", tmp_path)
    with pytest.raises(InputError, match="not 'tiny' at 'paper'"):
        run_study(TINY, "paper", tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.slow
def test_interrupted_study_says_so_and_goes_on(
    model_name: str,
    finished: StudyRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert model_name

    def interrupting(path: Path, record: dict[str, Any]) -> None:
        append_record(path, record)
        if record["step"] == 2 and path.stem == "plain-seed1":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("saereg_plugin.sweeps.trainer.append_record", interrupting)
        stopped = run_study(TINY, "small", tmp_path)
    assert not stopped.finished and stopped.table is None
    assert not (tmp_path / TABLE).exists()
    assert len(list(tmp_path.rglob("release.yaml"))) == 1
    resumed = run_study(TINY, "small", tmp_path)
    assert resumed.finished
    columns = ["stage", "group", "seed", "metric", "value"]
    pd.testing.assert_frame_equal(resumed.frame[columns], finished.frame[columns])


# The command


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    "name", ["frequency-weighted", "temporal", "weight-regularization", "vocabulary"]
)
def test_paper_scale_without_the_hub_is_one_clear_error_in_seconds(
    name: str, tmp_path: Path
) -> None:
    started = time.perf_counter()
    result = CliRunner().invoke(
        app, ["study", name, "--scale", "paper", "--out", str(tmp_path / "out")]
    )
    assert time.perf_counter() - started < 20
    assert isinstance(result.exception, InputError), result.output
    assert "smollm2-135m-instruct" in str(result.exception)
    assert not (tmp_path / "out" / "study.json").exists()


def test_vocabulary_groups_differ_in_the_anchor_only() -> None:
    sweep = vocabulary.STUDY.plan("small").stages[0].sweep(pd.DataFrame())
    groups = group_fields(sweep)
    bare = [{**fields, "regularizers": []} for fields in groups.values()]
    assert all(fields == bare[0] for fields in bare)
    strengths = [
        sum(penalty["coefficient"] for penalty in fields["regularizers"])
        for fields in groups.values()
    ]
    assert strengths == pytest.approx([0, 0.0576, 2.88, 288, 2880])


def test_a_device_that_is_missing_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    study = study_named(next(iter(GRID_STUDIES)))
    with pytest.raises(InputError, match="'cuda:99'"):
        run_study(study, "small", tmp_path / "out", device="cuda:99")
    assert not (tmp_path / "out").exists()
