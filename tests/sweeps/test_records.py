"""Training records as a frame."""

from __future__ import annotations

from pathlib import Path

import pytest

import saereg_plugin as sr
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import run_sweep
from tests.sweeps.tiny import BATCH, tiny_sweep


def test_first_last_and_every_nth_step_of_each_sae_is_a_row(tmp_path: Path) -> None:
    penalty = {"name": "weight_penalty", "coefficient": 1e-3}
    groups = {"plain": {}, "l2": {"regularizers": [penalty]}}
    sweep = tiny_sweep(tokens=7 * BATCH, seeds=[0, 3], groups=groups, log_every=3)
    run_sweep(sweep, tmp_path / "rel")
    records = sr.load_records(tmp_path / "rel")
    assert list(records.columns[:2]) == ["sae_id", "step"]
    steps = records.groupby("sae_id")["step"].agg(list)
    assert steps.to_dict() == {
        f"{group}-seed{seed}": [1, 3, 6, 7] for group in groups for seed in (0, 3)
    }
    has_penalty = records["losses/weight_penalty"].notna()
    assert list(has_penalty) == list(records["sae_id"].str.startswith("l2"))


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no training records"):
        sr.load_records(tmp_path)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "records" / "a.jsonl"
    path.parent.mkdir()
    path.write_text('{"step": 1}\n{"step": \n')
    with pytest.raises(InputError, match=r"a\.jsonl' is damaged: line 2 is no JSON"):
        sr.load_records(tmp_path)
