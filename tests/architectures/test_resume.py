"""An interrupted and resumed training is the uninterrupted one, bit for bit."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAETrainer, TrainingSAE

import saereg_plugin as sr
from tests.regularizers.throwaway import DecoderDrift, NoisyFiring
from tests.training import (
    ARCHITECTURES,
    BATCH,
    assert_same_optimizer,
    assert_same_state,
    batches,
    component,
    make_sae,
    make_trainer,
    run_steps,
)

STEPS = 12

SCHEDULE = sr.Schedule(warm_up_steps=3, anneal="linear", anneal_start=5, anneal_steps=6)
SETTINGS: dict[str, dict[str, Any]] = {
    "stateful": {
        "regularizers": [
            sr.WeightPenalty(coefficient=0.2, schedule=SCHEDULE),
            NoisyFiring(coefficient=0.1, schedule=SCHEDULE),
        ],
        "decoder_constraint": "unit_norm",
        "b_dec_init": "geometric_median",
        "max_norm_multiple": 8.0,
        "normalize_activations": "expected_average_only_in",
    },
    "decoupled": {
        "regularizers": [
            sr.WeightPenalty(
                coefficient=2.0, norm="l1", mode="decoupled", schedule=SCHEDULE
            ),
            DecoderDrift(coefficient=1e-3),
        ],
        "initialization": "untied",
    },
}


def checkpointed_trainer(
    sae: TrainingSAE[Any], folder: Path, data: Any
) -> SAETrainer[Any, Any]:
    return make_trainer(
        sae,
        data,
        steps=STEPS,
        n_checkpoints=1,
        checkpoint_path=str(folder),
        lr_warm_up_steps=4,
        lr_decay_steps=4,
    )


def the_checkpoint(folder: Path) -> Path:
    (found,) = folder.iterdir()
    return found


def reopen(checkpoint: Path, folder: Path, data: Any) -> SAETrainer[Any, Any]:
    """A new SAE and trainer in the state of the checkpoint, as SAELens' runner opens them."""
    cfg = json.loads((checkpoint / "cfg.json").read_text())
    torch.manual_seed(1234)
    trainer = checkpointed_trainer(TrainingSAE.from_dict(cfg), folder, data)
    trainer.load_trainer_state(checkpoint)
    trainer.sae.load_weights_from_checkpoint(checkpoint)
    # SAELens stores the step counter before it advances it
    trainer.n_training_steps += 1
    trainer.checkpoint_thresholds = []
    return trainer


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_resumed_training_equals_uninterrupted(
    architecture: str, setting: str, tmp_path: Path, activations: torch.Tensor
) -> None:
    fields = SETTINGS[setting]
    sae = make_sae(architecture, init_seed=1, **fields)
    whole = checkpointed_trainer(sae, tmp_path, batches(activations))
    whole.fit()
    checkpoint = the_checkpoint(tmp_path)
    done = int(checkpoint.name) // BATCH
    assert 3 < done < STEPS

    n_estimate = 2 if "normalize_activations" in fields else 0
    resumed = reopen(
        checkpoint, tmp_path, batches(activations, start=n_estimate + done)
    )
    assert resumed.n_training_steps == done == resumed.sae.step_index
    assert not torch.equal(resumed.sae.W_enc, sae.W_enc)
    resumed.fit()
    assert resumed.n_training_steps == STEPS == resumed.sae.step_index
    assert_same_state(resumed.sae, sae)
    assert_same_optimizer(resumed.optimizer, whole.optimizer)
    assert torch.equal(resumed.act_freq_scores, whole.act_freq_scores)
    assert resumed.lr_scheduler.state_dict() == whole.lr_scheduler.state_dict()


def test_step_and_schedule_go_on_although_saelens_counter_is_one_low(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    penalty = sr.WeightPenalty(coefficient=1.0, schedule=SCHEDULE)
    fields: dict[str, Any] = {"regularizers": [penalty]}
    sae = make_sae(**fields)
    checkpointed_trainer(sae, tmp_path, batches(activations)).fit()
    resumed = make_sae(seed=1, **fields)
    trainer = checkpointed_trainer(resumed, tmp_path, batches(activations))
    trainer.load_trainer_state(the_checkpoint(tmp_path))
    resumed.load_weights_from_checkpoint(the_checkpoint(tmp_path))
    done = int(the_checkpoint(tmp_path).name) // BATCH
    assert trainer.n_training_steps == done - 1
    (output,) = run_steps(trainer, 1)
    used = output.metrics["weight_penalty_coefficient"]
    assert used == SCHEDULE.value(1.0, done)
    assert used != SCHEDULE.value(1.0, done - 1)


def test_generator_of_an_unfinished_step_sequence_is_saved(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    sae = make_sae(regularizers=[NoisyFiring(coefficient=0.1)])
    trainer = make_trainer(sae, batches(activations))
    run_steps(trainer, 3)
    trainer.save_checkpoint("three", base_path=tmp_path)
    run_steps(trainer, 1)
    fourth = component(sae, "test_noisy_firing").noise
    loaded = TrainingSAE.load_from_disk(tmp_path / "three")
    data = islice(batches(activations, start=3), 1)
    run_steps(make_trainer(loaded, data), 1)
    assert torch.equal(component(loaded, "test_noisy_firing").noise, fourth)


def test_loading_into_a_trained_sae_replaces_its_state(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    fields = SETTINGS["stateful"]
    early = make_sae(**fields)
    run_steps(make_trainer(early, batches(activations)), 2)
    early.save_model(tmp_path)
    late = make_sae(seed=1, **fields)
    run_steps(make_trainer(late, batches(activations)), 6)
    late.load_weights_from_checkpoint(tmp_path)
    assert_same_state(late, early)
    assert late.step_index == 2
    late_noise, early_noise = (
        torch.rand(3, generator=component(sae, "test_noisy_firing").generator)
        for sae in (late, early)
    )
    assert torch.equal(late_noise, early_noise)
