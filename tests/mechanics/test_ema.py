"""The saved SAE is the bias-corrected average of the weights; training does not notice."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

import saereg_plugin as sr
from tests.mechanics.small import STEPS, data, small_sae, train
from tests.training import ARCHITECTURES, batches, component, make_sae, make_trainer

DECAY = 0.9


def averages_by_hand(sae: Any, batches: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The average in a plain loop over the weights after each step."""
    sums = {name: torch.zeros_like(p) for name, p in own(sae).items()}
    steps = 0

    def add(_: Any) -> None:
        nonlocal steps
        for name, parameter in own(sae).items():
            sums[name] = sums[name] + (1 - DECAY) * (parameter - sums[name])
        steps += 1

    train(sae, batches, each=add)
    return {name: total / (1 - DECAY**steps) for name, total in sums.items()}


def own(sae: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in sae.named_parameters(recurse=False)}


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_average_is_that_of_a_plain_loop(
    architecture: str, fields: dict[str, Any]
) -> None:
    sae = small_sae(
        architecture, mechanics=[sr.WeightEma(decay=DECAY)], dtype="float64", **fields
    )
    expected = averages_by_hand(sae, [batch.double() for batch in data(7)])
    found = component(sae, "weight_ema").saved_weights(sae)
    assert set(found) == set(expected) == set(own(sae))
    for name, average in expected.items():
        # JumpReLU's threshold stays in float32
        rounding = 1e-14 if average.dtype == torch.float64 else 1e-6
        torch.testing.assert_close(
            found[name], average, rtol=rounding, atol=rounding / 10
        )
        assert not torch.equal(found[name], sae.get_parameter(name))


def test_average_in_float32_is_exact_to_the_bit() -> None:
    sae = small_sae(mechanics=[sr.WeightEma(decay=DECAY)])
    sums = {name: torch.zeros_like(p) for name, p in own(sae).items()}

    def add(_: Any) -> None:
        for name, parameter in own(sae).items():
            sums[name].lerp_(parameter, 1 - DECAY)

    train(sae, data(9), each=add)
    found = component(sae, "weight_ema").saved_weights(sae)
    for name, total in sums.items():
        assert torch.equal(found[name], total / (1 - DECAY**9))


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_training_is_unchanged_bit_for_bit(
    architecture: str, fields: dict[str, Any]
) -> None:
    averaged = small_sae(architecture, mechanics=[sr.WeightEma()], **fields)
    plain = small_sae(architecture, **fields)
    losses: list[list[torch.Tensor]] = []
    for sae in (averaged, plain):
        own_losses: list[torch.Tensor] = []
        train(sae, data(8), each=lambda output: own_losses.append(output.loss.detach()))
        losses.append(own_losses)
    assert all(torch.equal(*pair) for pair in zip(*losses, strict=True))
    for name, parameter in own(plain).items():
        assert torch.equal(own(averaged)[name], parameter)


def test_constant_weights_average_to_themselves_from_the_first_step() -> None:
    """The bias correction: without it the first average would be a thousandth."""
    sae = small_sae(mechanics=[sr.WeightEma()], dtype="float64")
    train(sae, [data(1)[0].double()], lrs=[0.0])
    for name, average in component(sae, "weight_ema").saved_weights(sae).items():
        torch.testing.assert_close(average, sae.get_parameter(name))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_sae_is_the_average(architecture: str, tmp_path: Path) -> None:
    sae = small_sae(architecture, mechanics=[sr.WeightEma(decay=DECAY)])
    train(sae, data(6))
    twin = small_sae(architecture)
    train(twin, data(6))
    averages = component(sae, "weight_ema").saved_weights(sae)
    before = own(sae)
    for name, average in averages.items():
        twin.get_parameter(name).data.copy_(average)
    if architecture.endswith("batchtopk"):
        assert torch.equal(twin.topk_threshold, sae.topk_threshold)
    for name, one in (("averaged", sae), ("twin", twin)):
        one.save_inference_model(tmp_path / name)
    saved, expected = (
        load_file(tmp_path / name / "sae_weights.safetensors")
        for name in ("averaged", "twin")
    )
    assert set(saved) == set(expected)
    for name, value in expected.items():
        assert torch.equal(saved[name], value), name
    # saving does not end the training
    for name, parameter in before.items():
        assert torch.equal(own(sae)[name], parameter)
    (batch,) = data(1, seed=1)
    loaded = SAE.load_from_disk(tmp_path / "averaged")
    assert loaded(batch).isfinite().all()


def test_unit_norm_holds_in_the_saved_average(tmp_path: Path) -> None:
    sae = small_sae(
        mechanics=[sr.WeightEma(decay=DECAY)], decoder_constraint="unit_norm"
    )
    train(sae, data(6))
    sae.save_inference_model(tmp_path)
    rows = load_file(tmp_path / "sae_weights.safetensors")["W_dec"]
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(rows)))
    raw = component(sae, "weight_ema").m_W_dec
    directions = raw / raw.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(rows, directions)


