"""Release folders: what is written, what loads through SAELens, what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from sae_lens import SAE, StandardSAE, TopKSAE, TopKSAEConfig
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from eval_recipes.running.run import subjects_of
from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes
from saereg_plugin.releases.card import folder_card
from saereg_plugin.releases.hashes import verify_files
from saereg_plugin.releases.opening import open_release, register_release, sae_folders
from saereg_plugin.releases.release import (
    LOADER,
    MANIFEST,
    Entry,
    Release,
    read_release,
    write_release,
)

IDS = ["plain-seed0", "plain-seed1", "l2-seed0"]
PUBLIC = "gpt2-small-res-jb"
DICTIONARY_LEARNING = "sae_bench_pythia70m_sweep_topk_ctx128_0730"


def make_sae(seed: int) -> TopKSAE:
    sae = TopKSAE(TopKSAEConfig(d_in=16, d_sae=32, k=4))
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return sae


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Three small SAEs of two groups in a folder, not registered."""
    folder = tmp_path / "lab"
    entries: list[Entry] = []
    for number, sae_id in enumerate(IDS):
        path = folder / "saes" / sae_id
        make_sae(number).save_model(path)
        group, _, seed = sae_id.partition("-seed")
        entry = Entry(
            sae_id, f"saes/{sae_id}", group, int(seed), folder_hashes(path), l0=4.0
        )
        entries.append(entry)
    provenance = {
        "tokens": 4096,
        "created": "2026-01-01T00:00:00+00:00",
        "command": "saereg-bench train",
        "versions": {"torch": "2.0"},
        "sweep": {"hook_name": "blocks.0.hook_resid_post", "corpus": "embedded"},
    }
    name = f"lab-{tmp_path.name}"
    release = Release(name, "tiny-model", tuple(entries), folder, provenance)
    write_release(release)
    return release


@pytest.fixture
def folder(release: Release) -> Path:
    assert release.folder is not None
    return release.folder


def test_manifest_reads_back_as_it_was(release: Release, folder: Path) -> None:
    assert read_release(folder) == release


def test_manifest_has_the_schema_of_saelens_table(
    release: Release, folder: Path
) -> None:
    text = files("sae_lens").joinpath("pretrained_saes.yaml").read_text()
    table = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    manifest = yaml.safe_load((folder / MANIFEST).read_text())
    (name,) = manifest
    assert name == release.name
    own, public = manifest[name], table[PUBLIC]
    # "saereg" is our block; everything else is a key that SAELens' table uses
    used = {key for entry in table.values() for key in entry}
    assert set(own) - used == {"saereg"}
    assert {"repo_id", "model", "saes"} <= set(own) & set(public)
    assert [(sae["id"], sae["path"]) for sae in own["saes"]] == [
        (sae_id, f"saes/{sae_id}") for sae_id in IDS
    ]


@pytest.mark.parametrize(
    "spelling",
    [
        lambda folder: read_release(folder).name,
        lambda folder: folder.name,
        lambda folder: str(folder.resolve()),
    ],
    ids=["name", "as given", "absolute"],
)
def test_saelens_loads_every_spelling(
    release: Release,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    spelling: Callable[[Path], str],
) -> None:
    monkeypatch.chdir(folder.parent)
    assert register_release("lab").entries == release.entries
    for number, sae_id in enumerate(IDS):
        sae = SAE.from_pretrained(spelling(folder), sae_id)
        expected = make_sae(number).state_dict()
        found = sae.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_registering_twice_is_harmless(release: Release, folder: Path) -> None:
    size = len(get_pretrained_saes_directory())
    register_release(folder)
    grown = len(get_pretrained_saes_directory())
    assert register_release(folder).entries == release.entries
    assert len(get_pretrained_saes_directory()) == grown == size + 2
    assert SAE.from_pretrained(release.name, IDS[0]).cfg.d_sae == 32


def test_changed_folder_is_seen_when_registered_again(
    release: Release, folder: Path
) -> None:
    register_release(folder)
    fewer = Release(
        release.name, release.model, release.entries[:1], folder, release.provenance
    )
    write_release(fewer)
    register_release(folder)
    with pytest.raises(ValueError, match=IDS[1]):
        SAE.from_pretrained(release.name, IDS[1])


