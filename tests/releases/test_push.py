"""Pushes and pickled formats: what is refused or planned before the hub is asked."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

import saereg_plugin as sr
from saereg_plugin.releases.card import MARK, base_model, hub_card
from saereg_plugin.releases.hub import split_name
from saereg_plugin.releases.pickled import PICKLED_FORMATS, require_pickle_allowed
from saereg_plugin.releases.push import plan_push
from saereg_plugin.releases.release import Release
from tests.releases.hub_session import NAME


@pytest.fixture(scope="module")
def folder(trained_release: Release) -> Path:
    assert trained_release.folder is not None
    return trained_release.folder


def test_the_list_of_pickled_formats_is_that_of_saelens() -> None:
    reads = {
        name
        for name, loader in NAMED_PRETRAINED_SAE_LOADERS.items()
        if "torch.load(" in inspect.getsource(loader) and not name.startswith("saereg")
    }
    assert reads == PICKLED_FORMATS


def test_a_lifted_restriction_of_pytorch_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(sr.InputError, match="lets pickle files run code; .* Unset it"):
        require_pickle_allowed("x", allowed=True)


# Names, plans and cards


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("lab/saes", ("lab/saes", None)),
        ("lab/saes@v1", ("lab/saes", "v1")),
        ("lab/saes@refs/pr/1", ("lab/saes", "refs/pr/1")),
        ("./saes", None),
        ("saes", None),
        ("a/b/c", None),
    ],
)
def test_a_name_of_the_hub_has_one_slash(name: str, found: object) -> None:
    assert split_name(name) == found


@pytest.mark.parametrize("name", ["saes", "lab/sa es", "lab/saes@v1", "lab/--", ""])
def test_a_push_needs_owner_and_name(folder: Path, name: str) -> None:
    with pytest.raises(sr.InputError, match="names no hub repository"):
        plan_push(folder, name)


@pytest.mark.parametrize("revision", ["0" * 40, ""])
def test_a_push_needs_a_branch(folder: Path, revision: str) -> None:
    with pytest.raises(sr.InputError, match="expected the name of a branch"):
        plan_push(folder, NAME, revision=revision)


def test_a_push_of_a_folder_that_holds_no_results_is_refused(folder: Path) -> None:
    with pytest.raises(sr.InputError, match="is no folder of results"):
        plan_push(folder, NAME, results=folder)


def test_the_card_names_licence_model_and_data(trained_release: Release) -> None:
    sweep = {**trained_release.provenance["sweep"], "corpus": "owner/text"}
    release = Release(
        "r",
        "pythia-70m-deduped",
        trained_release.entries,
        provenance={**trained_release.provenance, "sweep": sweep},
    )
    data = ModelCard(hub_card(release, NAME, license="mit")).data.to_dict()
    assert data == {
        "library_name": "saelens",
        "base_model": "EleutherAI/pythia-70m-deduped",
        "datasets": ["owner/text"],
        "license": "mit",
        "tags": ["sparse-autoencoder", "saelens", "saereg-plugin"],
    }


def test_a_model_in_a_folder_is_no_base_model(trained_release: Release) -> None:
    assert Path(trained_release.model).is_dir()
    assert base_model(trained_release.model) is None
    assert base_model("smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    card = hub_card(trained_release, NAME)
    assert "base_model" not in card
    assert f"of `{Path(trained_release.model).name}`" in card


def test_a_card_of_the_users_own_goes_up_as_it_is(
    trained_release: Release, folder: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "release"))
    own = (folder / "README.md").read_text()
    assert MARK in own
    assert plan_push(copied, NAME).files[0].source == hub_card(trained_release, NAME)
    (copied / "README.md").write_text(own.replace(MARK, "My own words."))
    assert plan_push(copied, NAME).files[0].source == copied / "README.md"


def test_a_push_of_a_damaged_release_is_refused(folder: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / "release"))
    path = copied / "saes" / "sae-seed1" / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(sr.InputError, match="sae_weights.safetensors' is damaged"):
        sr.push(copied, NAME)


def test_a_card_for_a_branch_loads_that_branch(trained_release: Release) -> None:
    card = hub_card(trained_release, NAME, revision="v1")
    assert f'snapshot_download("{NAME}", revision="v1"' in card
    assert f'sr.register_release("{NAME}@v1")' in card
