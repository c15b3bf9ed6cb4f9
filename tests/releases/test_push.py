"""Pushes and pickled formats: what is refused or planned before the hub is asked."""

from __future__ import annotations

import inspect
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS

import saereg_plugin as sr
from saereg_plugin.files import write_text
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.releases.card import MARK, base_model, hub_card, is_old_card
from saereg_plugin.releases.hub import SNAPSHOTS, Snapshot, split_name
from saereg_plugin.releases.pickled import (
    PICKLED_FORMATS,
    load_dictionary_learning,
    require_pickle_allowed,
)
from saereg_plugin.releases.push import plan_push
from saereg_plugin.releases.release import Entry, Release
from saereg_plugin.sweeps.checkpoint import PROGRESS, checkpoint_folder
from saereg_plugin.sweeps.records import STOPPED
from saereg_plugin.sweeps.wandb_runs import RUNS_FILE
from tests.releases.hub_session import NAME

KEPT_HERE = (
    PROGRESS,
    RUNS_FILE,
    f"{checkpoint_folder(8)}/trainer.pt",
    f"{STOPPED}/sae-seed9/cfg.json",
    "saes/sae-seed0/mine.txt",
    "records/mine.jsonl",
)
"""Files of a release folder that no push sends."""


@pytest.fixture(scope="module")
def folder(trained_release: Release) -> Path:
    assert trained_release.folder is not None
    return trained_release.folder


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A release folder to change."""
    return Path(shutil.copytree(folder, tmp_path / "release"))


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


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("main", "words"),
    [("b" * 40, "at 'main' only, and 'main' of"), (None, "hub cannot be reached")],
)
def test_a_pickle_is_not_read_before_its_commit_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, main: str | None, words: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--lab--dictionaries"
    for commit in ("a" * 40, "b" * 40):
        sae = cache / "snapshots" / commit / "topk"
        write_text(sae / "config.json", "no JSON")
        write_text(sae / "ae.pt", "no pickle")
    if main is not None:
        write_text(cache / "refs" / "main", main)
    folder = cache / "snapshots" / ("a" * 40)
    snapshot = Snapshot("lab/dictionaries", "a" * 40, (), folder)
    monkeypatch.setitem(SNAPSHOTS, folder, snapshot)
    with pytest.raises(sr.InputError, match=words):
        load_dictionary_learning(str(folder), "topk")


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


def test_a_card_of_the_users_own_goes_up_as_it_is_and_the_user_is_told(
    trained_release: Release,
    copied: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = (copied / "README.md").read_text()
    assert MARK in own
    assert plan_push(copied, NAME).files[0].source == hub_card(trained_release, NAME)
    assert caplog.messages == []
    (copied / "README.md").write_text(own.replace(MARK, "My own words."))
    assert plan_push(copied, NAME).files[0].source == copied / "README.md"
    plan_push(copied, NAME, license="mit")
    first, second = caplog.messages
    assert "README.md' is your own text and goes up as it is. " in first
    assert "goes up as it is, without licence 'mit'. " in second


OLD_CARD = """---
library_name: saelens
tags: [sparse-autoencoder, saereg-plugin]
---

# r

Sparse autoencoders for `blocks.2.hook_resid_post` of `mine/model`, trained on
307,200 tokens of `mine/text`. SAEs of one group differ only in
their seed.

| SAE | group | seed | L0 at the end of training |
|---|---|---|---|
| `none-seed0` | none | 0 | 32.0 |

Stopped before the end:
- none-seed1 at step 3

## Load

With SAELens alone, one SAE by its folder:

```python
from sae_lens import SAE

sae = SAE.load_from_disk("saes/none-seed0")
```

or by its id, once saereg-plugin has told SAELens about this folder:

```python
import saereg_plugin as sr
from sae_lens import SAE

sr.register_release("path/to/r")
sae = SAE.from_pretrained("r", "none-seed0")
```

## Provenance