def test_name_of_a_public_release_is_refused(release: Release, folder: Path) -> None:
    before = get_pretrained_saes_directory()[PUBLIC]
    write_release(Release(PUBLIC, release.model, release.entries, folder))
    with pytest.raises(InputError, match=f"'{PUBLIC}' in .* the name of a public"):
        register_release(folder)
    assert get_pretrained_saes_directory()[PUBLIC] is before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, f"is no release folder: it has no {MANIFEST}"),
        ("a: [", "is no YAML"),
        ("[]", "cannot be read: it is []; expected one release by its name"),
        ("a: 1", "cannot be read: 'a' is 1; expected its fields"),
        ("a: {saes: []}", "release 'a' has the model None; expected text"),
        ("a: {model: m}", "the field 'saes' is None; expected a list of SAEs"),
        ("a: {model: m, saes: []}", "has no block 'saereg' after its SAEs"),
        ("a: {model: m, saes: [{id: x}], saereg: {}}", "has no 'path'; expected one"),
        (
            "a: {model: m, saes: [{id: x, colour: 3}], saereg: {}}",
            "has an unknown field 'colour'",
        ),
        ("a: {}\nb: {}", "cannot be read: it is a mapping of 2 keys"),
    ],
)
def test_unusable_manifest_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / MANIFEST).write_text(text)
    for reader in (read_release, register_release, lambda f: open_release(str(f))):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            reader(tmp_path)
        assert str(tmp_path) in str(caught.value)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, "sae_weights.safetensors' is damaged: its SHA-256 is"),
        (truncate, "sae_weights.safetensors' is damaged: its SHA-256 is"),
        (Path.unlink, "sae_weights.safetensors' is missing; expected it for SAE"),
    ],
)
def test_damaged_file_is_named_and_the_others_load(
    release: Release, folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    register_release(folder)
    damage(folder / "saes" / IDS[1] / "sae_weights.safetensors")
    attempts: list[Callable[[], object]] = [
        lambda: SAE.from_pretrained(release.name, IDS[1]),
        lambda: verify_files(folder, f"saes/{IDS[1]}"),
        lambda: subjects_of(str(folder)),
    ]
    for attempt in attempts:
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            attempt()
        assert IDS[1] in str(caught.value)
    assert SAE.from_pretrained(release.name, IDS[0]).cfg.d_sae == 32
    assert [s.sae_id for s in subjects_of(str(folder), patterns=["*seed0"])] == [
        IDS[0],
        IDS[2],
    ]


# The manifest's own hash


def _edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / MANIFEST
    manifest = yaml.safe_load(path.read_text())
    change(next(iter(manifest.values())))
    path.write_text(yaml.safe_dump(manifest))


def test_every_cut_of_a_manifest_is_refused(folder: Path) -> None:
    lines = (folder / MANIFEST).read_text().splitlines(keepends=True)
    for length in range(len(lines)):
        (folder / MANIFEST).write_text("".join(lines[:length]))
        with pytest.raises(InputError):
            read_release(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda block: block.update(model="other"),
        lambda block: block["saes"][0].update(seed=5),
        lambda block: block["saes"].reverse(),
        lambda block: block["saes"][0].update(l0=None),
        lambda block: block["saereg"].update(tokens=1),
    ],
)
def test_an_edited_manifest_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    _edit(folder, change)
    with pytest.raises(InputError, match="is damaged or was edited"):
        read_release(folder)


