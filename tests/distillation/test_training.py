"""A whole distillation on a small model: frozen encoders, resumption, the start of a cycle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from sae_lens import SAE

from saereg_plugin.distillation.cores import Cores, cores_of
from saereg_plugin.distillation.ranking import gradient_at, measure_latents
from saereg_plugin.distillation.settings import Distill, read_distill
from saereg_plugin.distillation.training import (
    Distilled,
    distill,
    start_cycle_,
)
from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.frozen_model import FrozenModel
from saereg_plugin.finetuning.losses import Objective
from saereg_plugin.registry import training_classes
from saereg_plugin.revival.start import initial_sae
from saereg_plugin.sweeps import SweepTrainer, run_sweep
from saereg_plugin.sweeps.config import group_fields
from tests.distillation.tiny import tiny_distill
from tests.sweeps.tiny import STEPS
from tests.training import component


class Whole(NamedTuple):
    settings: Distill
    root: Path
    found: Distilled


def finished(found: Distilled | None) -> Distilled:
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Whole:
    settings = tiny_distill(small_model, cycles=3)
    root = tmp_path_factory.mktemp("distill") / "whole"
    found = finished(distill(settings, root, progress=lambda _: None))
    return Whole(settings, root, found)


def encoders(found: Distilled, part: str, group: str, seed: int) -> torch.Tensor:
    return found.releases[part].load(f"{group}-seed{seed}").W_enc.detach()


def test_every_part_is_a_release(whole: Whole) -> None:
    found = whole.found
    assert list(found.releases) == ["cycle-1", "cycle-2", "cycle-3", "matched"]
    assert found.releases["cycle-1"].ids == ["plain-seed0", "plain-seed1"]
    assert len(found.releases["cycle-3"].entries) == 6
    assert found.stopped == []
    for part in found.releases:
        assert (whole.root / part / "release.yaml").is_file()
        assert (whole.root / "cores" / f"{part}.json").is_file()


def test_promoted_encoders_are_those_of_the_cycle_before_to_the_bit(
    whole: Whole,
) -> None:
    found = whole.found
    for cycle in (2, 3):
        cores = found.cores[f"cycle-{cycle - 1}"]
        for arm in whole.settings.arms:
            for seed in (0, 1):
                core = cores[arm, seed]
                before = encoders(found, f"cycle-{cycle - 1}", core.group, seed)
                now = encoders(
                    found, f"cycle-{cycle}", whole.settings.group(arm, cycle), seed
                )
                size = len(core.latents)
                assert torch.equal(now[:, :size], before[:, list(core.latents)])
                assert not torch.equal(now[:, size:], before[:, size:])


def test_controls_have_cores_of_the_same_size(whole: Whole) -> None:
    found = whole.found
    for part in ("cycle-1", "cycle-2", "cycle-3"):
        cores = found.cores[part]
        for seed in (0, 1):
            sizes = {len(cores[arm, seed].latents) for arm in whole.settings.arms}
            assert len(sizes) == 1
            assert cores["distilled", seed].share >= whole.settings.share - 1e-9
    assert found.cores["cycle-2"]["random", 0].frozen == len(
        found.cores["cycle-1"]["random", 0].latents
    )
    assert found.cores["matched"]["matched", 0].frozen == 0


def test_every_arm_is_scored_by_attribution(whole: Whole) -> None:
    settings, found = whole.settings, whole.found
    for part in ("cycle-1", "cycle-2", "cycle-3"):
        sweep, cores = settings.sweep_of(part), found.cores[part]
        for arm in settings.arms:
            core = cores[arm, 0]
            sae: SAE[Any] = found.releases[part].load(f"{core.group}-seed0")
            figures = measure_latents(settings, sweep, {"one": sae})["one"]
            scores = figures.scores.clamp(min=0)
            chosen = list(core.by_attribution)
            # the smallest: it reaches the share, and not without its last latent
            reached = scores[chosen].sum() / scores.sum()
            assert reached >= settings.share - 1e-9
            assert scores[chosen[:-1]].sum() / scores.sum() < settings.share
            assert set(scores.topk(len(chosen)).indices.tolist()) == set(chosen)
            fires = figures.fires > 0
            assert core.alive == int(fires.sum())
            assert core.frozen_alive == int(fires[: core.frozen].sum())
            own = scores[list(core.latents)].sum() / scores.sum()
            assert core.share == pytest.approx(float(own))
            if arm == "distilled":
                assert core.by_attribution == core.latents


def test_the_matched_sae_takes_the_steps_of_all_cycles(
    whole: Whole,
) -> None:
    found = whole.found
    tokens = {p: r.provenance["tokens"] for p, r in found.releases.items()}
    assert tokens["matched"] == 3 * tokens["cycle-1"] == 3 * STEPS * 256


def test_initial_weights_of_a_later_cycle_do_not_follow_from_its_seed(
    whole: Whole,
) -> None:
    release = whole.found.releases["cycle-2"]
    with pytest.raises(InputError, match="starts from trained SAEs"):
        initial_sae(release, release.entries[0], d_in=16)


class StopError(Exception):
    """Stands for a killed process."""


def test_a_killed_distillation_resumes_at_its_cycle(
    whole: Whole, tmp_path: Path
) -> None:
    told: list[str] = []

    def kill(line: str) -> None:
        if line.startswith("cycle-3:"):
            raise StopError

    out = tmp_path / "whole"
    with pytest.raises(StopError):
        distill(whole.settings, out, progress=kill)
    again = finished(distill(whole.settings, out, progress=told.append))
    assert sum("trained already" in line for line in told) == 2
    assert_same(again, whole.found)


def test_a_cycle_that_was_killed_resumes_with_its_core(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = SweepTrainer.save_checkpoint

    def killed(trainer: SweepTrainer) -> None:
        write(trainer)
        if trainer.sweep.started_from:
            raise StopError

    out = tmp_path / "whole"
    with monkeypatch.context() as patched:
        patched.setattr(SweepTrainer, "save_checkpoint", killed)
        with pytest.raises(StopError):
            distill(whole.settings, out, progress=lambda _: None)
    told: list[str] = []
    again = finished(distill(whole.settings, out, progress=told.append))
    assert sum("Resumes at step 5" in line for line in told) == 1
    assert_same(again, whole.found)


def assert_same(found: Distilled, expected: Distilled) -> None:
    """The same cores, and SAEs with the same files."""
    assert_same_cores(found.cores, expected.cores)
    for part, release in expected.releases.items():
        for entry in release.entries:
            (own,) = found.releases[part].select([entry.sae_id])
            assert own.files == entry.files


def assert_same_cores(found: dict[str, Cores], expected: dict[str, Cores]) -> None:
    assert {part: dict(cores) for part, cores in found.items()} == {
        part: dict(cores) for part, cores in expected.items()
    }


def test_a_finished_distillation_trains_and_ranks_nothing(
    whole: Whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole.found

    def refuse(*_: Any) -> None:
        raise AssertionError("ranked again")

    monkeypatch.setattr("saereg_plugin.distillation.cores.measure_latents", refuse)
    again = finished(distill(whole.settings, whole.root, progress=lambda _: None))
    assert_same_cores(again.cores, expected.cores)


def test_other_settings_are_not_resumed(whole: Whole) -> None:
    other = replace(whole.settings, share=0.3)
    with pytest.raises(InputError, match="holds another sweep: started_from"):
        distill(other, whole.root, progress=lambda _: None)
    # its own cores are chosen anew
    assert cores_of(whole.settings, whole.root, "cycle-1")


def test_a_release_can_be_the_first_cycle(whole: Whole, tmp_path: Path) -> None:
    expected = whole.found
    settings = replace(whole.settings, cycles=2, controls=())
    sweep = settings.sweep_of("cycle-1")
    groups = {**group_fields(sweep), "other": {**settings.fields, "k": 4}}
    run_sweep(replace(sweep, groups=groups), tmp_path / "first")
    own = read_distill(
        tmp_path / "first",
        group="plain",
        device="cpu",
        cycles=2,
        share=0.6,
        quantile=0.9,
        score_tokens=300,
        controls=(),
    )
    found = finished(distill(own, tmp_path / "out", progress=lambda _: None))
    assert not (tmp_path / "out" / "cycle-1").exists()
    # the same SAEs as those that the distillation trained itself
    for seed in (0, 1):
        one = found.cores["cycle-1"]["distilled", seed]
        assert one.latents == expected.cores["cycle-1"]["distilled", seed].latents


def test_the_gradient_is_that_of_a_pass_from_the_tokens(
    model: Any, contexts: torch.Tensor
) -> None:
    hook = "blocks.1.hook_resid_post"
    tokens = contexts[:2, :24]
    frozen = FrozenModel(model, [hook], Objective("mse"))
    keep = torch.ones_like(tokens, dtype=torch.bool)
    keep[:, 0] = False
    clean = frozen.clean(tokens, keep)
    found = gradient_at(frozen, clean, hook, clean.activations[hook])
    kept: list[torch.Tensor] = []

    def watch(value: torch.Tensor, hook: Any) -> torch.Tensor:  # noqa: ARG001
        kept.append(value.detach().requires_grad_())
        return kept[0]

    logits = model.run_with_hooks(tokens, fwd_hooks=[(hook, watch)])
    loss = -(logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum())
    (expected,) = torch.autograd.grad(loss, kept[0])
    torch.testing.assert_close(found, expected[keep], rtol=1e-3, atol=1e-5)


def test_both_gradients_rank_the_latents_that_fire(
    whole: Whole,
) -> None:
    found = whole.found
    release = found.releases["cycle-1"]
    sae: SAE[Any] = release.load("plain-seed0")
    shared = replace(whole.settings, score_tokens=150)
    settings = replace(shared, gradient="reconstruction")
    sweep = settings.sweep_of("cycle-1")
    figures = measure_latents(settings, sweep, {"one": sae})["one"]
    assert figures.tokens == 150
    other = measure_latents(shared, sweep, {"one": sae})["one"]
    assert torch.equal(figures.fires, other.fires)
    # two gradients of one model: not equal, but of the same latents
    assert not torch.equal(figures.scores, other.scores)
    assert bool((figures.scores[figures.fires == 0] == 0).all())


KINDS: dict[str, dict[str, Any]] = {
    "unit": {"decoder_constraint": "unit_norm"},
    "rescaled": {"rescale_acts_by_decoder_norm": True},
    "free": {"rescale_acts_by_decoder_norm": False},
    "untied": {"initialization": "untied", "decoder_constraint": "unit_norm"},
}


def made(fields: dict[str, Any], seed: int, *, frozen: bool) -> Any:
    sae_class, config = training_classes("regularized_topk")
    given: dict[str, Any] = {
        "d_in": 12,
        "d_sae": 20,
        "k": 3,
        "init_seed": seed,
        "mechanics": [{"name": "frozen_core"}] if frozen else [],
        "normalize_activations": "expected_average_only_in",
        **fields,
    }
    return sae_class(config(**given))


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("kind", KINDS)
def test_a_core_answers_as_it_did_in_the_saved_sae(
    kind: str, scale: float, tmp_path: Path
) -> None:
    trained = made(KINDS[kind], 0, frozen=False)
    with torch.no_grad():
        trained.W_dec += 0.1 * torch.randn_like(trained.W_dec)
        if kind in ("unit", "untied"):
            trained.W_dec /= trained.W_dec.norm(dim=1, keepdim=True)
    trained.fold_activation_norm_scaling_factor(2.0)
    trained.save_inference_model(tmp_path / "saved")
    saved = SAE.load_from_disk(tmp_path / "saved")
    sae = made(KINDS[kind], 1, frozen=True)
    latents = torch.tensor([4, 17, 2])
    cfg = made(KINDS[kind], 99, frozen=True).cfg
    start_cycle_(sae, saved, latents, cfg=cfg, scale=scale)
    x = torch.randn(6, 12)
    fresh = made(KINDS[kind], 99, frozen=True)
    # pre-activations without biases; with the norms of rows where they count
    norms = sae.W_dec.norm(dim=1)[:3] if kind == "rescaled" else torch.ones(3)
    own = (x * scale) @ sae.W_enc[:, :3] * norms
    units = scale if kind != "free" else 1.0
    torch.testing.assert_close(own, units * (x @ saved.W_enc[:, latents]))
    assert torch.equal(sae.W_enc[:, 3:], fresh.W_enc[:, 3:])
    assert torch.equal(sae.W_dec[3:], fresh.W_dec[3:])
    torch.testing.assert_close(sae.W_dec.norm(dim=1), fresh.W_dec.norm(dim=1))
    cosine = torch.cosine_similarity(sae.W_enc[:, :3].T, sae.W_dec[:3], dim=1)
    assert bool((cosine > 0.9999).all()) is (kind != "untied")
    assert component(sae, "frozen_core").size == 3