Trained 2026-11-22 by `saereg-bench train` with
torch 2.9.0, sae-lens 6.54.12. `release.yaml` has the whole
configuration and the SHA-256 of every file.
"""
"""A card of 0.1.0, which had no mark."""


def test_a_card_of_an_older_version_is_known_unless_it_was_edited() -> None:
    provenance = {
        "created": "2026-11-22",
        "command": "saereg-bench train",
        "versions": {"torch": "2.9.0", "sae-lens": "6.54.12"},
        "tokens": 307_200,
        "stopped": ["none-seed1 at step 3"],
        "sweep": {"hook_name": "blocks.2.hook_resid_post", "corpus": "mine/text"},
    }
    entry = Entry("none-seed0", "saes/none-seed0", "none", 0, l0=32.0)
    release = Release("r", "mine/model", (entry,), provenance=provenance)
    assert is_old_card(release, OLD_CARD)
    block = "tags:\n- sparse-autoencoder\n- saereg-plugin"
    tags = "tags: [sparse-autoencoder, saereg-plugin]"
    assert is_old_card(release, OLD_CARD.replace(tags, block))
    assert not is_old_card(release, OLD_CARD.replace(tags, f"{tags}\nlicense: mit"))
    assert not is_old_card(release, OLD_CARD + "\nMy own words.\n")


def test_a_release_of_an_older_version_gets_a_card_for_the_hub(
    trained_release: Release, copied: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained_release.model
    body = (copied / "README.md").read_text().partition(f"{MARK}\n\n")[2]
    body = body.replace(f"of `{Path(model).name}`", f"of `{model}`")
    front = OLD_CARD[: OLD_CARD.index("# r")]
    (copied / "README.md").write_text(front + body)
    card = plan_push(copied, NAME, license="mit").files[0].source
    assert card == hub_card(trained_release, NAME, license="mit")
    assert caplog.messages == []


def test_a_push_leaves_checkpoints_and_ids_of_runs_here(
    folder: Path, copied: Path
) -> None:
    for name in KEPT_HERE:
        write_text(copied / name, "{}")
    sent = [file.path for file in plan_push(copied, NAME).files]
    assert sent == [file.path for file in plan_push(folder, NAME).files]


def test_a_push_follows_no_link_out_of_the_release(
    copied: Path, tmp_path: Path
) -> None:
    record = copied / "records" / "sae-seed0.jsonl"
    record.rename(tmp_path / "private")
    record.symlink_to(tmp_path / "private")
    sent = {file.path for file in plan_push(copied, NAME).files}
    assert "records/sae-seed0.jsonl" not in sent
    assert "records/sae-seed1.jsonl" in sent


def test_only_listed_files_of_results_and_report_go_up(
    folder: Path, tmp_path: Path
) -> None:
    results, elsewhere = tmp_path / "results", tmp_path / "elsewhere"
    owned = open_owned(results, "results")
    owned.claim(["summary.csv", "core/linked.json", "linked.csv"])
    open_owned(results / "report_data", "report data").claim(["a.js"])
    for name in ("summary.csv", "report.html", "report_data/a.js", "report_data/b.js"):
        write_text(results / name, "")
    write_text(elsewhere / "linked.json", "")
    (results / "core").symlink_to(elsewhere)
    (results / "linked.csv").symlink_to(results / "summary.csv")

    def sent() -> list[str]:
        files = plan_push(folder, NAME, results=results).files
        return [file.path for file in files if file.path.startswith("results/")]

    assert sent() == ["results/report_data/a.js", "results/summary.csv"]
    (results / "report.html").unlink()
    owned.claim(["report.html"])
    write_text(results / "report.html", "")
    assert "results/report.html" in sent()


def test_a_push_of_a_damaged_release_is_refused(copied: Path) -> None:
    path = copied / "saes" / "sae-seed1" / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(sr.InputError, match="sae_weights.safetensors' is damaged"):
        sr.push(copied, NAME)


def test_a_card_for_a_branch_loads_that_branch(trained_release: Release) -> None:
    card = hub_card(trained_release, NAME, revision="v1")
    assert f'snapshot_download("{NAME}", revision="v1"' in card
    assert f'sr.register_release("{NAME}@v1")' in card
