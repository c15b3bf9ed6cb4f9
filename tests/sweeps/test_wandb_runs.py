"""Runs of Weights & Biases, written offline and read back."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import wandb
from sae_lens import LoggingConfig

import saereg_plugin as sr
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig, SweepTrainer, run_sweep, wandb_logger
from tests.sweeps.tiny import BATCH, PENALTY, tiny_sweep
from tests.sweeps.wandb_files import WrittenRun, read_runs

IDS = ["plain-seed0", "l2-seed0"]
STEPS = 6
UPSTREAM = {
    "losses/overall_loss": "loss",
    "losses/mse_loss": "losses/mse_loss",
    "metrics/explained_variance": "explained_variance",
    "metrics/l0": "l0",
    "sparsity/dead_features": "dead",
    "details/n_training_samples": "tokens",
    "details/gradient_norm": "gradient_norm",
}
"""SAELens' names, and those of the training records."""


@pytest.fixture
def wandb_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where wandb writes in this test, offline and without a login."""
    # wandb reads the environment once a process
    wandb.teardown()
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield tmp_path / "WANDB_DIR"
    # a test may have killed wandb's process
    with suppress(ConnectionError):
        wandb.teardown()


def sweep(**changes: Any) -> SweepConfig:
    groups = {"plain": {}, "l2": {"regularizers": [PENALTY]}}
    values = {"tokens": STEPS * BATCH, "seeds": [0], "groups": groups, **changes}
    return tiny_sweep(**values)


def written(folder: Path) -> dict[str, list[WrittenRun]]:
    """Every run, once wandb's process has written all of it."""
    wandb.teardown()
    return read_runs(folder)


def only(runs: dict[str, list[WrittenRun]]) -> dict[str, WrittenRun]:
    assert all(len(files) == 1 for files in runs.values())
    return {name: files[0] for name, files in runs.items()}


def test_each_sae_is_a_run_of_the_releases_group_with_what_sae_lens_logs(
    wandb_folder: Path, tmp_path: Path
) -> None:
    logger = LoggingConfig(
        wandb_project="tiny", wandb_log_frequency=2, eval_every_n_wandb_logs=2
    )
    said: list[str] = []
    out = tmp_path / "rel"
    run_sweep(sweep(), out, logger=logger, progress=said.append)
    runs = only(written(wandb_folder))
    assert sorted(runs) == sorted(IDS)
    assert len({run.id for run in runs.values()}) == 2
    records = sr.load_records(out).set_index(["sae_id", "step"])
    for name, run in runs.items():
        assert (run.project, run.group, run.exit_code) == ("tiny", "rel", 0)
        assert run.config["sae"]["d_sae"] == 128
        assert run.config["seed"] == 0
        # SAELens numbers a step by the steps before
        assert sorted(run.steps) == [1, 3, 5]
        for step, values in run.steps.items():
            record = records.loc[(name, step + 1)]
            for theirs, ours in UPSTREAM.items():
                assert values[theirs] == pytest.approx(record[ours], rel=1e-5), theirs
        has_histogram = [
            step
            for step, values in run.steps.items()
            if any(name.startswith("weights/W_dec_norms") for name in values)
        ]
        assert has_histogram == [3]
    penalties = ["losses/weight_penalty" in runs[name].steps[1] for name in IDS]
    assert penalties == [False, True]
    assert runs["plain-seed0"].artifacts == {
        "rel-plain-seed0": ["cfg.json", "sae_weights.safetensors"],
        "rel-plain-seed0_log_feature_sparsity": ["sparsity.safetensors"],
    }
    (line,) = [text for text in said if "wandb sync" in text]
    assert "Offline, 2 runs are written" in line
    assert "project 'tiny', group 'rel'" in line


