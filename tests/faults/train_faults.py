"""Faults of the folder that training writes into, and of its checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from saereg_plugin.owned_folder import open_owned
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.release import KIND
from saereg_plugin.sweeps import expand, open_trainer, read_sweep, run_sweep
from saereg_plugin.sweeps.checkpoint import claim_folder, note_no_checkpoint
from tests.faults.fault import TRAIN, Fault, Place

STEP = 3
TRAIN_OUT = "train --config {here}/sweep.yaml --out {here}/out"
NEWEST = f"out/checkpoint/step-{STEP}"


def _sweep(place: Place, **changes: object) -> Path:
    """Write a sweep of four small steps."""
    fields = {
        "model": str(place.model),
        "hook_name": "blocks.0.hook_resid_post",
        "sae": {
            "architecture": "regularized_topk",
            "d_sae": 64,
            "k": 4,
            "normalize_activations": "expected_average_only_in",
        },
        "seeds": [0, 1],
        "tokens": 4 * 256,
        "batch_size": 256,
        "context_size": 64,
        "prompts_per_pass": 4,
        "buffer_tokens": 512,
        "llm_dtype": "float32",
        "autocast": False,
        "device": "cpu",
        "log_every": 1,
        "checkpoint_every": 2,
    }
    path = place.here / "sweep.yaml"
    path.write_text(yaml.safe_dump({**fields, **changes}))
    return path


def _interrupted(place: Place) -> None:
    """Leave "out" as a run does that was stopped after its third step."""
    kept = place.model.parent / "interrupted"
    sweep = read_sweep(_sweep(place))
    if not kept.exists():
        members = expand(sweep)
        trainer = open_trainer(sweep, members, kept)
        claim_folder(sweep, trainer.owned)
        trainer.train(StopFlag(), steps=STEP)
        trainer.save_checkpoint()
        trainer.stream.close()
    shutil.copytree(kept, place.here / "out")


def _then(change: Callable[[Path], None]) -> Callable[[Place], None]:
    """Interrupt a run, then change its folder of the newest checkpoint."""

    def arrange(place: Place) -> None:
        _interrupted(place)
        change(place.here / NEWEST)

    return arrange


def _flip(name: str) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        content = bytearray((checkpoint / name).read_bytes())
        middle = len(content) // 2
        for index in range(middle, middle + 8):
            content[index] ^= 0xFF
        (checkpoint / name).write_bytes(bytes(content))

    return change


def _empty(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).write_bytes(b"")


def _remove(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: (checkpoint / name).unlink()


def _swap(first: str, second: str) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        (checkpoint / first).rename(checkpoint / "between")
        (checkpoint / second).rename(checkpoint / first)
        (checkpoint / "between").rename(checkpoint / second)

    return change


def _other_scale(checkpoint: Path) -> None:
    path = checkpoint / "sae-seed0" / "activation_scaler.json"
    scaler = json.loads(path.read_text())
    path.write_text(json.dumps({**scaler, "scaling_factor": 2.0}))


def _other_sweep(place: Place) -> None:
    _interrupted(place)
    (place.here / "out" / "sweep.json").unlink()
    _sweep(place, lr=2e-3)


def _without_sweep_json(place: Place) -> None:
    _interrupted(place)
    (place.here / "out" / "sweep.json").unlink()


def _records_alone(place: Place) -> None:
    _interrupted(place)
    out = place.here / "out"
    owned = open_owned(out, KIND)
    owned.remove(name for name in owned.files() if name.startswith("checkpoint"))
    owned.remove(["progress.json"])
    (out / "sweep.json").unlink()


def _checkpoint_and_progress_gone(place: Place) -> None:
    _interrupted(place)
    shutil.rmtree(place.here / "out" / "checkpoint")
    (place.here / "out" / "progress.json").unlink()


def _records_hold(place: Place) -> None:
    lines = (place.here / "out/records/sae-seed0.jsonl").read_text().splitlines()
    assert len(lines) == STEP


def _killed_before_its_first_checkpoint(place: Place) -> None:
    _checkpoint_and_progress_gone(place)
    note_no_checkpoint(open_owned(place.here / "out", KIND))


def _damaged(name: str, content: str) -> Callable[[Place], None]:
    def arrange(place: Place) -> None:
        _interrupted(place)
        (place.here / "out" / name).write_text(content)

    return arrange


def _half_of_a_line(place: Place) -> None:
    _interrupted(place)
    path = place.here / "out" / "records" / "sae-seed0.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first[:20] + "\n", *others]))


def _older_is_sound(place: Place) -> None:
    """Damage the newest of two checkpoints, as a cut while the older one goes can leave."""
    _interrupted(place)
    out = place.here / "out"
    owned = open_owned(out, KIND)
    older = out / "checkpoint" / "step-2"
    shutil.copytree(place.here / NEWEST, older)
    index = json.loads((older / "checkpoint.json").read_text())
    (older / "checkpoint.json").write_text(json.dumps({**index, "step": 2}))
    names = [path for path in older.rglob("*") if path.is_file()]
    owned_names = [path.relative_to(out).as_posix() for path in names]
    shutil.move(older, place.here / "older")
    owned.claim(owned_names)
    shutil.move(place.here / "older", older)
    _empty("stream.pt")(place.here / NEWEST)


def _link(place: Place) -> None:
    _interrupted(place)
    shutil.move(place.here / "out" / "checkpoint", place.here / "scratch")
    (place.here / "out" / "checkpoint").symlink_to(place.here / "scratch")


def _thesis(place: Place) -> None:
    folder = place.here / "p"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "README.md").write_text("mine")
    (folder / "checkpoint" / "thesis").write_text("mine")


def _thesis_holds(place: Place) -> None:
    for name in ("README.md", "checkpoint/thesis"):
        assert (place.here / "p" / name).read_text() == "mine"
    assert sorted(path.name for path in (place.here / "p").iterdir()) == [
        "README.md",
        "checkpoint",
    ]


def _users_card(place: Place) -> None:
    """A run that was refused or killed early left its mark; the card is the user's."""
    open_owned(place.here / "p", KIND)
    (place.here / "p" / "README.md").write_text("mine")


