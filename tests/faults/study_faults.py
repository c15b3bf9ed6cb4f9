"""Faults of studies, of the demo and of the speed benchmark: folders, files, flags."""

from __future__ import annotations

import json

from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.mnist.settings import SETTINGS, Run, Training
from eval_recipes.studies.mnist.training import CHECKPOINT, train_all
from saereg_plugin.owned_folder import MARK, open_owned
from saereg_plugin.sources.inputs.mnist import load_images
from tests.eval_recipes.studies.mnist.few_images import few_images, write_folder
from tests.faults.fault import Fault, Place

MNIST = "study mnist --setting tied --seed 0 --epochs 1 --d-sae 8"
_RUN = Run(next(one for one in SETTINGS if one.name == "tied"), 0)
_MINE = {
    ".bashrc.old": "mine",
    ".thesis.tmp": "mine",
    "report.md": "mine",
    "table.md": "mine",
}


def _users_folder(place: Place) -> None:
    folder = place.here / "mine"
    (folder / "release").mkdir(parents=True)
    for name, text in _MINE.items():
        (folder / name).write_text(text)


def _nothing_is_touched(place: Place) -> None:
    folder = place.here / "mine"
    found = {path.name: path for path in folder.iterdir()}
    assert set(found) == {*_MINE, "release"}
    assert {name: found[name].read_text() for name in _MINE} == _MINE
    assert not any(found["release"].iterdir())


def _no_folder_is_made(place: Place) -> None:
    names = {path.name for path in place.here.iterdir()}
    assert names == {"release", "results"}


def _users_file(place: Place) -> None:
    (place.here / "speed.json").write_text('{"rows": ["mine"]}')


def _file_is_kept(place: Place) -> None:
    assert (place.here / "speed.json").read_text() == '{"rows": ["mine"]}'


def _users_link(place: Place) -> None:
    _users_file(place)
    (place.here / "link.json").symlink_to("speed.json")


def _other_study(place: Place) -> None:
    with study_folder(place.here / "study", "temporal", "small"):
        mark_folder(place.here / "study", "temporal", "small")


def _damaged_study(place: Place) -> None:
    _other_study(place)
    (place.here / "study" / "study.json").write_text('{"study": "temp')


def _no_list(place: Place) -> None:
    _other_study(place)
    (place.here / "study" / MARK).write_text("[]")


def _old_study(place: Place) -> None:
    """A folder of 0.1.0, which has no list of its files."""
    (place.here / "study").mkdir()
    text = json.dumps({"study": "temporal", "scale": "small"})
    (place.here / "study" / "study.json").write_text(text)


def _release_for_a_study(place: Place) -> None:
    open_owned(place.here / "study", "release")


def _trained(place: Place) -> None:
    folder = write_folder(place.here / "images", few_images())
    training = Training(d_sae=8, epochs=1)
    train_all([_RUN], training, load_images(folder), place.here / "study")


def _damaged_checkpoint(place: Place) -> None:
    _trained(place)
    path = place.here / "study" / _RUN.name / CHECKPOINT
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _linked_run(place: Place) -> None:
    _trained(place)
    folder = place.here / "study" / _RUN.name
    folder.rename(place.here / "elsewhere")
    folder.symlink_to(place.here / "elsewhere")
    (folder / CHECKPOINT).unlink()


def _cut_images(place: Place) -> None:
    folder = write_folder(place.here / "images", few_images())
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:-1])


_OURS_ALONE = [
    Fault(
        name=f"{command} into a folder of the user's",
        row="D5",
        arrange=_users_folder,
        command=f"{command} --out mine",
        status=2,
        words=r"Folder 'mine' holds files that this package did not write: '\.bashrc\.old', ",
        holds=_nothing_is_touched,
    )
    for command in (MNIST, f"{MNIST} --report-only", "study temporal", "demo")
]
_STEERING = Fault(
    name="study steering into a folder of the user's",
    row="D5",
    arrange=_users_folder,
    command="study steering --out mine",
    status=2,
    words="did not write: .*'release', 'report.md'",
    holds=_nothing_is_touched,
)

_PLACES = [
    Fault(
        name=f"{command} into {folder!r}",
        row="D3",
        command=f"{command} --out '{folder}'",
        status=2,
        words=f"is the {what} folder; expected a folder of its own",
        holds=_no_folder_is_made,
    )
    for command in (MNIST, "study temporal", "study steering", "demo")
    for folder, what in (("", "current"), (".", "current"), ("/", "root"))
]

