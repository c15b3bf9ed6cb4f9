"""The component protocol, through regularisers that only the tests know."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import saereg_plugin as sr
from tests.regularizers.throwaway import (
    CALLS,
    DECAY,
    DecoderDrift,
    NoisyFiring,
    Watcher,
)
from tests.training import (
    ARCHITECTURES,
    D_SAE,
    assert_same_state,
    batches,
    component,
    forward,
    make_sae,
    make_stock_sae,
    make_trainer,
    run_steps,
)


def test_calls_come_in_the_documented_order(activations: torch.Tensor) -> None:
    sae = make_sae(regularizers=[Watcher(label="first"), Watcher(label="second")])
    sae.cfg.metadata.hook_name = "blocks.2.hook_resid_post"
    trainer = make_trainer(sae, batches(activations), lr_warm_up_steps=4)
    CALLS.clear()
    run_steps(trainer, 2)
    gradients = [call for call in CALLS if call[1].startswith("gradient")]
    parameters = [name for name, _ in sae.named_parameters()]
    assert sorted(gradients) == sorted(
        (label, f"gradient {name}")
        for label in ("first", "second")
        for name in parameters * 2
    )
    whole = [call for call in CALLS if call not in gradients]
    one_step = [
        (label, call)
        for call in ("prepare", "loss", "before_step", "after_step")
        for label in ("first", "second")
    ]
    assert whole == [("first", "setup"), ("second", "setup"), *one_step, *one_step]
    calls = [call for _, call in CALLS]
    first_gradient = calls.index(gradients[0][1])
    assert calls.index("loss") < first_gradient < calls.index("before_step")
    watcher = component(sae, "first")
    assert watcher.hook_name == "blocks.2.hook_resid_post"
    assert watcher.step.index == 1
    assert watcher.grad_enabled and not any(watcher.grad_enabled)


def test_gradients_come_before_clipping_and_lr_is_the_optimizers(
    activations: torch.Tensor,
) -> None:
    sae = make_sae(regularizers=[Watcher()])
    trainer = make_trainer(sae, batches(activations), lr=2e-3, lr_warm_up_steps=4)
    for step in range(3):
        run_steps(trainer, 1)
        assert component(sae, "test_watcher").lr == pytest.approx(2e-3 * (step + 1) / 4)
    norms = component(sae, "test_watcher").gradient_norms
    assert sum(norm**2 for norm in norms.values()) > 1.0


def test_step_holds_the_tensors_of_the_step(activations: torch.Tensor) -> None:
    sae = make_sae(regularizers=[Watcher()])
    dead = torch.arange(D_SAE) % 2 == 0
    output = forward(sae, activations[:8], dead)
    step = component(sae, "test_watcher").step
    assert step.sae is sae
    assert step.dead_mask is dead
    for name in ("sae_in", "hidden_pre", "feature_acts", "sae_out"):
        assert getattr(step, name) is getattr(output, name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_state_loss_and_metrics_of_a_stateful_regularizer(
    architecture: str, activations: torch.Tensor
) -> None:
    sae = make_sae(architecture, regularizers=[NoisyFiring(coefficient=0.5)])
    part = component(sae, "test_noisy_firing")
    rate = torch.zeros(D_SAE)
    trainer = make_trainer(sae, batches(activations))
    output: Any = None
    for _ in range(4):
        (output,) = run_steps(trainer, 1)
        acts = output.feature_acts.detach()
        rate = DECAY * rate + (1 - DECAY) * (acts > 0).float().mean(dim=0)
        expected = 0.5 * (part.noise * acts.abs()).sum(dim=-1).mean()
        torch.testing.assert_close(
            output.losses["test_noisy_firing"].detach(), expected
        )
        torch.testing.assert_close(part.rate, rate)
        torch.testing.assert_close(
            output.metrics["test_noisy_firing_mean_rate"], rate.mean()
        )
    others = [v for k, v in output.losses.items() if k != "test_noisy_firing"]
    torch.testing.assert_close(
        output.loss, torch.stack([*others, output.losses["test_noisy_firing"]]).sum()
    )


def test_logged_only_loss_does_not_train(activations: torch.Tensor) -> None:
    sae = make_sae(regularizers=[NoisyFiring(coefficient=0.5, logged_only=True)])
    stock = make_stock_sae()
    outputs = run_steps(make_trainer(sae, batches(activations)), 5)
    stock_outputs = run_steps(make_trainer(stock, batches(activations)), 5)
    assert_same_state(sae, stock)
    assert torch.equal(outputs[-1].loss, stock_outputs[-1].loss)
    assert outputs[-1].losses["test_noisy_firing"] > 0


def test_after_step_acts_on_the_weights_adam_left(activations: torch.Tensor) -> None:
    sae = make_sae(regularizers=[DecoderDrift(coefficient=0.01)])
    stock = make_stock_sae()
    trainers = [make_trainer(each, batches(activations)) for each in (sae, stock)]
    for _ in range(4):
        for trainer in trainers:
            run_steps(trainer, 1)
        with torch.no_grad():
            stock.W_dec[:, 0] += 0.01
        assert_same_state(sae, stock)
    assert component(sae, "test_decoder_drift").adam_steps == [1, 2, 3, 4]


def test_regularizers_compose(activations: torch.Tensor) -> None:
    sae = make_sae(
        regularizers=[
            NoisyFiring(coefficient=0.1),
            DecoderDrift(coefficient=0.5),
            sr.WeightPenalty(coefficient=1e-3),
            NoisyFiring(coefficient=0.2),
        ],
        decoder_constraint="unit_norm",
    )
    (output,) = run_steps(make_trainer(sae, batches(activations)), 1)
    added = ["test_noisy_firing", "weight_penalty", "test_noisy_firing_2"]
    assert [name for name in output.losses if name in added] == added
    torch.testing.assert_close(
        output.loss, torch.stack(list(output.losses.values())).sum()
    )
    first, second = (component(sae, added[0]), component(sae, added[2]))
    assert not torch.equal(first.noise, second.noise)
    assert torch.equal(first.rate, second.rate)
    # unit norm acts last, after the drift
    assert (sae.W_dec[:, 0] > 0.3).all()
    torch.testing.assert_close(
        sae.W_dec.norm(dim=-1), torch.ones(D_SAE), rtol=0, atol=1e-6
    )


def test_prepare_may_drop_rows(activations: torch.Tensor) -> None:
    sae = make_sae(regularizers=[Watcher(drop=24)])
    short = make_stock_sae()
    (output,) = run_steps(make_trainer(sae, batches(activations)), 1)
    expected = forward(short, activations[24:64])
    assert torch.equal(output.sae_in, activations[24:64])
    assert output.feature_acts.shape == (40, D_SAE)
    assert torch.equal(output.loss, expected.loss)


def test_drawing_leaves_the_global_generator_alone(activations: torch.Tensor) -> None:
    torch.manual_seed(5)
    sae = make_sae(regularizers=[NoisyFiring(coefficient=0.1)])
    before = torch.get_rng_state()
    run_steps(make_trainer(sae, batches(activations)), 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_component_that_does_not_draw_has_no_generator() -> None:
    sae = make_sae(regularizers=[DecoderDrift()])
    with pytest.raises(RuntimeError, match="must set draws = True to draw"):
        _ = component(sae, "test_decoder_drift").generator


def noise_of(sae: object) -> torch.Tensor:
    return torch.rand(5, generator=component(sae, "test_noisy_firing").generator)


def test_generator_follows_the_seed() -> None:
    def drawn(init_seed: int | None, seed: int = 0) -> torch.Tensor:
        regularizers = [NoisyFiring(), NoisyFiring(label="other")]
        sae = make_sae(seed=seed, init_seed=init_seed, regularizers=regularizers)
        other = torch.rand(5, generator=component(sae, "other").generator)
        assert not torch.equal(noise_of(sae), other)
        return noise_of(sae)

    assert torch.equal(drawn(1), drawn(1, seed=9))
    assert not torch.equal(drawn(1), drawn(2))
    assert torch.equal(drawn(None, seed=3), drawn(None, seed=3))
    assert not torch.equal(drawn(None, seed=3), drawn(None, seed=4))


def test_state_is_in_checkpoints_and_not_in_the_saved_sae(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    sae = make_sae(regularizers=[NoisyFiring(coefficient=0.1)])
    run_steps(make_trainer(sae, batches(activations)), 3)
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "inference")
    kept = load_file(tmp_path / "checkpoint" / "sae_weights.safetensors")
    own = {
        "completed_steps",
        "components.test_noisy_firing.rate",
        "components.test_noisy_firing.generator_state",
        "components.row_floor.held",
    }
    parameters = {name for name, _ in sae.named_parameters()}
    assert set(kept) == own | parameters
    assert torch.equal(
        kept["components.test_noisy_firing.rate"],
        component(sae, "test_noisy_firing").rate,
    )
    saved = load_file(tmp_path / "inference" / "sae_weights.safetensors")
    assert set(saved) == parameters
    upcoming = noise_of(sae)
    again = make_sae(seed=9, regularizers=[NoisyFiring(coefficient=0.1)])
    assert not torch.equal(noise_of(again), upcoming)
    again.load_weights_from_checkpoint(tmp_path / "checkpoint")
    assert_same_state(again, sae, keys=["components.test_noisy_firing.rate"])
    assert torch.equal(noise_of(again), upcoming)
    assert again.step_index == 3


def test_casting_the_sae_keeps_the_type_of_state(activations: torch.Tensor) -> None:
    sae = make_sae(regularizers=[NoisyFiring(coefficient=0.1)], max_norm_multiple=10.0)
    run_steps(make_trainer(sae, batches(activations)), 3)
    before = copy.deepcopy(sae.state_dict())
    sae.to(torch.bfloat16)
    assert sae.W_dec.dtype == torch.bfloat16
    after = sae.state_dict()
    for key in before:
        if key.startswith("components.") or key == "completed_steps":
            assert after[key].dtype == before[key].dtype, key
            assert torch.equal(after[key], before[key]), key
    (output,) = run_steps(
        make_trainer(sae, batches(activations.bfloat16(), start=3)), 1
    )
    assert output.loss.isfinite()
    assert sae.step_index == 4


def test_loading_in_half_precision_keeps_counters_and_generators(
    tmp_path: Path, activations: torch.Tensor
) -> None:
    sae = make_sae(regularizers=[NoisyFiring(coefficient=0.1)], max_norm_multiple=10.0)
    run_steps(make_trainer(sae, batches(activations)), 5)
    sae.save_model(tmp_path)
    loaded = type(sae).load_from_disk(tmp_path, dtype="bfloat16")
    assert loaded.W_dec.dtype == torch.bfloat16
    state = loaded.state_dict()
    for key, value in sae.state_dict().items():
        if key.startswith("components.") or key == "completed_steps":
            assert state[key].dtype == value.dtype, key
    assert loaded.step_index == 5
    assert torch.equal(noise_of(loaded), noise_of(sae))


def test_a_taken_name_is_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Impostor(sr.RegularizerConfig):
        pass

    with pytest.raises(
        sr.InputError, match=r"named 'weight_penalty' is registered already \(Weight"
    ):
        sr.register_regularizer("weight_penalty")(Impostor)
    with pytest.raises(sr.InputError, match=r"expected a name. Write for example"):
        sr.register_regularizer(Impostor)  # pyright: ignore[reportArgumentType]
    again = sr.register_regularizer("weight_penalty")(sr.WeightPenalty)
    assert again is sr.WeightPenalty