def _users_card_holds(place: Place) -> None:
    assert (place.here / "p" / "README.md").read_text() == "mine"


def _own_files_next_to_ours(place: Place) -> None:
    _interrupted(place)
    for folder in ("checkpoint", "checkpoint/step-3", "saes/sae-seed0", "stopped"):
        path = place.here / "out" / folder / "mine"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (place.here / "out" / ".checkpoint.0badc0de.old").mkdir()


def _own_files_hold(place: Place) -> None:
    out = place.here / "out"
    for folder in ("checkpoint", "checkpoint/step-3", "saes/sae-seed0", "stopped"):
        assert (out / folder / "mine").read_text() == "mine"
    assert (out / ".checkpoint.0badc0de.old").is_dir()
    listed = yaml.safe_load((out / "release.yaml").read_text())["out"]["saes"]
    assert [sorted(entry["files"]) for entry in listed] == [
        ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"]
    ] * 2
    left = [path.name for path in (out / "checkpoint").rglob("*") if path.is_file()]
    assert left == ["mine", "mine"]


def _nothing_changed(place: Place) -> None:
    kept = place.model.parent / "interrupted" / "checkpoint" / f"step-{STEP}"
    left = {path.name for path in (place.here / NEWEST).rglob("*.safetensors")}
    assert left == {path.name for path in kept.rglob("*.safetensors")}
    assert not (place.here / "out" / "release.yaml").exists()


def _same_as_before(place: Place) -> None:
    """The seeds of the release are those of two runs without an interruption."""
    assert (place.here / "out" / "release.yaml").is_file()
    assert not (place.here / "out" / "checkpoint").exists()
    assert not (place.here / "out" / "progress.json").exists()
    for seed in (0, 1):
        lines = (place.here / f"out/records/sae-seed{seed}.jsonl").read_text()
        steps = [json.loads(line)["step"] for line in lines.splitlines()]
        assert steps == [1, 2, 3, 4]


def _checkpoint_left(place: Place) -> None:
    """As a run that was killed after its manifest was written."""
    name = "checkpoint/step-4/stream.pt"
    open_owned(place.release, KIND).claim([name, "progress.json"])
    path = place.release / name
    path.parent.mkdir(parents=True)
    torch.save({}, path)
    (place.release / "progress.json").write_text('{"checkpoint_step": 4}')


def _no_checkpoint_left(place: Place) -> None:
    assert (place.release / "release.yaml").is_file()
    assert not (place.release / "checkpoint").exists()
    assert not (place.release / "progress.json").exists()