def test_a_manifest_without_its_hash_is_read_with_a_warning(
    release: Release, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _edit(folder, lambda block: block["saereg"].pop("manifest_sha256"))
    assert read_release(folder) == read_release(folder) == release
    (record,) = caplog.records
    assert "has no manifest_sha256; damage to it goes unseen" in record.getMessage()
    _edit(folder, lambda block: block["saes"].pop())
    with pytest.raises(InputError, match="lists 2 SAEs; expected 3, as it says itself"):
        read_release(folder)


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    entry = Entry("1e5", "saes/2.5", "007", 0)
    release = Release("1e-5", "true", (entry,), tmp_path, {"command": "null"})
    write_release(release)
    assert read_release(tmp_path) == release


def test_sizes_that_are_not_those_of_the_weights_are_refused(
    release: Release, folder: Path
) -> None:
    path = folder / "saes" / IDS[0] / "cfg.json"
    path.write_text(path.read_text().replace('"d_sae": 32', '"d_sae": 3200000000000'))
    hashes = folder_hashes(path.parent)

    def change(block: dict[str, Any]) -> None:
        block["saes"][0]["files"] = hashes
        del block["saereg"]["manifest_sha256"]

    _edit(folder, change)
    register_release(folder)
    with pytest.raises(
        InputError, match=r"W_enc of \(d_in, d_sae\) \(16, 32\); expected"
    ):
        SAE.from_pretrained(release.name, IDS[0])


def test_configuration_is_read_with_its_hash_checked(
    release: Release, folder: Path
) -> None:
    register_release(folder)
    flip_a_byte(folder / "saes" / IDS[0] / "cfg.json")
    with pytest.raises(InputError, match="cfg.json' is damaged") as caught:
        load_sae_config_from_huggingface(release.name, IDS[0])
    found = folder_hashes(folder / "saes" / IDS[0])["cfg.json"]
    assert found[:8] not in str(caught.value)


def test_a_folder_whose_name_begins_with_a_dot_opens(
    release: Release, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden = folder.rename(folder.parent / ".x")
    assert open_release(str(hidden)).entries == release.entries
    monkeypatch.chdir(hidden.parent)
    assert open_release(".x").name == release.name
    (hidden.parent / "sub").mkdir()
    monkeypatch.chdir(hidden.parent / "sub")
    assert open_release("../.x").name == release.name


@pytest.mark.usefixtures("offline")
def test_misspelt_release_folder_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.rename(folder.parent / "release")
    monkeypatch.chdir(folder.parent.parent)
    name = f"{folder.parent.name}/relase"
    with pytest.raises(InputError) as caught:
        open_release(name)
    message = f"There is no release folder {name!r}. Did you mean '{name[:-6]}release'?"
    assert str(caught.value).startswith(message)


# Choosing and grouping


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        ([], IDS),
        (["plain-seed1"], IDS[1:2]),
        (["plain-*"], IDS[:2]),
        (["l2-*", "plain-seed1"], IDS[1:]),
        (["*seed0", "*-seed?"], IDS),
    ],
)
def test_patterns_choose_in_the_order_of_the_release(
    release: Release, patterns: list[str], chosen: list[str]
) -> None:
    assert [entry.sae_id for entry in release.select(patterns)] == chosen


def test_unknown_sae_suggests_the_nearest(release: Release) -> None:
    message = (
        f"No SAE 'plain-seed2' in release {release.name!r}. Did you mean 'plain-seed"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        release.select(["l2-seed0", "plain-seed2"])


def test_id_with_brackets_chooses_itself() -> None:
    release = Release("r", "m", (Entry("k[8]", "p", "g", 0), Entry("k8", "q", "g", 1)))
    assert [entry.path for entry in release.select(["k[8]"])] == ["p", "q"]


def test_groups_come_from_the_manifest_or_the_expression(folder: Path) -> None:
    groups = [(s.group, s.seed) for s in subjects_of(str(folder))]
    assert groups == [("plain", 0), ("plain", 1), ("l2", 0)]
    other = subjects_of(str(folder), group_by="(?P<group>plain|l2)-seed(?P<seed>0)")
    assert [(s.sae_id, s.group, s.seed) for s in other] == [
        ("plain-seed0", "plain", 0),
        ("l2-seed0", "l2", 0),
    ]


def test_registered_name_opens_with_groups_and_checks(
    release: Release, folder: Path
) -> None:
    register_release(folder)
    assert open_release(release.name).entries == release.entries
    flip_a_byte(folder / "saes" / IDS[0] / "cfg.json")
    with pytest.raises(InputError, match="cfg.json' is damaged"):
        subjects_of(release.name)


def test_model_card_says_how_to_load_each_way(release: Release, folder: Path) -> None:
    card = folder_card(release)
    metadata = ModelCard(card).data
    assert metadata.library_name == "saelens"
    assert metadata.tags == ["sparse-autoencoder", "saelens", "saereg-plugin"]
    for sae_id in IDS:
        assert f"| `{sae_id}` |" in card
    first, second = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    code = first.replace('load_from_disk("', f'load_from_disk("{folder}/')
    assert code != first
    scope: dict[str, Any] = {}
    exec(code, scope)  # the code a reader would copy
    assert scope["sae"].cfg.d_sae == 32
    code = second.replace(f"path/to/{release.name}", str(folder))
    assert code != second
    exec(code, scope)
    assert torch.equal(scope["sae"].W_dec, make_sae(0).W_dec)


def test_model_card_of_an_empty_release_is_written(release: Release) -> None:
    stopped = {**release.provenance, "stopped": ["a-seed0: mse_loss is not finite"]}
    card = folder_card(Release("empty", "m", (), None, stopped))
    assert "- a-seed0: mse_loss is not finite" in card


# Public names and the hub


def test_public_name_opens_from_saelens_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    public = get_pretrained_saes_directory()[PUBLIC]
    cache = tmp_path / f"models--{public.repo_id.replace('/', '--')}"
    cache.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    release = open_release(PUBLIC)
    assert release.folder is None
    assert {e.sae_id: e.path for e in release.entries} == public.saes_map
    assert all(entry.seed is None for entry in release.entries)
    layers = open_release(PUBLIC, group_by=r"blocks\.(?P<seed>[0-9]+)")
    assert {entry.seed for entry in layers.entries} == set(range(12))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "gpt2-small-res-jbb",
            "it is no folder, no hub repository (owner/name), and no public release. "
            "Did you mean 'gpt2-small-res-jb'?",
        ),
        ("./no/such", "No release './no/such': it is no folder"),
        ("/no-such", "No release '/no-such': it is no folder"),
        ("a/b/c", "No release 'a/b/c': it is no folder"),
    ],
)
def test_unknown_release_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        open_release(name)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/nothing", PUBLIC])
def test_unreachable_hub_is_told_within_ten_seconds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    started = time.perf_counter()
    with pytest.raises(InputError, match="the hub cannot be reached"):
        open_release(name)
    assert time.perf_counter() - started < 10
    assert "nobody/nothing" not in get_pretrained_saes_directory()


