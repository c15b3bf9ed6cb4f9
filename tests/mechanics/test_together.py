"""All mechanics at once, with regularisers and unit norm: composition and exact resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import saereg_plugin as sr
from tests.architectures.test_resume import (
    STEPS as RESUME_STEPS,
)
from tests.architectures.test_resume import (
    checkpointed_trainer,
    reopen,
    the_checkpoint,
)
from tests.mechanics.small import D_SAE, STEPS, data, small_sae, train
from tests.mechanics.test_resampling import kill
from tests.training import (
    BATCH,
    assert_same_optimizer,
    assert_same_state,
    component,
)


def everything(architecture: str) -> dict[str, Any]:
    annealing = [sr.KAnnealing(steps=9)] if "topk" in architecture else []
    resampling = sr.DeadLatentResampling(
        decay=0.5,
        # above some latents' rates at all times, so that every due step resamples
        threshold=0.1 if annealing else 0.6,
        every=2,
        until=6,
        then_every=3,
    )
    return {
        "mechanics": [
            resampling,
            sr.WeightDecay(decay=0.1),
            sr.GradientClipping(max_norm=0.3),
            sr.ActivationRateScaling(decay=0.8),
            sr.WeightEma(decay=0.9),
            *annealing,
        ],
        "regularizers": [
            sr.WeightPenalty(coefficient=0.01, target="encoder"),
            sr.WeightPenalty(coefficient=0.05, norm="l1", mode="decoupled"),
        ],
        "decoder_constraint": "unit_norm",
        "b_dec_init": "mean",
        "max_norm_multiple": 8.0,
        "init_seed": 1,
        **({"auxk_scaling": "dictionary_learning"} if annealing else {}),
    }


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_they_compose(architecture: str, fields: dict[str, Any]) -> None:
    sae = kill(small_sae(architecture, **everything(architecture), **fields))
    batches = data(20)
    before = torch.get_rng_state()
    resampled = 0.0
    norms: list[float] = []

    def check(output: Any) -> None:
        nonlocal resampled
        resampled = max(resampled, output.metrics["resampling_last_resampled"])
        assert output.loss.isfinite()
        rows = sae.W_dec.detach().norm(dim=-1)
        torch.testing.assert_close(rows, torch.ones(D_SAE), rtol=0, atol=1e-6)

    def note_norm(*_: Any) -> None:
        gradients = [p.grad.reshape(-1) for p in sae.parameters()]
        norms.append(float(torch.cat(gradients).norm()))

    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    # after the package's own hook, which is global and comes first
    optimizer.register_step_pre_hook(note_norm)
    start = sae.W_enc.detach().clone()
    train(sae, batches, optimizer, each=check)
    assert torch.equal(torch.get_rng_state(), before)
    assert resampled > 0
    assert len(norms) == 20 and max(norms) <= 0.3 * (1 + 1e-5)
    assert (sae.W_enc - start).norm() > 0.1


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_resumed_training_equals_uninterrupted(
    architecture: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    batches = data(RESUME_STEPS, rows=BATCH)
    sae = small_sae(architecture, **everything(architecture), **fields)
    whole = checkpointed_trainer(sae, tmp_path, iter(batches))
    whole.fit()
    checkpoint = the_checkpoint(tmp_path)
    done = int(checkpoint.name) // BATCH
    assert 3 < done < RESUME_STEPS

    resumed = reopen(checkpoint, tmp_path, iter(batches[done:]))
    assert resumed.sae.step_index == done
    resumed.fit()
    assert_same_state(resumed.sae, sae)
    assert_same_optimizer(resumed.optimizer, whole.optimizer)
    parts = [component(each, "resampling") for each in (sae, resumed.sae)]
    assert parts[0].metrics()["last_resampled"] > 0
    draws = [torch.rand(3, generator=part.generator) for part in parts]
    assert torch.equal(*draws)


def test_state_is_not_in_the_saved_sae(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    sae = small_sae(**everything("topk"))
    train(sae, data(4))
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "saved")
    kept = load_file(tmp_path / "checkpoint" / "sae_weights.safetensors")
    assert {
        "components.resampling.rate",
        "components.resampling.generator_state",
        "components.activation_rate_scaling.rate",
        "components.weight_ema.m_W_enc",
    } < set(kept)
    saved = load_file(tmp_path / "saved" / "sae_weights.safetensors")
    assert set(saved) == {name for name, _ in sae.named_parameters()}


def test_each_has_its_own_rate() -> None:
    sae = small_sae(**everything("topk"))
    train(sae, data(3))
    rates = [
        component(sae, name).rate for name in ("resampling", "activation_rate_scaling")
    ]
    assert not torch.equal(*rates)