def _finished(place: Place) -> None:
    """A finished sweep, as "out"."""
    kept = place.model.parent / "finished"
    sweep = read_sweep(_sweep(place))
    if not kept.exists():
        run_sweep(sweep, kept, name="out")
    shutil.copytree(kept, place.here / "out")


def _finished_elsewhere(place: Place) -> None:
    """As on a machine whose GPU is not here."""
    _finished(place)
    _sweep(place, device="cuda:99")
    path = place.here / "out" / "sweep.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "device": "cuda:99"}))


def _lost_weights(place: Place) -> None:
    _finished(place)
    (place.here / "out/saes/sae-seed1/sae_weights.safetensors").unlink()


REMEDY = r"Put it back as it was, or remove the folder '.*out' to train from the start"


def _checkpoint_fault(
    name: str, row: str, change: Callable[[Path], None], words: str
) -> Fault:
    return Fault(
        name=name,
        row=row,
        arrange=_then(change),
        command=TRAIN_OUT,
        status=2,
        words=rf"Checkpoint '.*step-3' .*{words}.*{REMEDY}",
        holds=lambda place: None if "missing" in words else _nothing_changed(place),
    )


WEIGHTS, OTHER_WEIGHTS = (f"sae-seed{seed}/sae_weights.safetensors" for seed in (0, 1))