@pytest.mark.parametrize(
    "normalize", ["expected_average_only_in", "covariance_whitening"]
)
@pytest.mark.parametrize("architecture", ["topk", "standard"])
def test_fold_at_the_end_is_that_of_the_average(
    architecture: str, normalize: str, tmp_path: Path
) -> None:
    fields = {"normalize_activations": normalize}
    sae = small_sae(architecture, mechanics=[sr.WeightEma(decay=DECAY)], **fields)
    twin = small_sae(architecture, **fields)
    train(sae, data(6))
    for name, average in component(sae, "weight_ema").saved_weights(sae).items():
        twin.get_parameter(name).data.copy_(average)
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(12, generator=generator)
    matrix = torch.randn(12, 12, generator=generator)
    for name, one in (("averaged", sae), ("twin", twin)):
        if normalize == "covariance_whitening":
            one.fold_activation_whitening(mean, matrix, torch.linalg.inv(matrix))
        else:
            one.fold_activation_norm_scaling_factor(0.25)
        one.save_inference_model(tmp_path / name)
    saved, expected = (
        load_file(tmp_path / name / "sae_weights.safetensors")
        for name in ("averaged", "twin")
    )
    for name, value in expected.items():
        assert torch.equal(saved[name], value), name


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_resumed_training_has_the_same_average(
    architecture: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"mechanics": [sr.WeightEma(decay=DECAY)], **fields}
    whole = small_sae(architecture, **given)
    train(whole, data(8))
    sae = small_sae(architecture, **given)
    optimizer = train(sae, data(8)[:3])
    sae.save_model(tmp_path)
    again = small_sae(architecture, **given, seed=7)
    again.load_weights_from_checkpoint(tmp_path)
    resumed = torch.optim.Adam(again.parameters(), lr=1e-2)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(again, data(8)[3:], resumed)
    for name, average in component(whole, "weight_ema").saved_weights(whole).items():
        assert torch.equal(
            component(again, "weight_ema").saved_weights(again)[name], average
        )


def test_loaded_checkpoint_is_saved_without_a_step(tmp_path: Path) -> None:
    sae = small_sae(mechanics=[sr.WeightEma(decay=DECAY)])
    train(sae, data(3))
    sae.save_model(tmp_path / "checkpoint")
    sae.save_inference_model(tmp_path / "first")
    again = small_sae(mechanics=[sr.WeightEma(decay=DECAY)], seed=5)
    again.load_weights_from_checkpoint(tmp_path / "checkpoint")
    again.save_inference_model(tmp_path / "second")
    first, second = (
        load_file(tmp_path / name / "sae_weights.safetensors")
        for name in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not [name for name in first if "ema" in name or name.startswith("m_")]


def test_before_the_first_step_the_weights_are_saved(tmp_path: Path) -> None:
    for name, mechanics in (("plain", []), ("averaged", [sr.WeightEma()])):
        small_sae(mechanics=mechanics).save_inference_model(tmp_path / name)
    plain, averaged = (
        load_file(tmp_path / name / "sae_weights.safetensors")
        for name in ("plain", "averaged")
    )
    assert all(torch.equal(plain[name], averaged[name]) for name in plain)


def test_average_is_kept_in_float32_for_bfloat16_weights() -> None:
    sae = small_sae("standard", mechanics=[sr.WeightEma()], dtype="bfloat16")
    train(sae, [batch.bfloat16() for batch in data(2)])
    assert component(sae, "weight_ema").m_W_enc.dtype == torch.float32
    assert component(sae, "weight_ema").saved_weights(sae)["W_enc"].dtype == (
        torch.bfloat16
    )


def test_restarted_latents_begin_a_new_average() -> None:
    resampling = sr.DeadLatentResampling(
        decay=0.0, threshold=0.05, every=4, until=1000, then_every=4
    )
    sae = small_sae(
        "standard",
        l1_coefficient=5.0,
        mechanics=[resampling, sr.WeightEma(decay=DECAY)],
    )
    restarted: list[torch.Tensor] = []
    ema = component(sae, "weight_ema")
    original = ema.restarted

    def note(latents: torch.Tensor) -> None:
        restarted.append(latents.clone())
        original(latents)

    ema.restarted = note
    train(sae, data(4))
    assert restarted and len(restarted[0]) > 0
    latents = restarted[0]
    averages = ema.saved_weights(sae)
    torch.testing.assert_close(averages["W_dec"][latents], sae.W_dec[latents])
    torch.testing.assert_close(averages["W_enc"][:, latents], sae.W_enc[:, latents])
    others = [j for j in range(24) if j not in set(latents.tolist())]
    assert not torch.allclose(averages["W_dec"][others], sae.W_dec[others])


def test_sae_lens_trainer_saves_the_average(activations: torch.Tensor) -> None:
    sae = make_sae(
        mechanics=[sr.WeightEma(decay=DECAY)],
        normalize_activations="expected_average_only_in",
    )
    make_trainer(sae, batches(activations), steps=6).fit()
    # the trainer folds the scale at the end
    assert component(sae, "weight_ema").steps == 0
    assert sae.cfg.normalize_activations == "none"


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan"), "0.9", True])
def test_bad_decay_is_refused(decay: Any) -> None:
    with pytest.raises(sr.InputError, match="weight_ema: decay is"):
        sr.WeightEma(decay=decay)
