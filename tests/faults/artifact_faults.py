"""Faults of the folder of artefacts and of the cache."""

from __future__ import annotations

import json
import os
import pickle
import shlex

from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.running.artifacts import artifact_folder
from tests.eval_recipes.running.hostile import Hostile
from tests.faults.fault import RESUMED, RUN, Fault, Place

_TPP = (
    "--option tpp.dataset_names=[embedded/ag_news] --option tpp.n_values=[2] "
    "--option tpp.train_set_size=20 --option tpp.test_set_size=20 "
    "--option tpp.context_length=8 --option tpp.n_resamples=20"
)
_ONE_STEP = "--option meta_structure.train_steps=1"
_OURS = "{here}/artifacts"
_TOKENS = (
    "--explainer tokens --option autointerp.latents=[0,1] "
    "--option autointerp.total_tokens=2048 --option autointerp.llm_context_size=32"
)


def _run(evals: str, options: str, artifacts: str = "{here}/kept") -> str:
    return (
        f"run --sae-release {{release}} --out {{here}}/out --evals {evals} --data embedded "
        f"--sae-id none-seed0 --artifacts {artifacts} {options}"
    )


def _do(place: Place, command: str) -> None:
    """Run a command that must succeed, in this process."""
    words = command.format(release=place.release, here=place.here, model=place.model)
    done = CliRunner().invoke(app, shlex.split(words))
    assert done.exit_code in (0, 1), done.output


def _swap_probes(place: Place) -> None:
    _do(place, _run("tpp", _TPP))
    (probes,) = place.here.glob("kept/tpp/*/probes.safetensors")
    hostile = pickle.dumps(Hostile(place.here / "ran"))
    probes.write_bytes(hostile)
    (probes.parent / "embedded_ag_news_probes.pkl").write_bytes(hostile)


def _nothing_ran(place: Place) -> None:
    assert not (place.here / "ran").exists()
    # upstream joins the model's name, here a path, to that of a folder it makes
    assert not [path for path in place.model.iterdir() if path.is_dir()]


def _flip_activations(place: Place) -> None:
    _do(place, _run("autointerp", _TOKENS))
    (file,) = place.here.glob("kept/autointerp/*/activations.bin")
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[0:4096] = bytes(4096)
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def _cut_tokens(place: Place) -> None:
    _do(place, _run("autointerp", _TOKENS))
    (file,) = place.here.glob("kept/autointerp/*/tokens.pt")
    file.write_bytes(file.read_bytes()[:100])


def _block(place: Place) -> None:
    (place.here / "blocked").touch()


def _credentials(place: Place) -> None:
    key = place.here / "documents" / "cloud" / "account" / "key.json"
    key.parent.mkdir(parents=True)
    key.write_text('{"private_key": "x"}')


def _credentials_stay(place: Place) -> None:
    key = place.here / "documents" / "cloud" / "account" / "key.json"
    assert json.loads(key.read_text()) == {"private_key": "x"}
    assert [path.name for path in (place.here / "documents").iterdir()] == ["cloud"]
    assert (place.results / "core").is_dir()


def _credentials_in_ours(place: Place) -> None:
    kept = artifact_folder(place.here / "artifacts", "core", {"hook": "h"})
    with kept.write("a.bin") as temporary:
        temporary.write_bytes(bytes(3000))
    key = place.here / "artifacts" / "cloud" / "account" / "key.json"
    key.parent.mkdir(parents=True)
    key.write_text("{}")


def _only_ours_went(place: Place) -> None:
    assert (place.here / "artifacts" / "cloud" / "account" / "key.json").is_file()
    assert not list(place.here.glob("artifacts/*/*/index.json"))


FAULTS = [
    Fault(
        name="probes among the artefacts are a hostile pickle",
        row="D2",
        arrange=_swap_probes,
        command=_run("tpp", _TPP + " --fresh"),
        status=0,
        words=r"probes\.safetensors' is damaged .*made again",
        holds=_nothing_ran,
    ),
    Fault(
        name="activations of autointerp are damaged, size and time kept",
        row="D13",
        arrange=_flip_activations,
        command=_run("autointerp", _TOKENS + " --fresh"),
        status=0,
        words=r"activations\.bin' is damaged .*made again",
    ),
    Fault(
        name="tokens of autointerp are cut",
        row="message",
        arrange=_cut_tokens,
        command=_run("autointerp", _TOKENS + " --fresh"),
        status=0,
        words=r"tokens\.pt' is damaged .*made again",
    ),
    Fault(
        name="no artefacts can be kept, and no evaluation of the run keeps any",
        row="message",
        arrange=_block,
        command=f"{RESUMED} --artifacts {{here}}/blocked/artifacts",
        status=0,
        words="Kept from earlier runs, since they are current: 4 results",
    ),
    Fault(
        name="no artefacts can be kept by an evaluation that does",
        row="message",
        arrange=_block,
        command=_run("meta_structure", _ONE_STEP, "{here}/blocked/artifacts"),
        status=2,
        words=r"blocked/artifacts' is not writable",
    ),
    Fault(
        name="--artifacts is a folder of documents, to be cleaned",
        row="D4",
        arrange=_credentials,
        command=f"{RUN} --artifacts {{here}}/documents --clean-artifacts",
        status=2,
        words=r"documents' holds files that this package did not write: 'cloud'",
        holds=_credentials_stay,
    ),
    Fault(
        name="credentials lie in the folder that is cleaned",
        row="D4",
        arrange=_credentials_in_ours,
        command=_run("meta_structure", f"{_ONE_STEP} --clean-artifacts", _OURS),
        status=0,
        words="none-seed0",
        holds=_only_ours_went,
    ),
    Fault(
        name="--artifacts is the current folder",
        row="D4",
        command=f"{RUN} --artifacts {{here}} --clean-artifacts",
        status=2,
        words="is the current folder",
    ),
    Fault(
        name="--keep has no unit",
        row="message",
        command="artifacts --keep 20",
        status=2,
        words="Size '20' cannot be read; expected a number and B, kB, MB, GB",
    ),
    Fault(
        name="--replies without --keep",
        row="message",
        command="artifacts --replies",
        status=2,
        words="expected --keep SIZE next to it",
    ),
    Fault(
        name="artefacts of a folder that does not exist are listed",
        row="message",
        command="artifacts --artifacts {here}/nowhere",
        status=2,
        words="nowhere' does not exist",
    ),
    Fault(
        name="artefacts of a folder of others are listed and removed",
        row="D4",
        arrange=_credentials,
        command="artifacts --artifacts {here}/documents --keep 0",
        status=2,
        words="did not write: 'cloud'",
        holds=_credentials_stay,
    ),
    Fault(
        name="old artefacts are removed",
        row="F12",
        arrange=_credentials_in_ours,
        command="artifacts --artifacts {here}/artifacts --keep 2kB",
        status=0,
        words=r"0 B in .*Removed 1 of them: 3\.0 kB",
        holds=_only_ours_went,
    ),
]