@pytest.mark.parametrize(
    ("weights", "config", "folders"),
    [
        ("ae.pt", "config.json", ["run/trainer_0", "run/trainer_1"]),
        ("sae_weights.safetensors", "cfg.json", ["saelens/k32"]),
    ],
)
def test_folders_of_a_hub_repository(
    weights: str, config: str, folders: list[str]
) -> None:
    listing = [
        ".gitattributes",
        "README.md",
        "ae.pt",
        "config.json",
        "run/config.json",
        "run/trainer_1/ae.pt",
        "run/trainer_1/config.json",
        "run/trainer_0/ae.pt",
        "run/trainer_0/config.json",
        "run/trainer_0/eval_results.json",
        "run/trainer_2/ae.pt",
        "run/trainer_3/config.json",
        "run/trainer_4/not_ae.pt",
        "run/trainer_4/config.json",
        "saelens/k32/cfg.json",
        "saelens/k32/sae_weights.safetensors",
    ]
    assert sae_folders(listing, weights, config) == folders


def test_dictionary_learning_checkpoint_loads_from_the_local_hub_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookup = get_pretrained_saes_directory()[DICTIONARY_LEARNING]
    assert lookup.conversion_func == "dictionary_learning_1"
    sae_id, path = next(iter(lookup.saes_map.items()))
    root = tmp_path / f"models--{lookup.repo_id.replace('/', '--')}"
    snapshot = root / "snapshots" / ("0" * 40) / path
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    encoder, decoder = torch.randn(32, 16), torch.randn(16, 32)
    torch.save(
        {
            "encoder.weight": encoder,
            "encoder.bias": torch.zeros(32),
            "decoder.weight": decoder,
            "b_dec": torch.ones(16),
        },
        snapshot / "ae.pt",
    )
    trainer = {
        "dict_class": "AutoEncoder",
        "layer": 3,
        "activation_dim": 16,
        "dict_size": 32,
        "lm_name": "EleutherAI/pythia-70m-deduped",
    }
    config = {"trainer": trainer, "buffer": {"ctx_len": 128}}
    (snapshot / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    by_trainer = "trainer_(?P<seed>[0-9]+)"
    with pytest.raises(InputError, match="are pickle files, .* give --allow-pickle"):
        open_release(DICTIONARY_LEARNING, group_by=by_trainer)
    release = open_release(DICTIONARY_LEARNING, group_by=by_trainer, allow_pickle=True)
    (entry,) = release.select([sae_id])
    sae = SAE.from_pretrained(release.name, entry.sae_id)
    assert isinstance(sae, StandardSAE)
    assert torch.equal(sae.W_enc, encoder.T)
    # SAELens scales the rows of a loaded decoder at most; their directions stay
    assert torch.cosine_similarity(sae.W_dec, decoder.T).min() > 0.9999
    assert sae.cfg.metadata.hook_name == "blocks.3.hook_resid_post"


def test_loader_is_registered_under_its_own_name(folder: Path) -> None:
    name = register_release(folder).name
    assert get_pretrained_saes_directory()[name].conversion_func == LOADER
