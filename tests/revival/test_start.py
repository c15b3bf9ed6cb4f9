"""Initial weights and training history of a release, against a training that is watched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from saereg_plugin.errors import InputError
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Entry, Release
from saereg_plugin.revival.start import (
    encoder_norms,
    initial_sae,
    training_history,
)
from saereg_plugin.sweeps import SweepTrainer, run_sweep
from tests.sweeps.tiny import D_IN, SAE, STEPS, tiny_sweep

GROUPS: dict[str, dict[str, Any]] = {
    "rescaled": {"k": 8},
    "unit": {"k": 8, "decoder_constraint": "unit_norm"},
    "untied": {"k": 8, "initialization": "untied"},
    "free": {"architecture": "regularized_standard"},
}


class Watched(NamedTuple):
    release: Release
    trainer: SweepTrainer
    before: dict[str, dict[str, torch.Tensor]]

    def entry(self, name: str) -> Entry:
        (entry,) = self.release.select([name])
        return entry


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """A finished sweep that hardly changes its weights; latents 0 to 2 never fire."""
    before: dict[str, dict[str, torch.Tensor]] = {}
    trainers: list[SweepTrainer] = []

    def watch(trainer: SweepTrainer) -> None:
        trainers.append(trainer)
        for name, each in trainer.trainers.items():
            before[name] = {k: v.clone() for k, v in each.sae.state_dict().items()}
            with torch.no_grad():
                each.sae.b_enc[:3] = -1e6

    sae = {k: v for k, v in SAE.items() if k != "k"}
    sweep = tiny_sweep(sae=sae, groups=GROUPS, seeds=[0, 1], lr=1e-12)
    folder = tmp_path_factory.mktemp("watched") / "release"
    result = run_sweep(sweep, folder, begin=watch)
    assert result.release is not None
    return Watched(register_release(folder), trainers[0], before)


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("seed", [0, 1])
def test_initial_weights_follow_from_seed_and_configuration(
    watched: Watched, group: str, seed: int
) -> None:
    name = f"{group}-seed{seed}"
    found = initial_sae(watched.release, watched.entry(name), d_in=D_IN).state_dict()
    for key in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.equal(found[key], watched.before[name][key]), key


@pytest.mark.parametrize("group", GROUPS)
def test_an_encoder_that_was_not_trained_keeps_its_norm(
    watched: Watched, group: str
) -> None:
    entry = watched.entry(f"{group}-seed0")
    history = training_history(watched.release, entry)
    start = initial_sae(watched.release, entry, d_in=D_IN)
    norms = encoder_norms(start, scale=history.scale)
    saved = watched.release.load(entry.sae_id)
    torch.testing.assert_close(saved.W_enc.norm(dim=0), norms, rtol=1e-5, atol=0)


def test_the_last_step_in_which_a_latent_fired_is_recorded(watched: Watched) -> None:
    for name, trainer in watched.trainer.trainers.items():
        history = training_history(watched.release, watched.entry(name))
        since = trainer.n_forward_passes_since_fired.long()
        assert history.steps == STEPS
        assert history.last_fired is not None and history.never_fired is not None
        assert torch.equal(history.last_fired, (STEPS - since).clamp(min=0))
        assert history.last_fired[:3].tolist() == [0, 0, 0]
        assert bool(history.never_fired[:3].all())
        assert not bool(history.never_fired.all())


def test_a_release_without_that_record_still_tells_what_never_fired(
    watched: Watched, tmp_path: Path
) -> None:
    entry = watched.entry("unit-seed0")
    full = training_history(watched.release, entry)
    file = tmp_path / entry.path / "sparsity.safetensors"
    file.parent.mkdir(parents=True)
    assert watched.release.folder is not None
    stored = load_file(watched.release.folder / entry.path / file.name)
    save_file({"sparsity": stored["sparsity"]}, file)
    older = Release(
        "older", "", (entry,), folder=tmp_path, provenance=watched.release.provenance
    )
    history = training_history(older, entry)
    assert history.last_fired is None and history.scale is None
    assert history.never_fired is not None and full.never_fired is not None
    assert torch.equal(history.never_fired, full.never_fired)


def test_a_release_without_a_sweep_is_refused(watched: Watched) -> None:
    entry = watched.entry("unit-seed0")
    silent = Release("silent", "", (entry,), folder=watched.release.folder)
    with pytest.raises(InputError, match="does not record how it was trained"):
        training_history(silent, entry)
    with pytest.raises(InputError, match="does not record how it was trained"):
        initial_sae(silent, entry, d_in=D_IN)


def test_free_rows_need_the_factor_of_the_activations(watched: Watched) -> None:
    start = initial_sae(watched.release, watched.entry("free-seed0"), d_in=D_IN)
    with pytest.raises(InputError, match="factor of the activations"):
        encoder_norms(start)
