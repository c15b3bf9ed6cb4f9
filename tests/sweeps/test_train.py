"""Training, opening and loading from Python, as a notebook does it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.html import html_block
from saereg_plugin.releases.release import Entry, read_release
from saereg_plugin.sweeps import SweepResult
from tests.sweeps.tiny import D_IN, HOOK, fields, tiny_sweep

pytestmark = pytest.mark.slow

IDS = ["plain-seed0", "plain-seed1", "l2-seed0", "l2-seed1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return sr.train(out=tmp_path_factory.mktemp("python") / "tiny-python", **fields())


def release_of(result: SweepResult) -> sr.Release:
    assert result.release is not None
    return result.release


def test_trained_release_loads_its_saes_at_once(trained: SweepResult) -> None:
    release = release_of(trained)
    assert release.ids == IDS
    assert release.groups == {"plain": IDS[:2], "l2": IDS[2:]}
    sae = release.load("l2-seed0")
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (D_IN, 128)
    assert sae.cfg.metadata.hook_name == HOOK


def test_same_call_with_a_sweep_finds_the_finished_release(
    trained: SweepResult,
) -> None:
    said: list[str] = []
    folder = release_of(trained).folder
    assert folder is not None
    again = sr.train(tiny_sweep(), out=str(folder), progress=said.append)
    (line,) = said
    assert "4 SAEs of release 'tiny-python' are trained already" in line
    assert release_of(again).ids == IDS


def test_two_folders_of_one_name_load_their_own_weights(
    trained: SweepResult, tmp_path: Path
) -> None:
    first = release_of(trained)
    other = sr.train(
        out=tmp_path / "tiny-python",
        **fields(groups={"plain": {}}, seeds=[0], seed=5),
    )
    weights = [r.load("plain-seed0").W_dec for r in (first, release_of(other))]
    assert not torch.equal(*weights)
    assert first.folder is not None
    reopened = sr.open_release(first.folder).load("plain-seed0")
    assert torch.equal(reopened.W_dec, weights[0])


def test_unknown_sae_names_the_nearest(trained: SweepResult) -> None:
    with pytest.raises(sr.InputError, match="Did you mean 'l2-seed0'"):
        release_of(trained).load("l2-sed0")


def test_release_that_was_only_read_says_how_to_open_it(
    trained: SweepResult, tmp_path: Path
) -> None:
    folder = release_of(trained).folder
    assert folder is not None
    moved = replace(read_release(folder), folder=tmp_path / "moved")
    with pytest.raises(sr.InputError, match=r"Open it with saereg_plugin.open_release"):
        moved.load("l2-seed0")


def test_sweep_and_fields_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(sr.InputError, match="'tokens'; expected one of both"):
        sr.train(tiny_sweep(), out=tmp_path / "a", tokens=5)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token": 5}, "train: unknown field 'token'. Did you mean 'tokens'?"),
        ({"tokens": 0}, "train: tokens=0; expected at least 1"),
    ],
)
def test_wrong_field_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(sr.InputError) as caught:
        sr.train(out=tmp_path / "a", **{**fields(), **changes})
    assert message in str(caught.value)


def test_d_in_is_found_for_sae_lens_configurations() -> None:
    model = fields()["model"]
    assert sr.d_in_of(model, HOOK) == D_IN
    heads = "blocks.0.attn.hook_q"
    assert sr.d_in_of(model, heads, head=0) * 9 == sr.d_in_of(model, heads)
    with pytest.raises(sr.InputError, match="Did you mean 'blocks.0.hook_resid_post'"):
        sr.d_in_of(model, "blocks.0.hook_resid_pos")


def test_outcome_and_release_show_themselves_in_a_notebook(
    trained: SweepResult,
) -> None:
    release = release_of(trained)
    shown = release._repr_html_()
    assert all(sae_id in shown for sae_id in IDS)
    assert "<table" in shown
    outcome = replace(trained, stopped=["l2-seed0: <b>loss</b>"])._repr_html_()
    assert shown in outcome
    assert "&lt;b&gt;loss" in outcome
    assert "<b>loss" not in outcome
    assert "Interrupted" in replace(trained, release=None)._repr_html_()


def test_html_escapes_every_text() -> None:
    frame = pd.DataFrame({"<i>": ["<script>alert(1)</script>"], "x": [0.123456]})
    shown = html_block("<b>\x1b[2J", frame, "a & b", frame.iloc[:0], "")
    assert "<script>" not in shown
    assert "<i>" not in shown
    assert "<b>" not in shown
    assert "\x1b" not in shown
    assert "0.1235" in shown
    assert shown.count("<table") == 1
    assert shown.count("<p>") == 2


def test_release_name_of_another_cannot_hold_markup() -> None:
    entry = Entry("<script>", "a", "<script>", None)
    shown = sr.Release("<script>", "<script>", (entry,))._repr_html_()
    assert "<script>" not in shown
    assert shown.count("&lt;script&gt;") == 4
