"""The command ``saereg-bench train`` from its YAML file to a release, interrupted on the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from sae_lens import SAE, TopKSAE
from typer.testing import CliRunner, Result
from typing_extensions import override

import saereg_plugin as sr
from eval_recipes.cli import app
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.metrics.similarity import nearest_token
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.registry import REGULARIZERS
from saereg_plugin.releases.hashes import verify_files
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import KIND, read_release
from saereg_plugin.sources.embeddings import (
    ALIGNMENT_FILE,
    find_embeddings,
    read_vocabulary,
)
from saereg_plugin.sweeps import SweepConfig, expand, read_sweep, run_sweep
from saereg_plugin.sweeps.checkpoint import CHECKPOINT, claim_folder, settled
from saereg_plugin.sweeps.run import SweepResult, _train
from saereg_plugin.sweeps.trainer import open_trainer
from tests.sweeps.test_trainer import BURST
from tests.sweeps.tiny import (
    BATCH,
    D_IN,
    PENALTY,
    fields,
    records_of,
    temporal_fields,
    tiny_sweep,
)

pytestmark = pytest.mark.slow

STEPS = 60
LOADED = "Loaded pretrained model"
"""What TransformerLens prints when it has read the weights."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("train")


@pytest.fixture(scope="module")
def config(folder: Path) -> Path:
    path = folder / "sweep.yaml"
    groups = {"plain": {}, "l2": {"regularizers": [PENALTY]}, "burst": BURST}
    changes = {
        "tokens": STEPS * BATCH,
        "checkpoint_every": 50,
        "groups": groups,
        "lr": 3e-3,
    }
    path.write_text(yaml.safe_dump(fields(**changes), sort_keys=False))
    return path


@pytest.fixture(scope="module")
def arguments(folder: Path, config: Path) -> list[str]:
    out = str(folder / "release")
    return ["train", "--config", str(config), "--out", out, "--name", "tiny"]


@pytest.fixture(scope="module")
def interrupted(
    model_name: str, folder: Path, arguments: list[str]
) -> tuple[int, str, dict[str, Any]]:
    """Exit status, output and what was in the folder after a real Ctrl-C."""
    assert model_name
    command = [sys.executable, "-m", "eval_recipes.cli", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        release = folder / "release"
        record = release / "records" / "plain-seed0.jsonl"
        end = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < end:
            if record.is_file() and len(record.read_text().splitlines()) > 6:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.05)
        output, _ = process.communicate(timeout=120)
    (index,) = (release / CHECKPOINT).glob("step-*/checkpoint.json")
    state = torch.load(index.parent / "stream.pt", weights_only=True)
    return process.returncode, output, {**state, **json.loads(index.read_text())}


@pytest.fixture(scope="module")
def finished(interrupted: object, arguments: list[str]) -> Result:
    """The same command again, to the end."""
    assert interrupted
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def release(folder: Path, finished: Result) -> Path:
    assert finished.exit_code == 1
    return folder / "release"


def test_ctrl_c_keeps_a_checkpoint_and_exits_130(
    folder: Path, interrupted: tuple[int, str, dict[str, Any]]
) -> None:
    status, output, state = interrupted
    assert status == 130, output
    text = " ".join(output.split())
    assert "Interrupted; the same command resumes from the checkpoint in" in text
    assert "Traceback" not in output
    assert 10 <= state["step"] < STEPS
    assert not list((folder / "release").glob("release.yaml"))


def test_same_command_finishes_with_status_1_for_the_sae_that_was_stopped(
    finished: Result, interrupted: tuple[int, str, dict[str, Any]]
) -> None:
    assert finished.exit_code == 1, finished.output
    assert LOADED in finished.output
    text = " ".join(finished.output.split())
    assert "Release 'tiny' with 4 SAEs" in text
    # stopped before the interruption, and therefore in the checkpoint
    assert interrupted[2]["step"] > 8
    assert [s["sae_id"] for s in interrupted[2]["stopped"]] == [
        "burst-seed0",
        "burst-seed1",
    ]
    for seed in (0, 1):
        assert (
            f"stopped burst-seed{seed}: weight_penalty is not finite in step 8; "
            "no checkpoint was written before"
        ) in text


