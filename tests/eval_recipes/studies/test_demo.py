"""The demo's folder: its own, resumed, kept."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from eval_recipes.studies.demo import train_demo
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps.records import append_record
from tests.sweeps.tiny import tiny_sweep


def test_a_folder_of_the_users_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").write_text("mine")
    with pytest.raises(InputError, match="did not write: 'thesis'"):
        train_demo(tmp_path, progress=list[str]().append)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


@pytest.mark.slow
def test_an_interrupted_demo_resumes_and_a_finished_one_is_kept(
    model_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_name
    monkeypatch.setattr("eval_recipes.studies.demo.DEMO_SWEEP", tiny_sweep())

    def interrupting(path: Path, record: dict[str, Any]) -> None:
        append_record(path, record)
        if record["step"] == 2 and path.stem == "plain-seed0":
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr("saereg_plugin.sweeps.trainer.append_record", interrupting)
        assert train_demo(tmp_path, progress=list[str]().append).release is None
    assert train_demo(tmp_path, progress=list[str]().append).release is not None
    files = list(tmp_path.rglob("sae_weights.safetensors"))
    before = [path.stat().st_mtime_ns for path in files]
    assert train_demo(tmp_path, progress=list[str]().append).seconds == 0
    assert len(files) == 4 and [path.stat().st_mtime_ns for path in files] == before
