"""The width-matched control of a regularised group."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from sae_lens import SAE

from saereg_plugin.errors import InputError
from saereg_plugin.metrics import alive_mask
from saereg_plugin.releases import Release, read_release, write_release
from saereg_plugin.sweeps import expand, matched_sweep, run_sweep, sweep_from

pytestmark = pytest.mark.slow


def folder_of(release: Release) -> Path:
    assert release.folder is not None
    return release.folder


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


def test_what_cannot_be_matched_is_refused(trained_release: Release, tmp_path: Path):
    def refused(name: str, **sweep: object) -> str:
        provenance = {**trained_release.provenance}
        provenance["sweep"] = {**provenance["sweep"], **sweep} if sweep else None
        folder = tmp_path / name
        folder.mkdir()
        (folder / "saes").symlink_to(folder_of(trained_release) / "saes")
        release = Release(
            name, trained_release.model, trained_release.entries, folder, provenance
        )
        write_release(release)
        with pytest.raises(InputError) as error:
            matched_sweep(str(folder))
        return str(error.value)

    sae = trained_release.provenance["sweep"]["sae"]
    assert "does not record how it was trained" in refused("silent")
    plain = {**sae, "regularizers": []}
    assert "has no regularised group" in refused("plain", sae=plain)
    idle = {**sae, "regularizers": [{"name": "weight_penalty", "coefficient": 0.0}]}
    assert "has no regularised group" in refused("idle", sae=idle)
    wide = {**sae, "k": 300, "d_sae": 512}
    assert "fewer than k=300" in refused("wide", sae=wide)