def test_release_folder_holds_what_it_should(release: Path) -> None:
    assert {path.name for path in release.iterdir()} - {".saereg.lock"} == {
        ".saereg.json",
        "README.md",
        "records",
        "release.yaml",
        "saes",
        "sweep.json",
    }
    ids = {f"{group}-seed{seed}" for group in ("plain", "l2") for seed in (0, 1)}
    assert {path.name for path in (release / "saes").iterdir()} == ids
    for sae_id in ids:
        steps = [line["step"] for line in records_of(release)[sae_id]]
        assert steps == [1, *range(2, STEPS + 1, 2)]


def test_release_loads_and_has_learned(release: Path) -> None:
    registered = register_release(release)
    assert [(e.sae_id, e.group, e.seed) for e in registered.entries] == [
        (f"{group}-seed{seed}", group, seed)
        for group in ("plain", "l2")
        for seed in (0, 1)
    ]
    for entry in registered.entries:
        verify_files(release, entry.path)
        sae = SAE.from_pretrained("tiny", entry.sae_id)
        assert isinstance(sae, TopKSAE)
        assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.k) == (D_IN, 128, 8)
        assert sae.cfg.normalize_activations == "none"
        assert sae.cfg.metadata.hook_name == "blocks.0.hook_resid_post"
    first, *_, last = records_of(release)["plain-seed0"]
    assert last["explained_variance"] > first["explained_variance"] + 0.1
    l2, plain = (
        SAE.from_pretrained("tiny", f"{g}-seed0").W_enc.norm() for g in ("l2", "plain")
    )
    assert l2 < plain


def test_manifest_says_what_was_run(release: Path) -> None:
    block = yaml.safe_load((release / "release.yaml").read_text())["tiny"]["saereg"]
    assert block["tokens"] == STEPS * BATCH
    assert block["seeds"] == [0, 1]
    assert block["sweep"]["groups"]["l2"]["regularizers"] == [PENALTY]
    assert [line.split(":")[0] for line in block["stopped"]] == [
        "burst-seed0",
        "burst-seed1",
    ]
    for name in ("torch", "sae-lens", "saereg-plugin"):
        assert block["versions"][name]
    card = (release / "README.md").read_text()
    assert "burst-seed0: weight_penalty is not finite in step 8" in card


def test_finished_sweep_is_not_trained_again(
    release: Path, arguments: list[str]
) -> None:
    before = (release / "release.yaml").stat().st_mtime_ns
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "stopped burst-seed0" in again.output
    assert LOADED not in again.output
    assert "Release 'tiny' with 4 SAEs" in " ".join(again.output.split())
    assert (release / "release.yaml").stat().st_mtime_ns == before


def test_sweep_that_was_finished_while_the_lock_was_waited_for_is_not_trained_again(
    release: Path, config: Path
) -> None:
    """What a process does that found no release, and then got the lock of one that wrote it."""
    before = (release / "release.yaml").stat().st_mtime_ns
    sweep = settled(read_sweep(config), release)
    owned = open_owned(release, KIND)
    told: list[str] = []

    def train(sweep: SweepConfig) -> SweepResult:
        return _train(
            sweep,
            expand(sweep),
            owned,
            open_trainer,
            name="tiny",
            progress=told.append,
        )

    found = train(sweep)
    assert told == [
        "All 4 SAEs of release 'tiny' are trained already; --fresh trains anew."
    ]
    assert found.seconds == 0
    assert found.release == read_release(release)
    assert [line.split(":")[0] for line in found.stopped] == [
        "burst-seed0",
        "burst-seed1",
    ]
    assert (release / "release.yaml").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="holds another sweep: lr is"):
        train(replace(sweep, lr=2e-3))


