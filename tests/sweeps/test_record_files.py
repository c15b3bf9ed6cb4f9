"""Training records as CSV and as TensorBoard's files, read back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import saereg_plugin as sr
from eval_recipes.cli import app
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps.record_files import write_csv, write_events

LINES = """\
{"step": 1, "tokens": 256, "loss": 2.5, "losses/mse_loss": 2.0, "l0": 8.0}
{"step": 4, "tokens": 1024, "loss": null, "losses/mse_loss": 1.5, "l0": 8.5}
"""
STOPPED = '{"step": 5, "event": "stopped", "reason": "loss, \\"nan\\""}\n'


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "rel"
    (folder / "records").mkdir(parents=True)
    (folder / "records" / "a-seed0.jsonl").write_text(LINES)
    (folder / "records" / "b-seed0.jsonl").write_text(LINES + STOPPED)
    return folder


def export(release: Path, form: str, *flags: str) -> str:
    arguments = ["export", "records", str(release), "--to", form, *flags]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_csv_holds_the_rows_of_load_records(release: Path, tmp_path: Path) -> None:
    said = export(release, "csv")
    path = tmp_path / "rel-records" / "records.csv"
    assert str(path) in said
    read = pd.read_csv(path)
    pd.testing.assert_frame_equal(read, sr.load_records(release), check_dtype=False)
    assert read["reason"].iloc[-1] == 'loss, "nan"'


def test_tensorboard_reads_a_run_per_sae(release: Path, tmp_path: Path) -> None:
    out = tmp_path / "boards"
    said = export(release, "tensorboard", "--out", str(out))
    assert "Wrote 2 runs" in said
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert [path.name for path in folders] == ["a-seed0", "b-seed0"]
    for folder in folders:
        board = EventAccumulator(str(folder))
        board.Reload()
        assert board.Tags()["scalars"] == ["tokens", "loss", "losses/mse_loss", "l0"]
        read = {
            tag: [(event.step, event.value) for event in board.Scalars(tag)]
            for tag in ("loss", "losses/mse_loss", "l0")
        }
        assert read == {
            "loss": [(1, 2.5)],
            "losses/mse_loss": [(1, 2.0), (4, 1.5)],
            "l0": [(1, 8.0), (4, 8.5)],
        }


def test_equal_records_give_equal_bytes(release: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        write_csv(release, tmp_path / f"{number}")
        write_events(release, tmp_path / f"{number}")
    names = ["records.csv", "a-seed0/events.out.tfevents.0.saereg"]
    for name in names:
        first, second = ((tmp_path / n / name).read_bytes() for n in ("1", "2"))
        assert first == second
        assert first


def test_without_tensorboard_the_extra_is_named(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(InputError, match=r'pip install "saereg-plugin\[tensorboard\]"'):
        write_events(release, release / "out")


@pytest.mark.parametrize("write", [write_csv, write_events])
def test_files_of_others_are_not_replaced(
    write: Callable[[Path, Path], object], release: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "records.csv").write_text("mine")
    with pytest.raises(InputError, match=r"this package did not write: 'records\.csv'"):
        write(release, out)
    assert [path.name for path in out.iterdir()] == ["records.csv"]
    assert (out / "records.csv").read_text() == "mine"


def test_own_files_are_updated(release: Path, tmp_path: Path) -> None:
    first = write_csv(release, tmp_path / "out").read_text()
    (release / "records" / "c-seed0.jsonl").write_text(LINES)
    assert len(write_csv(release, tmp_path / "out").read_text()) > len(first)


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training records"):
        write_csv(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
