"""Dead latents given back: what each arm starts from, and the run of a whole release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import SAE
from torch import Tensor

from saereg_plugin.errors import InputError
from saereg_plugin.registry import training_classes
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Release
from saereg_plugin.revival.training import (
    NothingDeadError,
    RevivalPlan,
    dead_latents,
    plan_revival,
    reseed_,
    run_revival,
    start_member_,
)
from saereg_plugin.revival.weights import load_trained_
from saereg_plugin.sweeps import SweepTrainer, expand, run_sweep
from tests.sweeps.tiny import PENALTY, tiny_sweep
from tests.sweeps.tiny import SAE as TINY

D_IN, D_SAE, ROWS = 12, 20, 64
DEAD = 6

KINDS: dict[str, dict[str, Any]] = {
    "topk-unit": {"kind": "topk", "k": 3, "decoder_constraint": "unit_norm"},
    "topk-rescaled": {"kind": "topk", "k": 3},
    "standard-free": {"kind": "standard"},
    "standard-unit": {"kind": "standard", "decoder_constraint": "unit_norm"},
    "jumprelu": {"kind": "jumprelu"},
    "gated": {"kind": "gated"},
}


def made(name: str, seed: int, *, d_sae: int = D_SAE) -> Any:
    fields = dict(KINDS[name])
    kind = f"regularized_{fields.pop('kind')}"
    sae_class, config = training_classes(kind)
    cfg = config(
        d_in=D_IN,
        d_sae=d_sae,
        init_seed=seed,
        normalize_activations="expected_average_only_in",
        **fields,
    )
    sae = sae_class(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor_name, tensor in sae.named_parameters(recurse=False):
            if tensor_name.startswith(("b_", "r_", "thr")):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) / 10)
    return sae


def rows_of(seed: int) -> Tensor:
    return torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(seed)) + 0.5


def saved(sae: Any, scale: float, folder: Path) -> SAE[Any]:
    """The SAE as a finished sweep would save it."""
    sae.fold_activation_norm_scaling_factor(scale)
    sae.save_inference_model(folder)
    return SAE.load_from_disk(folder)


@settings(deadline=None, max_examples=4)
@given(scale=st.floats(0.05, 20.0), seed=st.integers(0, 20))
@pytest.mark.parametrize("name", KINDS)
def test_a_saved_sae_computes_the_same_on_scaled_activations(
    tmp_path_factory: pytest.TempPathFactory, name: str, scale: float, seed: int
) -> None:
    inference = saved(made(name, seed), scale, tmp_path_factory.mktemp(name))
    sae = made(name, seed + 1)
    load_trained_(sae, inference, scale=scale, steps=7)
    x = rows_of(seed)
    with torch.no_grad():
        found, expected = sae(x * scale) / scale, inference(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert sae.step_index == 7


@pytest.mark.parametrize("name", KINDS)
def test_latents_beyond_the_saved_width_change_nothing(
    tmp_path: Path, name: str
) -> None:
    inference = saved(made(name, 0), 2.0, tmp_path / "saved")
    wide = made(name, 1, d_sae=D_SAE + 5)
    load_trained_(wide, inference, scale=2.0, steps=0)
    x = rows_of(0)
    with torch.no_grad():
        found, expected = wide(x * 2.0) / 2.0, inference(x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_latents_are_pointed_at_residuals_of_different_rows(tmp_path: Path) -> None:
    inference = saved(made("topk-unit", 0), 1.0, tmp_path / "saved")
    sae = made("topk-unit", 1)
    load_trained_(sae, inference, scale=1.0, steps=0)
    before = sae.W_dec.detach().clone()
    x, latents = rows_of(0), torch.tensor([3, 8, 1])
    dead = torch.tensor([3, 8, 1, 5])
    reseed_(sae, dead, inference, x, count=3, encoder_scale=0.5, seed=0)
    with torch.no_grad():
        residual = torch.nn.functional.normalize(x - inference(x), dim=-1)
    cosines = sae.W_dec.detach()[latents] @ residual.T
    assert (cosines.amax(1) > 0.9999).all()
    assert len(set(cosines.argmax(1).tolist())) == 3
    alive = [latent for latent in range(D_SAE) if latent not in (3, 8, 1, 5)]
    norms = sae.W_enc.detach().norm(dim=0)
    torch.testing.assert_close(norms[latents], 0.5 * norms[alive].mean().expand(3))
    torch.testing.assert_close(
        sae.W_enc.T[latents] / norms[latents, None], sae.W_dec[latents]
    )
    assert sae.b_enc[latents].tolist() == [0, 0, 0]
    others = torch.ones(D_SAE, dtype=torch.bool)
    others[latents] = False
    assert torch.equal(sae.W_dec.detach()[others], before[others])


def test_too_few_rows_with_a_residual_are_refused(tmp_path: Path) -> None:
    inference = saved(made("topk-unit", 0), 1.0, tmp_path / "saved")
    with pytest.raises(InputError, match="Give fewer latents"):
        reseed_(
            made("topk-unit", 1),
            torch.arange(4),
            inference,
            rows_of(0)[:2],
            count=4,
            encoder_scale=0.5,
            seed=0,
        )


def planted(trainer: SweepTrainer) -> None:
    """Let six latents never fire."""
    for each in trainer.trainers.values():
        with torch.no_grad():
            each.sae.b_enc[4 : 4 + DEAD] = -1e6


UNIT = {**TINY, "decoder_constraint": "unit_norm"}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Release, Release]:
    """A release with six planted dead latents in each SAE, and its control."""
    folder = tmp_path_factory.mktemp("revival")
    groups = {"plain": {}, "l2": {"regularizers": [PENALTY]}}
    run_sweep(tiny_sweep(sae=UNIT, groups=groups), folder / "own", begin=planted)
    control = tiny_sweep(
        sae=UNIT,
        groups={"l2-matched": {"d_sae": 100}},
        matched_to={"l2-matched": "own/l2"},
    )
    run_sweep(control, folder / "control")
    return register_release(folder / "own"), register_release(folder / "control")


def folder_of(release: Release) -> Path:
    assert release.folder is not None
    return release.folder


def plan_of(releases: tuple[Release, Release], **settings: Any) -> RevivalPlan:
    own, control = releases
    chosen: dict[str, Any] = {
        "latents": 4,
        "steps": 6,
        "dead_after": 12,
        "device": "cpu",
    }
    return plan_revival(folder_of(own), folder_of(control), **{**chosen, **settings})


def test_dead_latents_are_those_that_never_fired(
    releases: tuple[Release, Release],
) -> None:
    own, _ = releases
    for entry in own.entries:
        assert set(range(4, 4 + DEAD)) <= set(dead_latents(own, entry, 12).tolist())


def test_the_longest_dead_come_first(releases: tuple[Release, Release]) -> None:
    own, _ = releases
    never = set(dead_latents(own, own.entries[0], 12).tolist())
    late = dead_latents(own, own.entries[0], 1).tolist()
    assert set(late[: len(never)]) == never


def test_every_arm_has_its_group_with_the_seeds_of_the_release(
    releases: tuple[Release, Release],
) -> None:
    plan = plan_of(releases)
    assert list(plan.sweep.groups) == [
        *("plain-revived", "plain-continued", "l2-revived", "l2-continued"),
        *("l2-matched-continued", "l2-matched-widened"),
    ]
    widths = {m.group: m.cfg.d_sae for m in expand(plan.sweep)}
    assert widths["l2-matched-widened"] == 104
    assert widths["l2-revived"] == widths["l2-continued"] == 128
    assert [one.control for one in plan.revivals] == [None, "l2-matched"]
    assert plan.sweep.seeds == [0, 1] or tuple(plan.sweep.seeds) == (0, 1)


def test_an_arm_starts_from_the_trained_weights_but_for_its_latents(
    releases: tuple[Release, Release],
) -> None:
    plan = plan_of(releases)
    own, _ = releases
    member = next(m for m in expand(plan.sweep) if m.sae_id == "l2-revived-seed1")
    x = own.load("l2-seed1").W_dec.detach()[:64]
    sae = training_classes(member.cfg.architecture())[0](member.cfg)
    start_member_(sae, plan, "l2-revived", 1, rows=x, scale=0.5)
    one = next(one for one in plan.revivals if one.group == "l2")
    given_back = one.dead["l2-seed1"][:4]
    same = torch.ones(128, dtype=torch.bool)
    same[given_back] = False
    trained = own.load("l2-seed1")
    torch.testing.assert_close(sae.W_dec.detach()[same], trained.W_dec.detach()[same])
    torch.testing.assert_close(sae.b_enc.detach()[same], trained.b_enc[same] * 0.5)
    assert sae.b_enc.detach()[given_back].tolist() == [0.0] * 4


def test_a_revival_trains_into_a_release_that_resumes(
    releases: tuple[Release, Release], tmp_path: Path
) -> None:
    plan = plan_of(releases, steps=4)
    told: list[str] = []
    result = run_revival(plan, tmp_path / "arms", progress=told.append)
    assert result.release is not None and result.stopped == []
    assert len(result.release.entries) == 12
    again = run_revival(plan, tmp_path / "arms", progress=told.append)
    assert again.release is not None and "trained already" in told[-1]


def test_a_folder_is_not_resumed_with_other_settings(
    releases: tuple[Release, Release], tmp_path: Path
) -> None:
    run_revival(plan_of(releases, steps=2), tmp_path / "arms")
    other = plan_of(releases, steps=2, encoder_scale=0.25)
    with pytest.raises(InputError, match="holds another sweep: started_from"):
        run_revival(other, tmp_path / "arms")


def test_training_by_name_what_starts_from_trained_saes_is_refused(
    releases: tuple[Release, Release], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="started_from"):
        run_sweep(plan_of(releases).sweep, tmp_path / "arms")


def test_a_release_without_dead_latents_is_refused(
    tmp_path: Path,
) -> None:
    run_sweep(tiny_sweep(sae={**UNIT, "d_sae": 8}), tmp_path / "alive")
    with pytest.raises(
        NothingDeadError, match="plain: an SAE of it has no dead latent"
    ):
        plan_revival(tmp_path / "alive", dead_after=12)


def test_a_group_with_whitened_activations_is_left_out(tmp_path: Path) -> None:
    whitened = {"normalize_activations": "covariance_whitening"}
    run_sweep(tiny_sweep(sae={**TINY, **whitened}, seeds=[0]), tmp_path / "white")
    with pytest.raises(NothingDeadError, match="weights include the whitening"):
        plan_revival(tmp_path / "white", dead_after=1)


@pytest.mark.parametrize("name", ["latents", "steps", "dead_after"])
def test_a_count_below_one_is_refused(
    releases: tuple[Release, Release], name: str
) -> None:
    with pytest.raises(InputError, match="expected 1 or more"):
        plan_of(releases, **{name: 0})


def test_a_control_of_another_release_is_refused(
    releases: tuple[Release, Release],
) -> None:
    own, control = releases
    with pytest.raises(InputError, match="no width-matched control of 'control'"):
        plan_revival(folder_of(control), folder_of(own))