def test_another_sweep_is_refused_with_the_field_that_differs(
    release: Path, config: Path
) -> None:
    sweep = read_sweep(config)
    other = tiny_sweep(**{**fields(), **sweep.to_dict(), "lr": 2e-3, "seed": 5})
    message = (
        f"Folder {str(release)!r} holds another sweep: lr is 0.003 there, 0.002 here; "
        "seed is 0 there, 5 here."
    )
    with pytest.raises(InputError, match=re.escape(message)):
        run_sweep(other, release)


def test_same_sweep_may_claim_its_folder_again(tmp_path: Path) -> None:
    owned = open_owned(tmp_path, KIND)
    claim_folder(tiny_sweep(seeds=(0, 1)), owned)
    first = (tmp_path / "sweep.json").read_text()
    claim_folder(tiny_sweep(seeds=[0, 1]), owned)
    assert (tmp_path / "sweep.json").read_text() == first
    assert json.loads(first)["seeds"] == [0, 1]


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpus": "./no-such-corpus"}, "'./no-such-corpus' does not exist"),
        ({"llm_dtype": "float31"}, "Unknown dtype 'float31'"),
    ],
)
def test_refused_sweep_does_not_claim_the_folder(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_sweep(tiny_sweep(**changes), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("model_name")
def test_pairs_across_documents_are_in_the_release(tmp_path: Path) -> None:
    result = run_sweep(SweepConfig(**temporal_fields()), tmp_path)
    assert result.release is not None
    block = yaml.safe_load((tmp_path / "release.yaml").read_text())
    counted = block[tmp_path.name]["saereg"]["pairs_across_documents"]
    assert counted == result.release.provenance["pairs_across_documents"]
    assert counted["pairs"] == 12 * (BATCH // 64) * 62
    assert counted["share"] == counted["crossing"] / counted["pairs"] > 0


@pytest.mark.usefixtures("model_name")
def test_nearest_tokens_of_anchored_saes_are_in_the_release(tmp_path: Path) -> None:
    anchor = {"name": "vocabulary_anchor", "coefficient": 50.0}
    groups: dict[str, Any] = {"plain": {}, "anchored": {"regularizers": [anchor]}}
    result = run_sweep(tiny_sweep(groups=groups), tmp_path)
    assert result.release is not None
    path = tmp_path / ALIGNMENT_FILE
    block = yaml.safe_load((tmp_path / "release.yaml").read_text())
    expected = {"file": path.name, "rows": 2 * 128, "sha256": sha256(path)}
    assert block[tmp_path.name]["saereg"]["vocabulary_alignment"] == expected
    assert result.release.provenance["vocabulary_alignment"] == expected
    table = pq.read_table(path).to_pandas()
    assert len(table) == 2 * 128
    assert dict(table["sae_id"].value_counts()) == {
        "anchored-seed0": 128,
        "anchored-seed1": 128,
    }
    vocabulary = read_vocabulary(find_embeddings(result.release.model), D_IN)
    cosines: dict[str, float] = {}
    for entry in result.release.entries:
        saved = SAE.load_from_disk(tmp_path / entry.path)
        exact = nearest_token(saved.W_dec.detach(), vocabulary.rows)
        cosines[entry.sae_id] = float(exact.cosine.mean())
        own = table[table["sae_id"] == entry.sae_id]
        if entry.group == "anchored":
            assert own["token_id"].tolist() == exact.token.tolist()
            assert own["cosine"].tolist() == pytest.approx(exact.cosine.tolist())
            assert own["token"].str.len().gt(0).all()
    # it acted
    assert cosines["anchored-seed0"] > cosines["plain-seed0"] + 0.05


@sr.register_regularizer("test_picky")
@dataclass(frozen=True, kw_only=True)
class Picky(sr.RegularizerConfig):
    """Refuses what only the first batch shows."""

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> sr.Component:
        return PickyModule(label=label)


class PickyModule(sr.Component):
    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        raise InputError("not this batch")


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize("before", [{}, {"plain": {}}])
def test_sweep_refused_by_its_first_batch_leaves_the_folder_free(
    tmp_path: Path, before: dict[str, Any]
) -> None:
    """Also where another SAE has recorded that step already."""
    groups = {**before, "picky": {"regularizers": [{"name": "test_picky"}]}}
    with pytest.raises(InputError, match="not this batch"):
        run_sweep(tiny_sweep(groups=groups), tmp_path)
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True, kw_only=True)
class Swelling(sr.RegularizerConfig):
    """Leaves finite weights in the last step, with which no output is finite."""

    name: ClassVar[str] = "test_swelling"

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> sr.Component:
        return SwellingModule(label=label)


class SwellingModule(sr.Component):
    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.sae.step_index == 11:
            self.sae.W_dec.data.fill_(3e38)


@pytest.mark.usefixtures("model_name")
def test_sae_whose_output_is_not_finite_is_left_out_of_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGULARIZERS, Swelling.name, Swelling)
    groups = {
        "swollen": {"regularizers": [{"name": "test_swelling"}]},
        "plain": {},
    }
    result = run_sweep(tiny_sweep(groups=groups, seeds=[0]), tmp_path)
    assert result.release is not None
    assert [entry.sae_id for entry in result.release.entries] == ["plain-seed0"]
    verify_files(tmp_path, "saes/plain-seed0")
    (line,) = result.stopped
    assert line.startswith("swollen-seed0: its output on a test batch (")
    assert line.endswith("is kept in stopped/swollen-seed0")
    assert result.release.provenance["stopped"] == [line]
    assert records_of(tmp_path)["swollen-seed0"][-1]["reason"] == line
    assert not (tmp_path / "saes" / "swollen-seed0").exists()
    assert not (tmp_path / CHECKPOINT).exists()


@dataclass(frozen=True, kw_only=True)
class Writing(sr.RegularizerConfig):
    """Writes a file during training, as a user may."""

    name: ClassVar[str] = "test_writing"
    path: str = ""

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> sr.Component:
        return WritingModule(Path(self.path), label=label)


class WritingModule(sr.Component):
    def __init__(self, path: Path, *, label: str):
        super().__init__(label=label)
        self.path = path

    @override
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.sae.step_index == 6:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("mine")


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize("name", ["README.md", "saes/sae-seed0/cfg.json"])
def test_file_that_the_user_writes_during_training_is_kept(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGULARIZERS, Writing.name, Writing)
    out = tmp_path / "out"
    writing = {"name": "test_writing", "path": str(out / name)}
    groups = {"sae": {"regularizers": [writing]}}
    sweep = tiny_sweep(groups=groups, seeds=[0], checkpoint_every=100)
    with pytest.raises(InputError, match=f"{name}' was not written by this package"):
        run_sweep(sweep, out)
    assert (out / name).read_text() == "mine"
    (out / name).rename(tmp_path / "kept")
    told: list[str] = []
    assert run_sweep(sweep, out, progress=told.append).release is not None
    assert told[-1] == "Resumes at step 12 of 12."
    verify_files(out, "saes/sae-seed0")


def test_dry_run_says_what_it_takes_and_leaves_nothing(
    model_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert model_name
    config = tmp_path / "sweep.yaml"
    values = fields()
    # the embedded model is the one that a file without a model means
    del values["model"]
    config.write_text(yaml.safe_dump(values))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["train", "--config", str(config), "--out", str(out), "--dry-run"]
    )
    assert result.exit_code == 0, result.output
    # 2 x 576 x 128 weights and 576 + 128 biases, no b_enc less
    parameters = 4 * (2 * D_IN * 128 + D_IN + 128)
    assert f"4 SAEs, {parameters:,} parameters in all, 12 steps each." in result.output
    assert re.search(r"Memory: [0-9.]+ GiB", result.output)
    assert re.search(r"Disk: [0-9.]+ GiB", result.output)
    assert re.search(r"Time: [0-9.]+ minutes", result.output)
    predicted = r"plain: outlier severity gamma [0-9.]+; [0-9.]+% of the latents"
    assert re.search(predicted, result.output)
    assert list(tmp_path.iterdir()) == [config]
