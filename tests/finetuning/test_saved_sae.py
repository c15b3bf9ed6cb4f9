"""Training SAEs rebuilt from saved ones compute what these compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.constants import SAE_CFG_FILENAME
from sae_lens.training.activation_scaler import ActivationScaler
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes, read_json
from saereg_plugin.finetuning.saved_sae import (
    SavedSAE,
    in_training_units,
    member_of,
    read_saved,
    training_fields,
)
from saereg_plugin.registry import training_classes
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import Entry, Release, write_release
from tests.training import (
    ARCHITECTURES,
    D_SAE,
    TOPK_ARCHITECTURES,
    batches,
    forward,
    make_sae,
    make_stock_sae,
    make_trainer,
    run_steps,
)

HOOK = "blocks.2.hook_resid_post"
CASES = [
    (scale, constraint)
    for scale in ("none", "expected_average_only_in", "covariance_whitening")
    for constraint in ("none", "unit_norm")
    # is refused: undoing the whitening would change the rows' norms
    if (scale, constraint) != ("covariance_whitening", "unit_norm")
]


def save(
    folder: Path, sae: Any, activations: Tensor, *, inference: bool = True
) -> tuple[Release, ActivationScaler]:
    """Train an SAE for three steps, and save it as a release without a sweep."""
    trainer = make_trainer(sae, batches(activations), steps=3)
    if sae.cfg.normalize_activations == "expected_average_only_in":
        trainer.activation_scaler.scaling_factor = 0.37
    if sae.cfg.normalize_activations == "covariance_whitening":
        trainer.activation_scaler.estimate_whitening(
            sae.cfg.d_in, iter([activations[:4096]]), n_batches_for_norm_estimate=1
        )
    run_steps(trainer, 3)
    scaler = trainer.activation_scaler
    if scaler.scaling_factor is not None:
        sae.fold_activation_norm_scaling_factor(scaler.scaling_factor)
    if scaler.whitening is not None:
        sae.fold_activation_whitening(
            scaler.whitening.mean,
            scaler.whitening.matrix,
            scaler.whitening.inverse_matrix,
        )
    sae.cfg.metadata.hook_name = HOOK
    path = folder / "one"
    sae.save_inference_model(path) if inference else sae.save_model(path)
    entry = Entry("one", "one", "group", 3, files=folder_hashes(path))
    write_release(Release(folder.name, "m", (entry,), folder=folder))
    return open_release(str(folder)), scaler


def rebuilt(release: Release, given: dict[str, Any]) -> tuple[SavedSAE, Any]:
    saved = read_saved(release, release.entries[0])
    member = member_of(saved, None, given, point=HOOK, device="cpu")
    sae = training_classes(member.cfg.architecture())[0](member.cfg)
    saved.load_into(sae)
    return saved, sae


def by_threshold(sae: Any, x: Tensor) -> Tensor:
    """Reconstruction of a BatchTopK SAE by its threshold, as it is saved."""
    _, hidden = sae.encode_with_hidden_pre(x)
    acts = hidden.relu() * (hidden > sae.topk_threshold)
    return sae.decode(acts)


@pytest.mark.parametrize(("scale", "constraint"), CASES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rebuilt_sae_computes_what_was_saved(
    tmp_path: Path,
    activations: Tensor,
    architecture: str,
    scale: str,
    constraint: str,
) -> None:
    sae = make_sae(
        architecture, normalize_activations=scale, decoder_constraint=constraint
    )
    release, scaler = save(tmp_path / "release", sae, activations)
    # another estimate than the training's serves as well
    if scaler.scaling_factor is not None:
        scaler.scaling_factor *= 1.3
    _, again = rebuilt(release, {"normalize_activations": scale})
    in_training_units(again, scaler)
    assert again.cfg.normalize_activations == scale
    x = activations[:256]
    inference = release.load("one")
    with torch.no_grad():
        wanted = inference(x)
        scaled = scaler(x)
        if architecture in ("batchtopk", "matryoshka_batchtopk"):
            found = by_threshold(again, scaled)
        else:
            found = again(scaled)
        found = scaler.unscale(found)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=2e-3)
    if constraint == "unit_norm":
        norms = again.W_dec.norm(dim=-1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configuration_comes_from_the_saved_sae(
    tmp_path: Path, activations: Tensor, architecture: str
) -> None:
    penalty = {"name": "weight_penalty", "coefficient": 1e-3}
    sae = make_sae(architecture, regularizers=[penalty], init_seed=3)
    wanted = sae.cfg.to_dict()
    release, _ = save(tmp_path / "release", sae, activations)
    saved = read_saved(release, release.entries[0])
    member = member_of(saved, None, {}, point=HOOK, device="cpu")
    found = member.cfg.to_dict()
    assert member.seed == 3
    assert {k: v for k, v in found.items() if k != "metadata"} == {
        k: v for k, v in wanted.items() if k != "metadata"
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saelens_own_saes_become_their_regularised_twins(
    tmp_path: Path, activations: Tensor, architecture: str
) -> None:
    sae = make_stock_sae(architecture)
    release, _ = save(tmp_path / "release", sae, activations)
    _, again = rebuilt(release, {})
    assert again.cfg.architecture() == f"regularized_{architecture}"
    assert again.cfg.d_sae == D_SAE
    with torch.no_grad():
        output = forward(again, activations[:64])
    assert bool(output.loss.isfinite())
    if architecture in TOPK_ARCHITECTURES:
        assert again.cfg.k == 8


def test_restarts_of_latents_are_left_out() -> None:
    saved = SavedSAE(
        Entry("one", "one", "g", 0),
        {"architecture": "topk", "d_in": 4, "d_sae": 64, "k": 32},
        {},
    )
    recorded = {
        "architecture": "regularized_topk",
        "k": 32,
        "mechanics": [
            {"name": "resampling", "threshold": 0.001},
            {"name": "gradient_clipping", "max_norm": 0.1},
        ],
    }
    fields = training_fields(saved, recorded, {})
    assert [each["name"] for each in fields["mechanics"]] == ["gradient_clipping"]


@pytest.mark.parametrize(
    ("architecture", "field"),
    [("standard", "l1_coefficient"), ("jumprelu", "l0_coefficient")],
)
def test_an_sae_that_does_not_say_how_sparse_it_was_trained_is_refused(
    architecture: str, field: str
) -> None:
    cfg = {"architecture": architecture, "d_in": 4, "d_sae": 8}
    saved = SavedSAE(Entry("one", "one", "g", 0), cfg, {})
    with pytest.raises(InputError, match=f"'{field}' is not known.*--field {field}="):
        training_fields(saved, None, {})
    assert training_fields(saved, None, {field: 2.0})[field] == 2.0


def test_unknown_architectures_and_fields_are_refused() -> None:
    entry = Entry("one", "one", "g", 0)
    other = SavedSAE(entry, {"architecture": "transcoder", "d_in": 4, "d_sae": 8}, {})
    with pytest.raises(
        InputError, match="'transcoder' SAE, which cannot be fine-tuned"
    ):
        training_fields(other, None, {})
    topk = SavedSAE(entry, {"architecture": "topk", "d_in": 4, "d_sae": 8, "k": 2}, {})
    with pytest.raises(InputError, match="no field 'l1'"):
        training_fields(topk, None, {"l1": 2.0})


def test_weights_of_another_shape_are_refused(
    tmp_path: Path, activations: Tensor
) -> None:
    release, _ = save(tmp_path / "release", make_sae("topk"), activations)
    saved = read_saved(release, release.entries[0])
    assert read_json(tmp_path / "release/one" / SAE_CFG_FILENAME, remedy="")["k"] == 8
    with pytest.raises(InputError, match=r"W_dec of shape .*needs \(128, 576\)"):
        saved.load_into(make_sae("topk", d_sae=128))
    assert saved.digest() == read_saved(release, release.entries[0]).digest()
