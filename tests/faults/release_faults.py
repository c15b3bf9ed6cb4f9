"""Faults of release folders that are read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file

from saereg_plugin.files import sha256
from saereg_plugin.releases.release import BLOCK, COUNT, HASH, MANIFEST
from tests.faults.fault import RUN, SMALL, TRAIN, Fault, Place

FIRST, SECOND = "none-seed0", "none-seed1"
CORE_ALONE = "run --sae-release {release} --out {results} --evals core " + SMALL


def _saes(place: Place, sae_id: str) -> Path:
    return place.release / "saes" / sae_id


def _cut_weights(place: Place) -> None:
    path = _saes(place, FIRST) / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _text(change: Callable[[str], str]) -> Callable[[Place], None]:
    """Return what rewrites the manifest as text."""

    def arrange(place: Place) -> None:
        path = place.release / MANIFEST
        path.write_text(change(path.read_text()))

    return arrange


def _release(change: Callable[[dict[str, Any]], None]) -> Callable[[Place], None]:
    """Return what rewrites the manifest as an attacker would, without its own hash."""

    def arrange(place: Place) -> None:
        path = place.release / MANIFEST
        manifest = yaml.safe_load(path.read_text())
        for key in (HASH, COUNT):
            manifest["release"][BLOCK].pop(key, None)
        change(manifest)
        path.write_text(yaml.safe_dump(manifest))

    return arrange


def _first(**fields: Any) -> Callable[[Place], None]:
    """Return what changes fields of the first SAE's entry."""
    return _release(lambda manifest: manifest["release"]["saes"][0].update(fields))


def _renamed(name: Any) -> Callable[[Place], None]:
    def change(manifest: dict[str, Any]) -> None:
        manifest[name] = manifest.pop("release")

    return _release(change)


def _config(
    sae_id: str, change: Callable[[dict[str, Any]], None]
) -> Callable[[Place], None]:
    """Return what changes an SAE's configuration, and its hash in the manifest."""

    def arrange(place: Place) -> None:
        path = _saes(place, sae_id) / "cfg.json"
        config = json.loads(path.read_text())
        change(config)
        path.write_text(json.dumps(config))
        _rehash(place, sae_id)

    return arrange


def _rehash(place: Place, sae_id: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        for sae in manifest["release"]["saes"]:
            if sae["id"] == sae_id:
                for name in sae["files"]:
                    sae["files"][name] = sha256(_saes(place, sae_id) / name)

    _release(change)(place)


def _metadata(**fields: Any) -> Callable[[Place], None]:
    """Return what changes metadata of both SAEs."""

    def arrange(place: Place) -> None:
        for sae_id in (FIRST, SECOND):
            _config(sae_id, lambda config: config["metadata"].update(fields))(place)

    return arrange


def _with_model(name: str) -> Callable[[Place], None]:
    """Return what puts a model with code of its own into the release, spelled as ``name``."""

    def arrange(place: Place) -> None:
        folder = place.release / "lm"
        folder.mkdir()
        for path in place.model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "evil.py").write_text(
            "open('PWNED', 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as L\n"
            "class EC(C): pass\nclass EL(L): config_class = EC\n"
        )
        config = json.loads((folder / "config.json").read_text())
        config["auto_map"] = {
            "AutoConfig": "evil.EC",
            "AutoModelForCausalLM": "evil.EL",
        }
        (folder / "config.json").write_text(json.dumps(config))
        (place.here / "link").symlink_to(folder)
        _metadata(model_name=name.format(here=place.here))(place)

    return arrange


def _nothing_ran(place: Place) -> None:
    assert not (place.here / "PWNED").exists()
    assert (place.results / "core").is_dir()


def _linked_out(place: Place) -> None:
    folder = _saes(place, FIRST)
    folder.rename(place.here / "elsewhere")
    folder.symlink_to(place.here / "elsewhere")


def _no_object(place: Place) -> None:
    (_saes(place, FIRST) / "cfg.json").write_text("[1]")
    _rehash(place, FIRST)


def _wider(place: Place) -> None:
    """Make the second SAE of the group a proper one of another width."""
    path = _saes(place, SECOND) / "sae_weights.safetensors"
    weights = load_file(path)
    sizes = {"W_enc": (slice(None), slice(32)), "W_dec": slice(32), "b_enc": slice(32)}
    for name, part in sizes.items():
        weights[name] = weights[name][part].clone()
    save_file(weights, path)
    sparsity = _saes(place, SECOND) / "sparsity.safetensors"
    save_file({"sparsity": load_file(sparsity)["sparsity"][:32].clone()}, sparsity)
    _config(SECOND, lambda config: config.update(d_sae=32))(place)


def _groups_file(text: str) -> Callable[[Place], None]:
    return lambda place: (place.here / "groups.yaml").write_text(text) and None


def _same_results(place: Place) -> None:
    assert len(list(place.results.glob("*/*_eval_results.json"))) == 4


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{previous}'] * 10)}]\n"
    for previous, name in zip("abcdefgh", "bcdefghi")
)

