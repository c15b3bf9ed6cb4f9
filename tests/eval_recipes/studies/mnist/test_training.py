"""Training stops anywhere and goes on bit for bit."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.studies.framework.study_folder import study_folder
from eval_recipes.studies.mnist.autoencoder import initial_weights
from eval_recipes.studies.mnist.report import write_report
from eval_recipes.studies.mnist.settings import (
    PUBLISHED,
    SEEDS,
    SETTINGS,
    STUDY,
    Run,
    Setting,
    Training,
    schedule,
)
from eval_recipes.studies.mnist.training import (
    CHECKPOINT,
    NEGLIGIBLE,
    State,
    devices_of,
    epoch_order,
    identity,
    load_state_,
    new_state,
    save_state,
    train,
    train_all,
)
from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs.mnist import Images
from tests.eval_recipes.studies.mnist.few_images import few_images, write_folder
from tests.forked import forked, started
from tests.oracles import mnist_oracle

TRAINING = Training(d_sae=64, epochs=4, batch_size=128)
BY_NAME = {setting.name: setting for setting in SETTINGS}
TIED_L1 = Run(BY_NAME["tied-l1"], 0)


class Stopped(Exception):
    """Raised by a test in the middle of training."""


@pytest.fixture(scope="module")
def images() -> Images:
    return few_images()


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def stop_after(epochs: int, state: State) -> None:
    if state.epoch == epochs:
        raise Stopped


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", ["untied-l2", "tied-frobenius"])
def test_a_resumed_run_is_bit_identical(
    name: str, images: Images, tmp_path: Path
) -> None:
    run = Run(BY_NAME[name], 1)
    whole = train(run, TRAINING, images, tmp_path / "whole")
    for epochs in (1, 3):
        with pytest.raises(Stopped):
            train(
                run,
                TRAINING,
                images,
                tmp_path / "parts",
                on_epoch=lambda state, n=epochs: stop_after(n, state),
            )
    seen: list[int] = []
    parts = train(
        run,
        TRAINING,
        images,
        tmp_path / "parts",
        on_epoch=lambda state: seen.append(state.epoch),
    )
    assert seen == [4]
    for key, tensor in whole.weights.tensors.items():
        assert torch.equal(tensor, parts.weights.tensors[key])
    for a, b in zip(
        whole.optimizer.state.values(), parts.optimizer.state.values(), strict=True
    ):
        assert all(torch.equal(a[moment], b[moment]) for moment in a)
    measured = ("mse", "mean_activation", "density")
    for a, b in zip(whole.history, parts.history, strict=True):
        assert [a[m] for m in measured] == [b[m] for m in measured]


def test_numbers_do_not_stay_subnormal(tmp_path: Path) -> None:
    # only the first image of the epoch has light; then moments decay for 1,999 steps
    pixels = torch.zeros(2000, 784, dtype=torch.uint8)
    (lit, *_) = epoch_order(2000, seed=1, epoch=0, data_order="per-seed").tolist()
    pixels[lit] = few_images().pixels[0]
    training = Training(d_sae=8, epochs=1, batch_size=1)
    run = Run(BY_NAME["untied-l2"], 1)
    state = train(run, training, Images(pixels, "one lit"), tmp_path)
    moments = [kept["exp_avg"] for kept in state.optimizer.state.values()]
    for tensor in (*moments, *state.weights.tensors.values()):
        sizes = tensor.abs()
        assert bool(((sizes == 0) | (sizes >= NEGLIGIBLE)).all())
    assert bool((moments[0] == 0).any())


def test_other_settings_are_refused_and_named(images: Images, tmp_path: Path) -> None:
    short = replace(TRAINING, epochs=1)
    train(TIED_L1, short, images, tmp_path)
    with pytest.raises(InputError, match="training.*epochs.*Repeat the settings"):
        train(TIED_L1, TRAINING, images, tmp_path)
    with pytest.raises(InputError, match="seed is 0, expected 2"):
        train(replace(TIED_L1, seed=2), short, images, tmp_path)


def test_an_sae_begun_on_another_device_goes_on_there_and_is_marked(
    images: Images, tmp_path: Path
) -> None:
    short = replace(TRAINING, epochs=2)
    train_all([TIED_L1], short, images, tmp_path)
    folder = tmp_path / TIED_L1.name
    described = identity(TIED_L1, short, images)
    start = initial_weights(TIED_L1.setting, short, seed=TIED_L1.seed)
    state = new_state(start, short.learning_rate)
    load_state_(folder / CHECKPOINT, state, described)
    assert devices_of(state.history) == ["cpu"]
    state.history = [{**state.history[0], "device": "mps"}]
    save_state(folder / CHECKPOINT, state, described)
    if not torch.backends.mps.is_available():
        with pytest.raises(InputError, match="'mps' is not available"):
            train(TIED_L1, short, images, folder)
    went_on = train(TIED_L1, short, images, folder, device="cpu")
    assert devices_of(went_on.history) == ["mps", "cpu"]
    # what is finished needs no device
    train_all([TIED_L1], short, images, tmp_path)
    report = write_report([TIED_L1], short, images, tmp_path)
    assert report["settings"][0]["saes"][0]["devices"] == ["mps", "cpu"]
    assert f"{TIED_L1.name} (mps, cpu)" in (tmp_path / "report.md").read_text()


def test_a_device_that_is_not_there_is_refused_before_training(
    images: Images, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="Unknown device 'tpu7'"):
        train(TIED_L1, TRAINING, images, tmp_path, device="tpu7")
    assert not list(tmp_path.iterdir())


def test_a_torn_checkpoint_is_refused(images: Images, tmp_path: Path) -> None:
    short = replace(TRAINING, epochs=1)
    train(TIED_L1, short, images, tmp_path)
    content = (tmp_path / CHECKPOINT).read_bytes()
    (tmp_path / CHECKPOINT).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="no checkpoint of this study"):
        train(TIED_L1, short, images, tmp_path)


def test_every_damage_to_a_checkpoint_is_named(images: Images, tmp_path: Path) -> None:
    short = replace(TRAINING, epochs=1)
    train(TIED_L1, short, images, tmp_path)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    for place in range(7, len(whole), len(whole) // 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged.* Delete this file to train"):
            train(TIED_L1, short, images, tmp_path)
    # nor is one of an earlier version, without a hash, taken
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    del metadata["sha256"]
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match="another hash"):
        train(TIED_L1, short, images, tmp_path)
    path.unlink()
    assert train(TIED_L1, short, images, tmp_path).epoch == 1


def test_a_checkpoint_that_is_no_file_is_refused(
    images: Images, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match="no regular file"):
        train(TIED_L1, TRAINING, images, tmp_path)


LEFT = (
    f"{TIED_L1.name}/.{CHECKPOINT}.0123abcd.tmp",
    f"{TIED_L1.name}/sae/.cfg.json.0123abcd.tmp",
    ".report.json.0123abcd.tmp",
)
"""What processes leave that are killed while they write a file."""
USERS = (".bashrc.old", f"{TIED_L1.name}/.notes.tmp", f"{TIED_L1.name}/sae/mine")
"""Files that the user put into the folder."""


def test_what_a_killed_process_left_is_removed_and_nothing_else(
    images: Images, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    short = replace(TRAINING, epochs=1)
    train_all([TIED_L1], short, images, out)
    write_report([TIED_L1], short, images, out)
    whole = {path for path in out.rglob("*") if path.is_file()}
    for name in (*LEFT, *USERS):
        (out / name).write_text("half")
    train_all([TIED_L1], short, images, out)
    for name in LEFT:
        assert not (out / name).exists()
        (out / name).write_text("half")
    report = write_report([TIED_L1], short, images, out)
    assert report["complete"] and report["missing_runs"] == []
    kept = {out / name for name in USERS}
    assert {path for path in out.rglob("*") if path.is_file()} == whole | kept


def test_a_folder_with_files_of_the_users_is_refused(
    images: Images, tmp_path: Path
) -> None:
    (tmp_path / "report.md").write_text("mine")
    for write in (train_all, write_report):
        with pytest.raises(InputError, match="did not write: 'report.md'"):
            write([TIED_L1], TRAINING, images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    # and in the study's own folder such a file stays
    out = tmp_path / "out"
    train_all([TIED_L1], replace(TRAINING, epochs=1), images, out)
    (out / "report.md").write_text("mine")
    with pytest.raises(InputError, match="report.md' was not written by this package"):
        write_report([TIED_L1], replace(TRAINING, epochs=1), images, out)
    assert (out / "report.md").read_text() == "mine"


def test_damaged_saes_and_figures_are_made_anew(
    images: Images, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = replace(TRAINING, epochs=1)
    train_all([TIED_L1], short, images, tmp_path / "out")
    report = write_report([TIED_L1], short, images, tmp_path / "out")
    folder = tmp_path / "out" / TIED_L1.name
    for name in (
        "evaluation.json",
        "sae/cfg.json",
        "sae/sae_weights.safetensors",
    ):
        whole = (folder / name).read_bytes()
        place = len(whole) // 2
        # in the middle of the JSON there is a digit of a figure
        damaged = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        for content in (whole[:100], damaged):
            caplog.clear()
            (folder / name).write_bytes(content)
            again = write_report([TIED_L1], short, images, tmp_path / "out")
            assert again["settings"] == report["settings"]
            assert (folder / name).read_bytes() == whole
            assert "damaged" in caplog.text


def test_a_setting_moved_from_another_folder_is_reported(
    images: Images, tmp_path: Path
) -> None:
    short = replace(TRAINING, epochs=1)
    untied = Run(BY_NAME["untied"], 0)
    for run, name in ((TIED_L1, "a"), (untied, "b")):
        train_all([run], short, images, tmp_path / name)
        write_report([run], short, images, tmp_path / name)
    (tmp_path / "b" / "untied").rename(tmp_path / "a" / "untied")
    report = write_report([TIED_L1, untied], short, images, tmp_path / "a")
    assert report["finished_runs"] == 2


def test_two_processes_do_not_share_a_folder(images: Images, tmp_path: Path) -> None:
    holder = (
        "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); "
        "print(flush=True); sys.stdin.read()"
    )
    out = tmp_path / "out"
    with study_folder(out, *STUDY):
        pass
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(out / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        with pytest.raises(InputError, match="in use by another process"):
            train_all([TIED_L1], TRAINING, images, out)
        with pytest.raises(InputError, match="in use by another process"):
            write_report([TIED_L1], TRAINING, images, out)
        process.stdin.close()


def test_orders_are_permutations_that_differ_between_epochs_and_seeds() -> None:
    def order(seed: int, epoch: int, shared: bool = False) -> list[int]:
        kind = "shared" if shared else "per-seed"
        return epoch_order(50, seed=seed, epoch=epoch, data_order=kind).tolist()

    assert sorted(order(0, 0)) == list(range(50))
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
    assert order(1, 3, shared=True) == order(2, 3, shared=True) == order(0, 3)
    assert order(1, 3, shared=True) != order(1, 4, shared=True)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_start_as_in_the_notebooks(tied: bool) -> None:
    setting = BY_NAME["tied" if tied else "untied"]
    for seed in (0, 2):
        weights = initial_weights(setting, Training(d_sae=300), seed=seed)
        enc, dec = mnist_oracle.linear_start(300, 784, seed, tied=tied)
        torch.testing.assert_close(weights.enc, enc, rtol=0, atol=1e-7)
        torch.testing.assert_close(weights.dec, dec, rtol=0, atol=1e-7)


@pytest.mark.parametrize("setting", [BY_NAME["untied"], BY_NAME["tied"]])
def test_runs_start_as_described(setting: Setting) -> None:
    training = Training(d_sae=300)
    weights = initial_weights(setting, training, seed=0)
    other = initial_weights(setting, training, seed=1)
    assert not torch.equal(weights.enc, other.enc)
    if setting.tied:
        assert torch.equal(weights.enc, weights.dec)
        assert weights.enc.data_ptr() != weights.dec.data_ptr()
        norms = weights.dec.norm(dim=1)
        torch.testing.assert_close(norms, torch.ones(300), rtol=0, atol=1e-6)
        for bias, size in ((weights.b_enc, 300), (weights.b_dec, 784)):
            assert bias is not None
            assert bias.shape == (size,)
            assert not bias.any()
        none = initial_weights(setting, replace(training, tied_b_dec="none"), seed=0)
        assert none.b_dec is None
        assert torch.equal(none.enc, weights.enc)
        return
    assert (weights.b_enc, weights.b_dec) == (None, None)
    for training_, gain in (
        (training, 6),
        (replace(training, untied_init="linear"), 1),
    ):
        drawn = initial_weights(setting, training_, seed=0)
        for rows, fan_in in ((drawn.enc, 784), (drawn.dec, 300)):
            bound = math.sqrt(gain / fan_in)
            assert 0.999 * bound < float(rows.abs().max()) <= bound
            assert float(rows.std()) == pytest.approx(bound / math.sqrt(3), rel=0.01)


def test_tied_runs_start_at_the_first_batchs_median(
    images: Images, tmp_path: Path
) -> None:
    still = replace(TRAINING, epochs=1, learning_rate=0.0)
    b_dec = train(TIED_L1, still, images, tmp_path / "with").weights.b_dec
    order = epoch_order(400, seed=0, epoch=0, data_order="per-seed")
    first = images.pixels[order[:128]].double() / 255
    expected = mnist_oracle.median(first)
    assert b_dec is not None
    assert float((b_dec - expected).norm() / expected.norm()) < 1e-3
    assert float((first.mean(dim=0) - expected).norm() / expected.norm()) > 0.05
    none = replace(TRAINING, epochs=1, tied_b_dec="none")
    weights = train(TIED_L1, none, images, tmp_path / "without").weights
    assert set(weights.tensors) == {"enc", "dec", "b_enc"}


@pytest.mark.parametrize("name", ["untied-l2", "tied-l1"])
def test_one_epoch_is_what_autograd_trains(
    name: str, images: Images, tmp_path: Path
) -> None:
    run, training = Run(BY_NAME[name], 1), replace(TRAINING, epochs=1)
    still = train(run, replace(training, learning_rate=0.0), images, tmp_path / "start")
    leaves = [*still.weights.tensors.values()]
    order = epoch_order(400, seed=1, epoch=0, data_order="per-seed")
    # three batches of 128 and the 16 images that are left
    batches = [images.pixels[ids].float() / 255 for ids in order.split(128)]
    assert [len(x) for x in batches] == [128, 128, 128, 16]
    setting = run.setting
    expected = mnist_oracle.train(
        leaves, batches, setting.penalty, setting.strength, unit_norm=setting.tied
    )
    found = train(run, training, images, tmp_path / "trained")
    for tensor, wanted, begun in zip(
        found.weights.tensors.values(), expected, leaves, strict=True
    ):
        moved = (wanted - begun).norm()
        assert float(moved) > 0
        assert float((tensor - wanted).norm() / moved) < 1e-3


def test_settings_without_effect_are_no_part_of_a_run(
    images: Images, tmp_path: Path
) -> None:
    short = replace(TRAINING, epochs=1)
    untied = Run(BY_NAME["untied"], 0)
    for run, other, opposite in (
        (untied, {"tied_b_dec": "none"}, {"untied_init": "linear"}),
        (TIED_L1, {"untied_init": "linear"}, {"tied_b_dec": "none"}),
    ):
        folder = tmp_path / run.name
        train(run, short, images, folder)
        assert train(run, replace(short, **other), images, folder).epoch == 1
        (name,) = opposite
        with pytest.raises(InputError, match=name):
            train(run, replace(short, **opposite), images, folder)


def test_the_study_is_the_papers() -> None:
    defaults = Training()
    assert (defaults.d_sae, defaults.epochs, defaults.batch_size) == (1568, 100, 512)
    assert (defaults.learning_rate, defaults.activation_l1) == (1e-3, 0.1)
    assert SEEDS == (0, 1, 2)
    strengths = {s.name: (s.tied, s.penalty, s.strength) for s in SETTINGS}
    assert strengths == {
        "untied": (False, "none", 0.0),
        "untied-l1": (False, "l1", 1e-3),
        "untied-l2": (False, "l2", 1e-5),
        "tied": (True, "none", 0.0),
        "tied-l1": (True, "l1", 1e-3),
        "tied-frobenius": (True, "frobenius", 1e-5),
        "tied-l2": (True, "l2", 1e-5),
    }
    tied_l2 = (0.3858, 0.4288, 0.1254, 0.2250)
    assert {
        "untied": (0.2400, 0.0357, 0.0, 0.0),
        "untied-l1": (0.3260, 0.0466, 0.0321, 0.0060),
        "untied-l2": (0.5061, 0.0738, 0.0491, 0.0290),
        "tied": (0.4783, 0.4828, 0.0174, 0.0174),
        "tied-l1": (0.5486, 0.5162, 0.1407, 0.1410),
        "tied-frobenius": tied_l2,
        "tied-l2": tied_l2,
    } == PUBLISHED


def test_the_last_batch_can_be_left_out(images: Images, tmp_path: Path) -> None:
    short = replace(TRAINING, epochs=1)  # 400 images: 3 batches of 128, and 16 images
    kept = train(TIED_L1, short, images, tmp_path / "kept")
    dropped = train(TIED_L1, replace(short, drop_last=True), images, tmp_path / "not")
    steps = [
        {int(moments["step"]) for moments in state.optimizer.state.values()}
        for state in (kept, dropped)
    ]
    assert steps == [{4}, {3}]


def test_pairs_of_seeds_come_early() -> None:
    names = [run.name for run in schedule(SETTINGS, (0, 1, 2))]
    assert len(set(names)) == len(names) == 21
    assert not any(name.endswith("seed2") for name in names[:14])
    assert names[:2] == ["untied/seed0", "untied/seed1"]


@pytest.mark.slow
def test_the_command_survives_kill_9(images: Images, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", images)
    command = [
        "study",
        "mnist",
        "--mnist-dir",
        str(folder),
        "--setting",
        "untied-l1",
        "--seed",
        "0",
    ]
    command += ["--d-sae", "600", "--epochs", "60", "--out"]
    out, whole = tmp_path / "killed", tmp_path / "whole"
    checkpoint = Path("untied-l1", "seed0", CHECKPOINT)
    process = started(tmp_path / "log", run_command, [*command, str(out)])
    while not (out / checkpoint).is_file():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (out / "report.md").exists()
    # again in another process
    forked(run_command, [*command, str(out)])
    # never killed, here
    run_command([*command, str(whole)])
    for target in (out, whole):
        assert (target / "report.md").is_file()
    sae = Path("untied-l1", "seed0", "sae", "sae_weights.safetensors")
    assert (out / sae).read_bytes() == (whole / sae).read_bytes()


def run_command(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
