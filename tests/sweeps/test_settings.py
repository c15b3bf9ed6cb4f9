"""Settings that a sweep leaves to the machine, and training anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from saereg_plugin import InputError, machine
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.release import KIND
from saereg_plugin.sweeps import run_sweep
from saereg_plugin.sweeps.checkpoint import SWEEP_FILE, claim_folder, settled
from saereg_plugin.sweeps.config import SweepConfig
from tests.sweeps.tiny import BATCH, fields, tiny_sweep

OPEN = {"device": "auto", "llm_dtype": "auto", "autocast": "auto"}


def test_a_sweep_leaves_device_data_type_and_autocast_to_the_machine() -> None:
    named = fields()
    for name in OPEN:
        del named[name]
    sweep = SweepConfig(**named)
    assert {name: getattr(sweep, name) for name in OPEN} == OPEN
    chosen = settled(sweep, None)
    fast = machine.fast_dtype(chosen.device)
    assert chosen.device == machine.resolve_device("auto")
    assert chosen.llm_dtype == fast
    assert chosen.autocast is (fast == "bfloat16")
    assert replace(chosen, **OPEN) == sweep


def test_named_settings_are_kept() -> None:
    sweep = tiny_sweep(device="cpu", llm_dtype="float64", autocast=False)
    assert settled(sweep, None) == sweep
    half = settled(replace(sweep, llm_dtype="auto", autocast=True), None)
    assert half.llm_dtype == machine.fast_dtype("cpu")
    assert half.autocast is True


@pytest.mark.parametrize("autocast", [True, False])
def test_recorded_settings_are_kept_on_another_machine(
    tmp_path: Path, autocast: bool
) -> None:
    recorded = tiny_sweep(device="cuda:7", llm_dtype="float16", autocast=autocast)
    claim_folder(recorded, open_owned(tmp_path, KIND))
    assert settled(tiny_sweep(**OPEN), tmp_path) == recorded


def test_a_device_that_is_missing_is_refused_before_the_data_type_is_chosen() -> None:
    with pytest.raises(InputError, match="'cuda:99'.*'auto'.*'cpu'"):
        settled(tiny_sweep(device="cuda:99", llm_dtype="auto"), None)


def test_fresh_trains_anew_and_keeps_the_files_of_the_user(tmp_path: Path) -> None:
    short = {"tokens": 2 * BATCH, "seeds": [0], "groups": {"plain": {}}}
    first = tiny_sweep(**short)
    out = tmp_path / "out"
    told: list[str] = []
    assert run_sweep(first, out, progress=told.append).release is not None
    assert told == [
        f"Trains 1 SAE for 2 steps of {BATCH} tokens on cpu without autocast; the language model is "
        "in float32."
    ]
    (out / "notes.txt").write_text("mine")
    run_sweep(first, out, progress=told.append)
    assert told[-1] == (
        "The SAE of release 'out' is trained already; --fresh trains anew."
    )
    second = replace(first, lr=2e-3)
    with pytest.raises(InputError, match="holds another sweep: lr is"):
        run_sweep(second, out)
    weights = out / "saes/plain-seed0/sae_weights.safetensors"
    before = weights.read_bytes()
    assert run_sweep(second, out, fresh=True).release is not None
    assert weights.read_bytes() != before
    assert json.loads((out / SWEEP_FILE).read_text())["lr"] == 2e-3
    assert (out / "notes.txt").read_text() == "mine"


def test_fresh_keeps_the_release_where_the_text_cannot_be_read(tmp_path: Path) -> None:
    short = {"tokens": 2 * BATCH, "seeds": [0], "groups": {"plain": {}}}
    first, out = tiny_sweep(**short), tmp_path / "out"
    run_sweep(first, out)
    (out / "notes.txt").write_text("mine")
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    wrong = replace(first, corpus=str(tmp_path / "no-such-text"))
    with pytest.raises(InputError, match="no-such-text"):
        run_sweep(wrong, out, fresh=True)
    assert {p: p.read_bytes() for p in before} == before
    assert run_sweep(first, out).release is not None
    assert run_sweep(first, out, fresh=True).release is not None


def test_fresh_refuses_bad_input_before_it_removes_anything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim_folder(tiny_sweep(), open_owned(out, KIND))
    with pytest.raises(InputError, match="'cuda:99'"):
        run_sweep(tiny_sweep(device="cuda:99"), out, fresh=True)
    assert (out / SWEEP_FILE).is_file()


def test_a_sweep_of_a_device_that_is_missing_here_says_what_to_do(
    tmp_path: Path,
) -> None:
    claim_folder(tiny_sweep(device="cuda:7"), open_owned(tmp_path, KIND))
    with pytest.raises(
        InputError, match="begun on device 'cuda:7', which this machine"
    ):
        run_sweep(tiny_sweep(device="auto"), tmp_path)