MANIFESTS = [
    ("D12", "release.yaml is cut between two entries", _text(lambda s: s[: s.index(f"  - id: {SECOND}")]), r"release\.yaml' has no block 'saereg' after its SAEs: it was cut short"),
    ("D12", "an SAE is taken out of release.yaml", _text(lambda s: s[: s.index(f"  - id: {SECOND}")] + s[s.index(f"  {BLOCK}:\n") :]), r"release\.yaml' lists 1 SAEs; expected 2, as it says itself"),
    ("D12", "release.yaml is edited", _text(lambda s: s.replace("seed: 1\n", "seed: 7\n", 1)), r"release\.yaml' is damaged or was edited: its manifest_sha256"),
    ("message", "release.yaml is empty", _text(lambda _: ""), r"release\.yaml' is empty; expected a release\. Restore it from a copy, or remove it and train"),
    ("D25", "alias bomb in release.yaml", _text(lambda s: BOMB + s), r"stands for over 1,000,000 values"),
    ("D20", "a key twice in release.yaml", _text(lambda s: s.replace("    seed: 0\n", "    seed: 0\n    seed: 1\n", 1)), r"the key 'seed' occurs twice"),
    ("held", "YAML tag in release.yaml", _text(lambda s: s.replace("model:", "model: !!python/object/apply:os.system [id] #")), r"is no YAML: could not determine a constructor"),
    ("D19", "path leads up", _first(path="../elsewhere"), r"has the path '\.\./elsewhere'; expected a folder inside .*\. Correct it, or get the release again"),
    ("D19", "path is absolute", _first(path="/etc"), r"has the path '/etc'; expected a folder inside"),
    ("D19", "path is a link out of the release", _linked_out, r"is a link that leads out of the release"),
    ("D19", "no files are listed", _first(files={}), r"has no SHA-256 of 'cfg\.json' for SAE 'none-seed0'"),
    ("D19", "a file that is read is not listed", _release(lambda m: m["release"]["saes"][0]["files"].pop("sparsity.safetensors") and None), r"has no SHA-256 of 'sparsity\.safetensors' for SAE 'none-seed0'"),
    ("message", "files of another folder", _first(path="../../../etc", files={"passwd": "0" * 64}), r"has the path '\.\./\.\./\.\./etc'"),
    ("message", "a file with a path", _first(files={"../../release.yaml": "0" * 64}), r"has a file called '\.\./\.\./release\.yaml'; expected the name of a file"),
    ("message", "a hash that is none", _first(files={"cfg.json": "x"}), r"the SHA-256 of 'cfg\.json' is 'x'; expected 64 .*\. Correct it, or get the release again"),
    ("message", "id is null", _first(id=None), r"SAE number 1: its id is None, a NoneType; expected text"),
    ("message", "id is a number", _first(id=5), r"its id is 5, a int; expected text"),
    ("message", "id with NUL", _first(id="a\0b"), r"its id 'a\\x00b' has control characters"),
    ("message", "id of 5,000 characters", _first(id="a" * 5000), r"its id 'a+\.\.\.' has 5000 bytes"),
    ("message", "id leads up", _first(id="../../x"), r"its id '\.\./\.\./x' begins with a dot"),
    ("message", "escape sequence in an id", _first(id="\x1b[2Jx"), r"its id '\\x1b\[2Jx' has control characters"),
    ("message", "escape sequence in a release's name", _renamed("\x1b[2Jx"), r"the release's name '\\x1b\[2Jx' has control characters"),
    ("message", "a release's name is null", _renamed(None), r"the release's name is None"),
    ("D15", "a release's name begins with a dot", _renamed(".x"), r"the release's name '\.x' begins with a dot"),
    ("D15", "a release's name leads up", _renamed("../x"), r"the release's name '\.\./x' begins with a dot"),
    ("message", "two SAEs of one id", _first(id=SECOND), r"two SAEs have the id 'none-seed1'; .*\. Correct it, or get the release again"),
    ("message", "two SAEs in one folder", _first(path=f"saes/{SECOND}"), r"two SAEs have the path 'saes/none-seed1'"),
    ("D17", "seed is no whole number", _first(seed=1.5), r"has the seed 1\.5; expected a whole number"),
    ("message", "l0 is text", _first(l0="4"), r"has the l0 '4'; expected a finite number, or null"),
    ("message", "group is null", _first(group=None), r"its group is None"),
    ("message", "cfg.json is no object", _no_object, r"cfg\.json' is no configuration of an SAE"),
    ("message", "d_sae of cfg.json is not that of the weights", _config(FIRST, lambda c: c.update(d_sae=10**12)), r"has W_enc of \(d_in, d_sae\) \(16, 64\); expected \(16, 1000000000000\)"),
]  # fmt: skip