FAULTS = [
    Fault(
        name="training into a folder with the user's files",
        row="D3",
        arrange=_thesis,
        command=f"{TRAIN} --out {{here}}/p",
        status=2,
        words=r"holds files that this package did not write: 'README.md', 'checkpoint'",
        holds=_thesis_holds,
    ),
    Fault(
        name="training into the current folder by an unset variable",
        row="D3",
        command=f"{TRAIN} --out ''",
        status=2,
        words="is the current folder",
    ),
    Fault(
        name="training over the user's model card",
        row="D3",
        arrange=_users_card,
        command=f"{TRAIN} --out {{here}}/p",
        status=2,
        words=r"README.md' was not written by this package",
        holds=_users_card_holds,
    ),
    Fault(
        name="the user's files next to ours survive a resumed run",
        row="D3",
        arrange=_own_files_next_to_ours,
        command=TRAIN_OUT,
        status=0,
        words="Resumes at step 3 of 4",
        holds=_own_files_hold,
    ),
    _checkpoint_fault(
        "stream of a checkpoint is gone",
        "D8",
        _remove("stream.pt"),
        "'stream.pt' is missing",
    ),
    _checkpoint_fault(
        "newest checkpoint is gone",
        "D8",
        lambda checkpoint: shutil.rmtree(checkpoint),
        "is missing",
    ),
    Fault(
        name="checkpoint folder is gone",
        row="D8",
        arrange=_then(lambda checkpoint: shutil.rmtree(checkpoint.parent)),
        command=TRAIN_OUT,
        status=2,
        words=rf"is missing.*{REMEDY}",
    ),
    Fault(
        name="checkpoint folder is a link",
        row="D9",
        arrange=_link,
        command=TRAIN_OUT,
        status=2,
        words="checkpoint' is a link; .* make the whole output folder a link",
    ),
    _checkpoint_fault(
        "weights in a checkpoint have flipped bytes",
        "D10",
        _flip(WEIGHTS),
        f"'{WEIGHTS}' is damaged",
    ),
    _checkpoint_fault(
        "trainer state in a checkpoint has flipped bytes",
        "D10",
        _flip("sae-seed1/trainer_state.pt"),
        "'sae-seed1/trainer_state.pt' is damaged",
    ),
    _checkpoint_fault(
        "stream in a checkpoint has flipped bytes",
        "D10",
        _flip("stream.pt"),
        "'stream.pt' is damaged",
    ),
    _checkpoint_fault(
        "folders of two SAEs in a checkpoint are swapped",
        "D10",
        _swap("sae-seed0", "sae-seed1"),
        r"'sae-seed0/.*' is what was written as 'sae-seed1/",
    ),
    _checkpoint_fault(
        "weights of two SAEs in a checkpoint are swapped",
        "D10",
        _swap(WEIGHTS, OTHER_WEIGHTS),
        f"'{WEIGHTS}' is what was written as '{OTHER_WEIGHTS}'",
    ),
    _checkpoint_fault(
        "scaling factor in a checkpoint is another",
        "D10",
        _other_scale,
        "activation_scaler.json' is damaged",
    ),
    Fault(
        name="newest checkpoint is damaged and an older one is sound",
        row="D10",
        arrange=_older_is_sound,
        command=TRAIN_OUT,
        status=0,
        words="'stream.pt' is damaged.* Resumes at step 2 of 4",
    ),
    Fault(
        name="sweep.json is removed and the sweep is another",
        row="D11",
        arrange=_other_sweep,
        command=TRAIN_OUT,
        status=2,
        words=r"it is of another sweep: lr is 0.0003 there, 0.002 here",
    ),
    Fault(
        name="sweep.json is removed and the sweep is the same",
        row="D11",
        arrange=_without_sweep_json,
        command=TRAIN_OUT,
        status=0,
        words="Resumes at step 3 of 4",
        holds=_same_as_before,
    ),
    Fault(
        name="sweep.json is removed and no checkpoint tells of which sweep",
        row="D11",
        arrange=_records_alone,
        command=TRAIN_OUT,
        status=2,
        words="has training records, but 'sweep.json' is missing.*Put the file back",
    ),
    Fault(
        name="finished sweep is asked for on a machine that could not train it",
        row="message",
        arrange=_finished_elsewhere,
        command=TRAIN_OUT,
        status=0,
        words="of release 'out' are trained already",
    ),
    Fault(
        name="finished sweep has lost the weights of an SAE",
        row="message",
        arrange=_lost_weights,
        command=TRAIN_OUT,
        status=2,
        words=r"out/saes/sae-seed1/sae_weights.safetensors' is missing; expected it for SAE",
    ),
    Fault(
        name="checkpoint and progress.json are gone",
        row="D8",
        arrange=_checkpoint_and_progress_gone,
        command=TRAIN_OUT,
        status=2,
        words="has training records, but 'progress.json' is missing.*Put the file back",
        holds=_records_hold,
    ),
    Fault(
        name="run was killed before its first checkpoint",
        row="D8",
        arrange=_killed_before_its_first_checkpoint,
        command=TRAIN_OUT,
        status=0,
        words="Release 'out' with 2 SAEs",
        holds=_same_as_before,
    ),
    _checkpoint_fault(
        "file of a checkpoint is empty",
        "message",
        _empty("sae-seed0/trainer_state.pt"),
        "'sae-seed0/trainer_state.pt' is damaged",
    ),
    _checkpoint_fault(
        "index of a checkpoint is cut",
        "message",
        lambda checkpoint: (checkpoint / "checkpoint.json").write_text('{"form'),
        "checkpoint.json' is damaged: it is no JSON",
    ),
    _checkpoint_fault(
        "index of a checkpoint names a file elsewhere",
        "message",
        lambda checkpoint: (checkpoint / "checkpoint.json").write_text(
            (checkpoint / "checkpoint.json")
            .read_text()
            .replace("sae-seed0/cfg.json", "../../../passwd")
        ),
        "checkpoint.json' is damaged: it lists '../../../passwd'",
    ),
    Fault(
        name="sweep.json is cut",
        row="message",
        arrange=_damaged("sweep.json", '{"hook_na'),
        command=TRAIN_OUT,
        status=2,
        words="sweep.json' is damaged: it is no JSON.* Put it back",
    ),
    Fault(
        name="sweep.json is a list",
        row="message",
        arrange=_damaged("sweep.json", "[]"),
        command=TRAIN_OUT,
        status=2,
        words="sweep.json' is damaged: it holds no mapping.* Put it back",
    ),
    Fault(
        name="progress.json is damaged",
        row="message",
        arrange=_damaged("progress.json", "{}"),
        command=TRAIN_OUT,
        status=2,
        words="progress.json' is damaged. Remove it",
    ),
    Fault(
        name="a line of a training record is cut",
        row="message",
        arrange=_half_of_a_line,
        command=TRAIN_OUT,
        status=2,
        words="sae-seed0.jsonl' is not as the checkpoint found it: line 1 is no JSON. Put it back",
    ),
    Fault(
        name="killed after the manifest and before the checkpoint is removed",
        row="message",
        arrange=_checkpoint_left,
        command=f"{TRAIN} --out {{release}}",
        status=0,
        words="of release 'release' (is|are) trained already",
        holds=_no_checkpoint_left,
    ),
]
