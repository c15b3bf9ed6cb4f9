"""Releases on the hub: pushed, loaded at one commit, evaluated, refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from saereg_plugin.files import write_text
from saereg_plugin.releases.release import Release
from tests.hub_server import READ_TOKEN, TOKEN
from tests.releases.hub_session import NAME
from tests.releases.test_push import KEPT_HERE

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(trained_release: Release) -> Path:
    assert trained_release.folder is not None
    return trained_release.folder


@pytest.fixture(scope="module")
def place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """
    The folder in which a process of its own went through all steps with a hub.

    The release that it pushes also has a checkpoint, and ids of Weights & Biases.
    """
    out = tmp_path_factory.mktemp("hub")
    release = Path(shutil.copytree(folder, out / "release"))
    for name in KEPT_HERE:
        write_text(release / name, "{}")
    done = subprocess.run(
        [sys.executable, "-m", "tests.releases.hub_session", str(release), str(out)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    (out / "process.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def session(place: Path) -> dict[str, Any]:
    return json.loads((place / "session.json").read_text())


@pytest.fixture(scope="module")
def steps(session: dict[str, Any]) -> dict[str, Any]:
    return session["steps"]


@pytest.fixture(scope="module")
def facts(session: dict[str, Any]) -> dict[str, Any]:
    return session["facts"]


pytestmark = pytest.mark.slow


def test_the_hub_got_no_wrong_request(facts: dict[str, Any]) -> None:
    assert facts["wrong"] == []
    assert facts["asked"]["commit"] >= 3


# Push


def test_a_dry_run_lists_files_and_asks_nothing(
    steps: dict[str, Any], facts: dict[str, Any]
) -> None:
    said = steps["dry run"]
    assert said["status"] == 0
    assert facts["asked by a dry run"] == {}
    assert re.search(r"saes/sae-seed0/sae_weights.safetensors +\d[\d,]+\n", said["out"])
    assert re.search(rf"\d+ files, [\d,]+ bytes, to {NAME}, branch main", said["out"])


@pytest.mark.parametrize(
    ("step", "status", "words"),
    [
        ("no token", 2, "there is no token of the hub. Log in with `hf auth login`"),
        ("wrong token", 2, r"the token is not valid \(401\).* Log in with"),
        ("token that reads", 2, r"the token may not do that \(403\), .* may write"),
        ("owner of others", 2, r"may not do that \(403\), and says .*don't have the"),
        ("404", 2, r"there is no such repository, or it is private \(404\)"),
        ("409", 1, r"by somebody else at the same time \(409\).*Run the command again"),
        ("429", 1, r"too many requests \(429\).* Wait 7 seconds and run the command"),
        ("500", 1, r"the hub has a fault \(500\).* Run the command again later"),
        ("cut", 1, r"or the connection broke \(\w+\)\. Check the network and run"),
        ("cut at the commit", 1, r"broke \(\w+\)\. .* sent already is not sent again"),
        ("a large file is refused", 2, r"the hub refuses \(400\)"),
        ("private after all", 2, "is public already; --private only makes a new one"),
    ],
)
def test_a_refused_push_is_one_line_that_says_what_to_do(
    steps: dict[str, Any], step: str, status: int, words: str
) -> None:
    said = steps[step]
    assert said["status"] == status, said
    (line,) = [line for line in said["err"].splitlines() if "error:" in line]
    assert re.search(words, line), line
    assert said["err"].strip().splitlines()[-1] == line
    assert "Traceback" not in said["err"]
    assert repr(NAME) in line or "other/saes" in line


def test_nothing_is_on_the_hub_before_a_push_may_begin(facts: dict[str, Any]) -> None:
    assert facts["before"] == []


def test_an_interrupted_push_sends_each_large_file_once(facts: dict[str, Any]) -> None:
    large = [
        f for f in facts["commits"][-1][2] if f.endswith((".safetensors", ".parquet"))
    ]
    assert len(large) - 1 == facts["large files before"]
    assert (facts["sent again"], facts["sent at last"]) == (1, 0)


def test_a_push_is_one_commit_without_checkpoints_and_ids_of_runs(
    steps: dict[str, Any], facts: dict[str, Any], trained_release: Release
) -> None:
    first, ours = facts["commits"]
    assert first[1] == "initial commit"
    oid, _, files = ours
    saes = [f"{e.path}/{f}" for e in trained_release.entries for f in e.files]
    records = [f"records/{sae_id}.jsonl" for sae_id in trained_release.ids]
    known = {".gitattributes", "README.md", "release.yaml", *saes, *records}
    assert set(files) - {"vocabulary_alignment.parquet"} == known
    assert f"Commit {oid}\n" in steps["push"]["out"]
    assert re.search(rf"http://127.*/{NAME}/commit/{oid}\n", steps["push"]["out"])
    again = steps["push again"]
    assert again["status"] == 0
    assert "has these files already" in again["out"]
    assert f"Commit {oid}\n" in again["out"]


def test_a_branch_of_a_private_repository_gets_the_release(
    steps: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert steps["branch"]["status"] == 0
    assert facts["private"]
    assert facts["branches"]["main"] == 1
    assert facts["branches"]["v1"] > 5


def test_results_go_up_with_their_report_and_nothing_else(
    steps: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert steps["push results"]["status"] == 0
    pushed = facts["pushed results"]
    assert "results/summary.csv" in pushed
    assert "results/report.html" in pushed
    assert len([f for f in pushed if f.endswith("_eval_results.json")]) == 2
    assert not [f for f in pushed if "mine" in f or "/." in f]
    assert "`results/` has" in facts["card with results"]
    assert "`results/` has" not in facts["card"]


def test_the_token_is_in_no_output_and_no_file(
    place: Path, steps: dict[str, Any]
) -> None:
    assert "says '*** may not" in steps["echo"]["err"]
    texts = [path.read_bytes() for path in place.rglob("*") if path.is_file()]
    assert len(texts) > 10
    for token in (TOKEN, READ_TOKEN):
        assert not [text for text in texts if token.encode() in text]
        assert not [s for s in steps.values() if token in s["out"] + s["err"]]


# Load and evaluate


@pytest.mark.parametrize("way", ["alone", "branch", "pinned", "newest", "release"])
def test_a_pushed_sae_has_the_weights_of_the_local_one(
    facts: dict[str, Any], way: str
) -> None:
    assert facts["equal weights"][way]


def test_an_opened_repository_is_named_by_its_commit(facts: dict[str, Any]) -> None:
    opened, newest, pinned = facts["names"]
    assert opened == newest == pinned
    on_hub, local = facts["groups"]
    assert on_hub == local


def test_what_is_in_the_cache_opens_while_the_hub_is_out_of_reach(
    facts: dict[str, Any],
) -> None:
    assert facts["out of reach"] == 256
    assert facts["downloads out of reach"] == 0


def test_a_pinned_release_is_evaluated(
    steps: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert steps["evaluate"]["status"] == 0, steps["evaluate"]
    commit = facts["names"][0].partition("@")[2]
    named = [name for name in facts["results"] if f"lab_saes@{commit}_sae-seed" in name]
    assert len(named) == 2


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            "tampered weights",
            r"sae_weights\.safetensors' is damaged: its SHA-256 is not .* from the hub: lab/saes@",
        ),
        ("tampered manifest", r"release\.yaml' is damaged or was edited"),
        ("no such revision", r"it has no such revision \(404\).* Give a branch, a tag"),
        (
            "no such repository",
            r"there is no such repository, or it is private \(404\)|401",
        ),
    ],
)
def test_what_cannot_be_read_from_the_hub_is_refused(
    steps: dict[str, Any], step: str, words: str
) -> None:
    assert steps[step]["status"] == 2
    (line,) = [one for one in steps[step]["err"].splitlines() if "error:" in one]
    assert re.search(words, line), line


def test_a_pinned_commit_stays_sound_when_main_is_tampered_with(
    steps: dict[str, Any],
) -> None:
    assert steps["pinned before"]["status"] == 0
    assert "current" in steps["pinned before"]["out"]


def test_controls_are_matched_to_a_release_of_the_hub(facts: dict[str, Any]) -> None:
    assert facts["matched"] == [f"{facts['names'][0]}/sae"]


# Repositories of others


def test_a_repository_without_manifest_has_groups_and_pins(
    steps: dict[str, Any], facts: dict[str, Any]
) -> None:
    groups, seeds = facts["groups of others"]
    assert groups == {"k16": ["k16/seed0", "k16/seed1"]}
    assert seeds == [0, 1]
    assert facts["pinned others"] == [True, True]
    assert steps["evaluate others"]["status"] == 0, steps["evaluate others"]


def test_a_dictionary_of_dictionary_learning_needs_permission(
    steps: dict[str, Any], facts: dict[str, Any]
) -> None:
    assert steps["dictionaries"]["status"] == 2
    assert "are pickle files" in steps["dictionaries"]["err"]
    assert "--allow-pickle" in steps["dictionaries"]["err"]
    assert facts["dictionaries"] == {"topk": "topk", "batch": "jumprelu"}
    assert facts["threshold"] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("unset", r"threshold was not estimated in training: -1 in ae\.pt"),
        ("none", r"threshold was not estimated in training: none in ae\.pt"),
        ("code", r"holds more than tensors; PyTorch refused it"),
        ("old dictionaries", r"reads SAEs of dictionary_learning at 'main' only"),
    ],
)
def test_a_dictionary_that_would_load_wrongly_is_refused(
    steps: dict[str, Any], facts: dict[str, Any], step: str, words: str
) -> None:
    assert steps[step]["status"] == 2, steps[step]
    assert re.search(words, steps[step]["err"]), steps[step]["err"]
    assert not facts["code ran"]


def test_a_dictionary_is_refused_if_main_changed_while_it_was_read(
    facts: dict[str, Any],
) -> None:
    assert "'main' of 'lab/dictionaries' is not commit" in facts["changed meanwhile"]
