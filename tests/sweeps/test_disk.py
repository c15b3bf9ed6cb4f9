"""A disk that is full: one error, the last checkpoint is kept, and the run resumes from it."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from saereg_plugin.errors import WriteError
from saereg_plugin.files import writing_into
from saereg_plugin.owned_folder import OwnedFolder
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.release import KIND
from saereg_plugin.sweeps import SweepConfig, run_sweep
from saereg_plugin.sweeps.checkpoint import CHECKPOINT, claim_folder
from saereg_plugin.sweeps.members import expand
from saereg_plugin.sweeps.trainer import SweepTrainer, open_trainer
from tests.faults.fault import run_command

LIMIT = 7000
"""Bytes: less than an SAE's weights or optimiser, more than the small files."""


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """As ``ulimit -f``; Python ignores the signal, so writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def sweep_on(model: Path) -> SweepConfig:
    return SweepConfig(
        model=str(model),
        hook_name="blocks.0.hook_resid_post",
        sae={"architecture": "regularized_topk", "d_sae": 64, "k": 4},
        seeds=[0],
        tokens=5 * 128,
        batch_size=128,
        context_size=64,
        prompts_per_pass=4,
        buffer_tokens=256,
        llm_dtype="float32",
        autocast=False,
        device="cpu",
        log_every=1,
        checkpoint_every=2,
    )


def trainer_with_checkpoint(sweep: SweepConfig, folder: Path) -> SweepTrainer:
    """A trainer after three of five steps, with the checkpoint of step 2."""
    trainer = open_trainer(sweep, expand(sweep), folder)
    claim_folder(sweep, trainer.owned)
    assert trainer.train(StopFlag(), steps=3)
    return trainer


def test_checkpoint_that_does_not_fit_leaves_the_old_one(
    tmp_path: Path, small_model: Path
) -> None:
    sweep = sweep_on(small_model)
    trainer = trainer_with_checkpoint(sweep, tmp_path / "out")
    with (
        file_size_limit(LIMIT),
        pytest.raises(WriteError, match=r"cannot be written .*Free space"),
    ):
        trainer.train(StopFlag())
    trainer.stream.close()
    left = {path.name for path in (tmp_path / "out" / CHECKPOINT).iterdir()}
    assert left == {"step-2"}
    told: list[str] = []
    assert run_sweep(sweep, tmp_path / "out", progress=told.append).release is not None
    assert told[-1] == "Resumes at step 2 of 5."
    assert OwnedFolder(tmp_path / "out", KIND).files() >= {"release.yaml", "README.md"}
    whole = run_sweep(sweep, tmp_path / "whole").release
    assert whole is not None and whole.folder is not None
    weights = "saes/sae-seed0/sae_weights.safetensors"
    resumed = (tmp_path / "out" / weights).read_bytes()
    assert resumed == (whole.folder / weights).read_bytes()


def test_release_that_does_not_fit_ends_with_one_error_and_status_1(
    tmp_path: Path,
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    sweep = sweep_on(small_model)
    config = tmp_path / "sweep.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(sweep.to_dict()))))
    trainer = trainer_with_checkpoint(sweep, tmp_path / "out")
    assert trainer.train(StopFlag(), steps=1)
    trainer.save_checkpoint()
    trainer.stream.close()
    command = f"train --config {config} --out {tmp_path / 'out'}"
    with file_size_limit(LIMIT):
        status, output = run_command(command, monkeypatch, capfd)
    assert status == 1, output
    assert "Traceback" not in output
    assert "Resumes at step 4 of 5." in output
    assert "cannot be written" in output and "Free space" in output
    assert not (tmp_path / "out" / "release.yaml").exists()
    status, output = run_command(command, monkeypatch, capfd)
    assert status == 0, output
    assert "Resumes at step 4 of 5." in output


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="of another kind"),
        writing_into(tmp_path, remedy="Free space."),
    ):
        raise RuntimeError("of another kind")
    with (
        pytest.raises(FileNotFoundError),
        writing_into(tmp_path, remedy="Free space."),
    ):
        (tmp_path / "missing").read_bytes()
