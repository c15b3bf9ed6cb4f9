"""Folders of SAEs that SAELens saved, without a manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from sae_lens import SAE

from eval_recipes.cross_seed.roles import matched_to
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import run_evals, subjects_of
from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.hashes import verify_files
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import KIND, MANIFEST
from tests.eval_recipes.tiny_saes import tiny_sae

IDS = ["a/seed0", "a/seed1", "b/deep/er/seed0"]


@pytest.fixture
def runs(tmp_path: Path, model_name: str) -> Path:
    """Three SAEs as SAELens saves them, among other files."""
    folder = tmp_path / "runs"
    for number, name in enumerate(IDS):
        sae = tiny_sae(model_name, "blocks.0.hook_resid_post", torch.zeros(576), number)
        sae.save_model(folder / name)
    (folder / "notes.txt").write_text("mine")
    (folder / "b" / "cfg.json").write_text("{}")
    return folder


def test_saes_are_found_by_their_paths_and_load_as_saelens_loads_them(
    runs: Path, model_name: str
) -> None:
    release = open_release(runs)
    assert (release.name, release.model) == ("runs", model_name)
    assert release.ids == IDS
    assert release.groups == {name: [name] for name in IDS}
    for name in IDS:
        loaded, own = release.load(name), SAE.load_from_disk(runs / name)
        assert torch.equal(loaded.W_dec, own.W_dec)
        assert loaded.cfg == own.cfg


def test_an_expression_tells_groups_and_seeds(runs: Path) -> None:
    subjects = subjects_of(runs, group_by=r"/seed(?P<seed>\d+)")
    found = [(one.sae_id, one.group, one.seed) for one in subjects]
    assert found == [
        ("a/seed0", "a", 0),
        ("a/seed1", "a", 1),
        ("b/deep/er/seed0", "b/deep/er", 0),
    ]
    assert {matched_to(one) for one in subjects} == {None}


def test_a_folder_that_is_an_sae_itself_is_a_release_of_one(runs: Path) -> None:
    release = open_release(runs / "a" / "seed1")
    assert release.ids == ["seed1"]
    own = SAE.load_from_disk(runs / "a" / "seed1")
    assert torch.equal(release.load("seed1").W_dec, own.W_dec)


def test_seeds_of_such_a_folder_are_compared(runs: Path, tmp_path: Path) -> None:
    context = RunContext(
        subjects=subjects_of(runs, patterns=["a/*"], group_by=r"/seed(?P<seed>\d+)"),
        out=tmp_path / "out",
        options={"cross_seed": {"n_resamples": 20, "reconstruction_shares": False}},
    )
    outcome = run_evals(["cross_seed"], context)
    assert outcome.failures == []
    shared = outcome.frame.loc[outcome.frame["metric"] == "shared/shared"]
    assert sorted(shared["sae_id"]) == ["a/seed0", "a/seed1"]


def test_trained_anew_an_sae_is_read_anew(runs: Path, model_name: str) -> None:
    release = open_release(runs)
    before = release.load("a/seed0").W_dec
    sae = tiny_sae(model_name, "blocks.0.hook_resid_post", torch.zeros(576), 7)
    sae.save_model(runs / "a/seed0")
    assert not torch.equal(release.load("a/seed0").W_dec, before)


def test_weights_of_another_size_than_the_configuration_are_refused(runs: Path) -> None:
    cfg = runs / "a/seed0/cfg.json"
    cfg.write_text(cfg.read_text().replace('"d_sae": 256', '"d_sae": 512'))
    with pytest.raises(InputError, match="512"):
        subjects_of(runs)


def test_a_folder_without_saes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(
        InputError, match="no release.yaml, and in it and 4 levels below"
    ):
        open_release(tmp_path)


def test_training_that_is_not_finished_is_still_refused(runs: Path) -> None:
    folder = runs / "unfinished"
    open_owned(folder, KIND)
    with pytest.raises(InputError, match="training is not finished"):
        open_release(folder)


def test_a_folder_of_releases_is_refused(runs: Path) -> None:
    (runs / "b" / MANIFEST).write_text("a: 1")
    with pytest.raises(InputError, match="is no release folder, but holds one: .*/b'"):
        open_release(runs)


def test_an_sae_with_another_one_of_its_name_is_refused(runs: Path) -> None:
    shutil.copytree(runs / "a" / "seed0", runs / "a" / "seed1" / "seed1")
    with pytest.raises(InputError, match="holds another one called 'seed1'"):
        open_release(runs / "a" / "seed1")


def test_a_release_that_lost_its_manifest_is_not_read_without_hashes(
    tmp_path: Path, model_name: str
) -> None:
    folder = open_owned(tmp_path / "release", KIND).path
    sae = tiny_sae(model_name, "blocks.0.hook_resid_post", torch.zeros(576), 0)
    sae.save_model(folder / "a")
    with pytest.raises(InputError, match="training is not finished"):
        verify_files(folder, "a")