FAULTS = [
    Fault(
        name="weights of a release are cut",
        row="held",
        arrange=_cut_weights,
        command=RUN,
        status=2,
        words=r"none-seed0/sae_weights\.safetensors' is damaged",
    ),
    *(
        Fault(
            name=name,
            row=row,
            arrange=arrange,
            command=RUN,
            status=2,
            words=words,
            holds=_same_results,
        )
        for row, name, arrange, words in MANIFESTS
    ),
    *(
        Fault(
            name=f"{name}; train",
            row=row,
            arrange=arrange,
            command=f"{TRAIN} --out {{release}}",
            status=2,
            words=words,
        )
        for row, name, arrange, words in (MANIFESTS[0], MANIFESTS[3])
    ),
    # Code
    *(
        Fault(
            name=f"a release says {name}",
            row="D1",
            arrange=_metadata(model_from_pretrained_kwargs=arguments),
            command=CORE_ALONE,
            status=2,
            words=words,
            holds=_same_results,
        )
        for name, arguments, words in (
            ("trust_remote_code", {"trust_remote_code": True}, r"loaded with trust_remote_code=True, which may run code"),
            ("attn_implementation", {"attn_implementation": "owner/kernel"}, r"attn_implementation='owner/kernel', which may run"),
            ("revision", {"revision": "refs/pr/1"}, r"revision='refs/pr/1', which may run"),
            ("fold_ln as text", {"fold_ln": "os.system"}, r"fold_ln='os\.system', which may run"),
            ("arguments in a list", ["trust_remote_code"], r"model_from_pretrained_kwargs = \['trust_remote_code'\]"),
        )
    ),
    *(
        Fault(
            name=f"a release's model is in its own folder: {name}",
            row="D1",
            arrange=_with_model(name),
            command=CORE_ALONE,
            status=2,
            words=r"a folder inside the release itself, which may hold code; .* --trust-remote-code",
            holds=_nothing_ran,
        )
        for name in (
            "release/lm",
            "{here}/release/lm",
            "./release/../release/lm",
            "link",
        )
    ),
    Fault(
        name="a trusted release with a model in its own folder",
        row="D1",
        arrange=_with_model("release/lm"),
        command=f"{CORE_ALONE} --trust-remote-code",
        status=0,
        words="core",
    ),
    Fault(
        name="a trusted release says trust_remote_code",
        row="D1",
        arrange=_metadata(model_from_pretrained_kwargs={"trust_remote_code": True}),
        command=f"{CORE_ALONE} --trust-remote-code",
        status=0,
        words="core",
    ),
    # Groups
    Fault(
        name="a group with two k",
        row="D16",
        arrange=_config(SECOND, lambda config: config.update(k=3)),
        command=RUN,
        status=2,
        words=r"'none-seed0' and 'none-seed1' of group 'none' differ in k: 4 and 3\. Expected SAEs",
        holds=_same_results,
    ),
    Fault(
        name="two k by --group-by",
        row="D16",
        arrange=_config(SECOND, lambda config: config.update(k=3)),
        command=f"{RUN} --group-by 'seed(?P<seed>[0-9]+)'",
        status=2,
        words=r"of group 'none-' differ in k: 4 and 3",
    ),
    Fault(
        name="a group with two hooks",
        row="D16",
        arrange=_config(
            SECOND,
            lambda config: config["metadata"].update(
                hook_name="blocks.1.hook_resid_post"
            ),
        ),
        command=RUN,
        status=2,
        words=r"differ in hook_name: 'blocks\.0\.hook_resid_post' and 'blocks\.1",
    ),
    Fault(
        name="a group with two regularisers",
        row="D16",
        arrange=_config(
            SECOND,
            lambda config: config["metadata"]["training_architecture_details"].update(
                regularizers=[{"name": "weight_penalty"}]
            ),
        ),
        command=RUN,
        status=2,
        words=r"differ in training_architecture_details\.regularizers: \[\] and \[\{'name'",
    ),
    Fault(
        name="a group of two widths",
        row="message",
        arrange=_wider,
        command=RUN,
        status=2,
        words=r"of group 'none' differ in d_sae: 64 and 32",
    ),
    Fault(
        name="--group-by takes exponential time",
        row="message",
        arrange=_first(id="a" * 60),
        command=f"{RUN} --group-by {shlex.quote('^((a|aa)+)+(?P<seed>[0-9])$')}",
        status=2,
        words=r"takes over 2 seconds on 'a+'; expected an expression without repeats inside",
    ),
    Fault(
        name="--group-by finds a seed of 30 digits",
        row="message",
        arrange=_first(id=f"k{'1' * 30}"),
        command=f"{RUN} --group-by '(?P<seed>[0-9]+)'",
        status=2,
        words=r"finds the seed '1{30}' in .* expected digits\. At most 18",
    ),
    Fault(
        name="--group-by file with a seed of a half",
        row="D17",
        arrange=_groups_file(f"{FIRST}: {{group: a, seed: 1.5}}\n"),
        command=f"{RUN} --group-by groups.yaml",
        status=2,
        words=r"'none-seed0' has \{'group': 'a', 'seed': 1\.5\}; expected",
    ),
    Fault(
        name="--group-by file with group null",
        row="message",
        arrange=_groups_file(f"{FIRST}: {{group: null, seed: 1}}\n"),
        command=f"{RUN} --group-by groups.yaml",
        status=2,
        words=r"the group of 'none-seed0' is None",
    ),
]  # fmt: skip