def test_resumed_training_resumes_its_runs(
    wandb_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_step = SweepTrainer._one_step

    def stopping(trainer: SweepTrainer) -> None:
        one_step(trainer)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    wanted, out = sweep(log_every=1), tmp_path / "rel"
    logger = wandb_logger(wanted, "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(SweepTrainer, "_one_step", stopping)
        assert run_sweep(wanted, out, logger=logger).release is None
    first = only(written(wandb_folder))
    assert [run.exit_code for run in first.values()] == [1, 1]
    assert run_sweep(wanted, out, logger=logger).release is not None
    for name, files in written(wandb_folder).items():
        begun, resumed = files
        assert begun.id == resumed.id == first[name].id
        assert sorted(begun.steps) == [0, 1, 2]
        assert sorted(resumed.steps) == [3, 4, 5]
        assert resumed.exit_code == 0
    ids = json.loads((out / "wandb.json").read_text())["runs"]
    assert ids == {name: run.id for name, run in first.items()}


@pytest.mark.usefixtures("wandb_folder")
def test_without_a_login_nothing_is_trained_and_the_folder_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    logger = LoggingConfig(wandb_project="tiny")
    with pytest.raises(InputError, match="No API key configured.*WANDB_MODE=offline"):
        run_sweep(sweep(), tmp_path / "rel", logger=logger)
    assert list((tmp_path / "rel").iterdir()) == []


@pytest.mark.usefixtures("wandb_folder")
def test_a_training_without_runs_leaves_wandb_alone(tmp_path: Path) -> None:
    run_sweep(sweep(tokens=BATCH, groups={"plain": {}}), tmp_path / "rel")
    found = [path for path in tmp_path.glob("WANDB_*/**/*") if path.is_file()]
    assert found == []
    assert list((tmp_path / "WANDB_DATA_DIR").iterdir()) == []


@pytest.mark.usefixtures("wandb_folder")
def test_a_training_ends_well_when_its_files_cannot_be_copied_for_wandb(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    causes = iter([OSError(28, "No space left on device"), ValueError("no such name")])

    def failing(*_: object) -> None:
        raise next(causes)

    monkeypatch.setattr(wandb.Artifact, "add_file", failing)
    wanted = sweep(tokens=BATCH)
    with caplog.at_level(logging.WARNING):
        logger = wandb_logger(wanted, "tiny")
        result = run_sweep(wanted, tmp_path / "rel", logger=logger)
    assert result.release is not None
    assert result.release.ids == IDS
    warned = [r.message for r in caplog.records if "wandb run of" in r.message]
    assert ["No space left" in line for line in warned] == [True, False]
    assert "no such name" in warned[1]


@pytest.mark.usefixtures("wandb_folder")
def test_a_name_that_wandb_refuses_is_one_clear_error(tmp_path: Path) -> None:
    logger = LoggingConfig(wandb_project="a/b?")
    with pytest.raises(InputError, match="project 'a/b\\?': Invalid project name"):
        run_sweep(sweep(), tmp_path / "rel", logger=logger)


@pytest.mark.usefixtures("wandb_folder")
def test_training_ends_well_when_wandb_dies_on_the_way(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one_step = SweepTrainer._one_step

    def killing(trainer: SweepTrainer) -> None:
        one_step(trainer)
        if trainer.step == 2:
            kill_wandb()

    monkeypatch.setattr(SweepTrainer, "_one_step", killing)
    wanted = sweep(log_every=1)
    with caplog.at_level(logging.WARNING):
        logger = wandb_logger(wanted, "tiny")
        result = run_sweep(wanted, tmp_path / "rel", logger=logger)
    assert result.release is not None
    assert result.release.ids == IDS
    warned = [r.message for r in caplog.records if "wandb run of" in r.message]
    assert len(warned) == 2


def kill_wandb() -> None:
    """Kill the process with which wandb writes."""
    service = [p for p in psutil.Process().children() if p.name() == "wandb-core"]
    assert service
    for process in service:
        process.kill()
        process.wait(10)
