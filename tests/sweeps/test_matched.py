"""The width-matched control of a regularised group."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, TopKSAE, TopKSAEConfig

from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes
from saereg_plugin.metrics import alive_mask
from saereg_plugin.releases.release import Entry, Release, read_release, write_release
from saereg_plugin.sweeps import (
    SweepConfig,
    expand,
    matched_sweep,
    run_sweep,
    sweep_from,
)
from saereg_plugin.sweeps.config import group_fields
from tests.sweeps.tiny import D_IN, PENALTY, fields
from tests.sweeps.tiny import SAE as TINY


def folder_of(release: Release) -> Path:
    assert release.folder is not None
    return release.folder


@pytest.mark.slow
def test_the_control_is_as_wide_as_the_alive_latents_and_all_else_equal(
    trained_release: Release, tmp_path: Path
):
    sweep = matched_sweep(str(folder_of(trained_release)))
    alive = []
    for entry in trained_release.entries:
        sae = SAE.load_from_disk(folder_of(trained_release) / entry.path)
        cosines = (sae.W_enc.T * sae.W_dec).sum(1) / (
            sae.W_enc.norm(dim=0) * sae.W_dec.norm(dim=1)
        )
        alive.append(int((cosines > 0.1).sum()))
        assert alive[-1] == int(alive_mask(sae.W_enc.T, sae.W_dec).sum())
    width = statistics.median_low(alive)
    (control, *_), original = expand(sweep), trained_release.provenance["sweep"]
    assert sweep.matched_to == {"sae-matched": f"{trained_release.name}/sae"}
    assert control.cfg.d_sae == width <= 256
    assert control.cfg.to_dict()["regularizers"] == []
    same = ("tokens", "seeds", "seed", "batch_size", "hook_name", "lr", "corpus")
    found = sweep.to_dict()
    assert {name: found[name] for name in same} == {
        name: original[name] for name in same
    }
    before = {
        member.seed: member.cfg.to_dict()
        for member in expand(sweep_from(original, source="x"))
    }
    for member in expand(sweep):
        changed = {
            key
            for key, value in member.cfg.to_dict().items()
            if before[member.seed][key] != value
        }
        # The metadata repeat the regularisers.
        assert changed - {"metadata"} == {"d_sae", "regularizers"}
    short = {**sweep.to_dict(), "tokens": 2 * sweep.batch_size, "seeds": [0]}
    result = run_sweep(sweep_from(short, source="x"), tmp_path / "control")
    assert result.release is not None
    written = read_release(folder_of(result.release))
    assert written.provenance["matched_to"] == sweep.matched_to


@pytest.mark.slow
def test_what_cannot_be_matched_is_refused(trained_release: Release, tmp_path: Path):
    def refused(name: str, **sweep: object) -> str:
        provenance = {**trained_release.provenance}
        provenance["sweep"] = {**provenance["sweep"], **sweep} if sweep else None
        folder = tmp_path / name
        folder.mkdir()
        shutil.copytree(folder_of(trained_release) / "saes", folder / "saes")
        release = Release(
            name, trained_release.model, trained_release.entries, folder, provenance
        )
        write_release(release)
        with pytest.raises(InputError) as error:
            matched_sweep(str(folder))
        return str(error.value)

    sae = trained_release.provenance["sweep"]["sae"]
    assert "does not record how it was trained" in refused("silent")
    inside = refused("inside", model=str(tmp_path / "inside" / "saes"))
    assert "inside the release itself and may hold code" in inside
    plain = {**sae, "regularizers": []}
    assert "has no regularised group" in refused("plain", sae=plain)
    idle = {**sae, "regularizers": [{"name": "weight_penalty", "coefficient": 0.0}]}
    assert "has no regularised group" in refused("idle", sae=idle)
    wide = {**sae, "k": 300, "d_sae": 512}
    assert "fewer than k=300" in refused("wide", sae=wide)


def recorded(folder: Path, sweep: Mapping[str, Any], *alive: int) -> str:
    """A release of every group of a sweep, untrained: one seed for each number alive."""
    entries: list[Entry] = []
    for group in group_fields(sweep_from(sweep, source="x")):
        for seed, count in enumerate(alive):
            sae = TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=128, k=1))
            rows = torch.eye(D_IN)
            # a dead latent's encoder is orthogonal to its decoder
            encoder = torch.cat([rows[:count], rows[128 : 256 - count]])
            sae.W_dec.data, sae.W_enc.data = rows[:128].clone(), encoder.T.contiguous()
            name = f"{group}-seed{seed}"
            sae.save_model(str(folder / name))
            files = folder_hashes(folder / name)
            entries.append(Entry(name, name, group, seed, files))
    provenance = {"sweep": SweepConfig(**sweep).to_dict()}
    release = Release(folder.name, "x", tuple(entries), folder, provenance)
    write_release(release)
    return str(folder)


def test_a_folder_in_a_list_inside_the_release_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    data = ["emoji", str(folder / "saes")]
    source = {"kind": "module", "model": "m", "point": "p", "data": data}
    name = recorded(folder, {**fields(), "source": source}, 64)
    (folder / "saes").mkdir()
    with pytest.raises(InputError, match="inside the release itself"):
        matched_sweep(name)


MATRYOSHKA = {**TINY, "architecture": "regularized_matryoshka_batchtopk"}


@pytest.mark.parametrize(
    ("widths", "alive", "expected"),
    [
        ([32, 64, 128], 100, [32, 64, 100]),
        ([32, 64], 100, [32, 64, 100]),
        ([32, 64, 128], 64, [32, 64]),
        ([32, 64, 128], 63, [32, 63]),
        ([32, 64, 128], 128, [32, 64, 128]),
        pytest.param(
            *([64, 128], 40, [40]),
            marks=pytest.mark.filterwarnings("ignore::UserWarning"),
        ),
    ],
)
def test_levels_below_the_width_stay(
    tmp_path: Path,
    widths: list[int],
    alive: int,
    expected: list[int],
) -> None:
    sae = {**MATRYOSHKA, "matryoshka_widths": widths}
    groups = {"none": {}, "l2": {"regularizers": [PENALTY]}}
    sweep = fields(sae=sae, groups=groups, seeds=[0])
    control = matched_sweep(recorded(tmp_path / "levels", sweep, alive))
    assert list(control.groups) == ["l2-matched"]
    (member,) = expand(control)
    assert (member.cfg.d_sae, member.cfg.to_dict()["matryoshka_widths"]) == (
        alive,
        expected,
    )


@pytest.mark.slow
def test_a_matryoshka_control_is_trained(tmp_path: Path) -> None:
    """From the release that a sweep wrote, in which SAELens may have added the last level."""
    # a part of the latents begins dead, so that the control is narrower
    sae = {**MATRYOSHKA, "matryoshka_widths": [16, 126], "initialization": "untied"}
    sweep = fields(
        sae=sae,
        groups={"l2": {"regularizers": [{**PENALTY, "coefficient": 1.0}]}},
        seeds=[0],
        tokens=40 * 256,
        lr=1e-2,
    )
    with pytest.warns(UserWarning, match="final matryoshka level"):
        release = run_sweep(sweep_from(sweep, source="x"), tmp_path / "first").release
    assert release is not None
    control = matched_sweep(str(folder_of(release)))
    result = run_sweep(control, tmp_path / "control")
    assert result.release is not None
    (entry,) = result.release.entries
    width = control.groups["l2-matched"]["d_sae"]
    assert control.groups["l2-matched"]["matryoshka_widths"] == [16, width]
    trained = SAE.load_from_disk(folder_of(result.release) / entry.path)
    assert len(trained.W_dec) == width < 126


DECAY = {"name": "weight_decay", "decay": 0.1}
CLIPPING = {"name": "gradient_clipping"}
L2 = {"regularizers": [PENALTY]}


@pytest.mark.parametrize(
    ("groups", "mechanics"),
    [
        # weight decay alone, in the only group and beside others
        ({"a": {"mechanics": [DECAY]}}, {"a": []}),
        ({"a": {"mechanics": [{"name": "weight_decay"}]}}, {"a": []}),
        ({"none": {}, "a": {"mechanics": [CLIPPING, DECAY]}}, {"a": [CLIPPING]}),
        ({"none": {}, "a": {"mechanics": [DECAY]}, "l2": L2}, {"a": [], "l2": None}),
        # beside a regulariser it is part of what the control shares
        ({"none": {}, "both": {**L2, "mechanics": [DECAY]}}, {"both": [DECAY]}),
        # all groups decay their weights: what sets l2 apart is its regulariser
        (
            {"none": {"mechanics": [DECAY]}, "l2": {**L2, "mechanics": [DECAY]}},
            {"l2": [DECAY]},
        ),
        ({"l2": {**L2, "mechanics": [DECAY]}}, {"l2": [DECAY]}),
        # none decays
        ({"none": {}, "l2": {**L2, "mechanics": [CLIPPING]}}, {"l2": [CLIPPING]}),
        (
            {"none": {}, "l2": {**L2, "mechanics": [{**DECAY, "decay": 0.0}]}},
            {"l2": [{**DECAY, "decay": 0.0}]},
        ),
    ],
)
def test_weight_decay_regularises(
    tmp_path: Path,
    groups: dict[str, dict[str, Any]],
    mechanics: dict[str, list[Any] | None],
) -> None:
    sweep = fields(groups=groups, seeds=[0, 1, 2])
    control = matched_sweep(recorded(tmp_path / "decay", sweep, 90, 80, 100))
    assert {
        name.removesuffix("-matched"): given.get("mechanics")
        for name, given in control.groups.items()
    } == mechanics
    for given in control.groups.values():
        assert (given["d_sae"], given["regularizers"]) == (90, [])
    assert control.matched_to == {
        f"{name}-matched": f"decay/{name}" for name in mechanics
    }


def test_a_decay_of_0_is_no_regulariser(tmp_path: Path) -> None:
    groups = {"a": {"mechanics": [{**DECAY, "decay": 0}]}, "b": {"mechanics": None}}
    name = recorded(tmp_path / "idle", fields(groups=groups, seeds=[0]), 90)
    with pytest.raises(InputError, match="has no regularised group"):
        matched_sweep(name)