_SPEED = [
    Fault(
        name="speed over a file of the user's",
        row="D5",
        arrange=_users_file,
        command="speed --out speed.json",
        status=2,
        words="'speed.json' was not written by this command and would be replaced",
        holds=_file_is_kept,
    ),
    Fault(
        name="speed over a link",
        row="D5",
        arrange=_users_link,
        command="speed --out link.json",
        status=2,
        words="'link.json' is a link; expected a JSON file",
        holds=_file_is_kept,
    ),
    Fault(
        name="speed into the current folder",
        row="D3",
        command="speed --out ''",
        status=2,
        words="is a folder; expected a JSON file",
    ),
]

_FOLDERS = [
    Fault(
        name="a folder of another study",
        row="held",
        arrange=_other_study,
        command=f"{MNIST} --out study",
        status=2,
        words="holds the study 'temporal' at scale 'small', not 'mnist'",
    ),
    Fault(
        name="study.json is cut",
        row="message",
        arrange=_damaged_study,
        command="study temporal --out study",
        status=2,
        words=r"study.json' is damaged: it is no JSON .* Delete the file if the folder is",
    ),
    Fault(
        name="the list of a study's files is damaged",
        row="message",
        arrange=_no_list,
        command="study temporal --out study",
        status=2,
        words=r"\.saereg\.json' is damaged\. .*Choose another output folder",
    ),
    Fault(
        name="a study folder of 0.1.0",
        row="D5",
        arrange=_old_study,
        command="study temporal --out study",
        status=2,
        words="holds files that this package did not write: 'study.json'",
    ),
    Fault(
        name="a study into a release's folder",
        row="D5",
        arrange=_release_for_a_study,
        command="study temporal --out study",
        status=2,
        words="holds 'release'; expected .* one that holds 'study'",
    ),
    Fault(
        name="a bit of an MNIST checkpoint is flipped",
        row="D10",
        arrange=_damaged_checkpoint,
        command=f"{MNIST} --mnist-dir images --out study",
        status=2,
        words=r"seed0/checkpoint\.safetensors' is damaged: .* Delete this file to train",
    ),
    Fault(
        name="a run's folder of the MNIST study is a link",
        row="D9",
        arrange=_linked_run,
        command=f"{MNIST} --mnist-dir images --out study",
        status=2,
        words="tied/seed0' is a link; expected a plain file or folder",
    ),
    Fault(
        name="MNIST's images are cut",
        row="message",
        arrange=_cut_images,
        command=f"{MNIST} --mnist-dir images --out study",
        status=2,
        words="announces 400 images and has 313599 bytes",
    ),
]

_FLAGS = [
    Fault(
        name=f"{command}",
        row="message",
        command=command,
        status=2,
        words=words,
        holds=_no_folder_is_made,
    )
    for command, words in (
        (
            "study mnist --out new --epochs 0",
            r"\(--epochs\) is 0; expected an integer from 1 to 1,000,000",
        ),
        (
            f"study mnist --out new --epochs {10**12}",
            r"\(--epochs\) is 1000000000000; expected",
        ),
        ("study mnist --out new --d-sae 0", r"\(--d-sae\) is 0; expected 2 or more"),
        (
            f"study mnist --out new --d-sae {10**12}",
            r"needs at least 23,365,\S+ GiB of memory; cpu has",
        ),
        (
            f"study mnist --out new --seed {2**70}",
            "Seed is 1180591620717411303424; expected an integer from 0",
        ),
        (
            "study mnist --out new --seed -1",
            "Seed is -1; expected an integer from 0 to 4,294,967,295",
        ),
        (
            f"study steering --out new --latents {10**12}",
            "n_latents is 1000000000000; expected an integer from 1 to",
        ),
        ("speed --out new.json --device tpu9", "Unknown device 'tpu9'"),
        (
            "speed --out new.json --repeats 0",
            "repeats=0; expected at least 3",
        ),
        (
            f"speed --out new.json --repeats {10**12}",
            "repeats=1000000000000; expected at most 1000000",
        ),
        ("speed --out new.json --seed -1", "seed=-1; expected at least 0"),
        (
            "speed --out new.json --shape 1000000,1000000,1,1",
            "1000000-1000000-k1-b1 needs at least 29,802.3 GiB",
        ),
        (f"speed --out new.json --shape {'9' * 5000},1,1,1", "--shape is '999"),
    )
]

FAULTS = [*_OURS_ALONE, _STEERING, *_PLACES, *_SPEED, *_FOLDERS, *_FLAGS]
