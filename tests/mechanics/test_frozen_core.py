"""The core's encoder does not change by a bit; everything else is trained as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import saereg_plugin as sr
from tests.architectures.test_resume import STEPS as RESUME_STEPS
from tests.architectures.test_resume import (
    checkpointed_trainer,
    reopen,
    the_checkpoint,
)
from tests.mechanics.small import D_SAE, STEPS, data, small_sae, train
from tests.training import ARCHITECTURES, BATCH, assert_same_state, component

CORE = 7


def own(sae: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in sae.named_parameters(recurse=False)}


def harsh(architecture: str) -> dict[str, Any]:
    """Everything that changes encoders in another way than by the gradient of the loss."""
    annealing = [sr.KAnnealing(steps=3)] if "topk" in architecture else []
    return {
        "mechanics": [
            sr.FrozenCore(size=CORE),
            sr.WeightDecay(decay=0.5),
            sr.ActivationRateScaling(decay=0.5),
            *annealing,
        ],
        "regularizers": [
            sr.WeightPenalty(coefficient=0.1, target="encoder"),
            sr.WeightPenalty(coefficient=0.5, norm="l1", mode="decoupled"),
        ],
    }


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
def test_frozen_columns_are_unchanged_to_the_bit(
    architecture: str, fields: dict[str, Any]
) -> None:
    sae = small_sae(architecture, **harsh(architecture), **fields)
    before = own(sae)

    def check(_: Any) -> None:
        assert torch.equal(sae.W_enc[:, :CORE], before["W_enc"][:, :CORE])

    train(sae, data(8), each=check)
    after = own(sae)
    assert (after["W_enc"][:, CORE:] != before["W_enc"][:, CORE:]).any(0).all()
    # its decoder rows and biases are trained
    assert (after["W_dec"][:CORE] != before["W_dec"][:CORE]).any()


@pytest.mark.parametrize(("architecture", "fields"), STEPS)
@pytest.mark.parametrize("constraint", ["none", "unit_norm"])
def test_an_empty_core_trains_as_without_it(
    architecture: str, fields: dict[str, Any], constraint: str
) -> None:
    empty = small_sae(
        architecture,
        mechanics=[sr.FrozenCore()],
        decoder_constraint=constraint,
        **fields,
    )
    plain = small_sae(architecture, decoder_constraint=constraint, **fields)
    losses: list[list[torch.Tensor]] = []
    for sae in (empty, plain):
        seen: list[torch.Tensor] = []
        train(sae, data(8), each=lambda output: seen.append(output.loss.detach()))
        losses.append(seen)
    assert all(torch.equal(*pair) for pair in zip(*losses, strict=True))
    for name, parameter in own(plain).items():
        assert torch.equal(own(empty)[name], parameter), name


def test_the_frozen_part_of_the_gradient_is_not_in_the_clipped_norm() -> None:
    sae = small_sae(mechanics=[sr.FrozenCore(size=CORE)])
    norms: list[float] = []

    def note(*_: Any) -> None:
        norms.append(float(sae.W_enc.grad[:, :CORE].abs().max()))

    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    optimizer.register_step_pre_hook(note)
    train(sae, data(3), optimizer)
    assert norms == [0.0] * 3
    moments = optimizer.state[sae.W_enc]
    assert not moments["exp_avg"][:, :CORE].any()
    assert moments["exp_avg"][:, CORE:].any()


def test_a_core_of_all_latents_trains_decoder_and_biases_alone() -> None:
    sae = small_sae(mechanics=[sr.FrozenCore(size=D_SAE)])
    before = own(sae)
    train(sae, data(4))
    assert torch.equal(sae.W_enc, before["W_enc"])
    assert not torch.equal(sae.W_dec, before["W_dec"])
    assert not torch.equal(sae.b_dec, before["b_dec"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_size_set_before_the_first_step_is_resumed(
    architecture: str, tmp_path: Path
) -> None:
    batches = data(RESUME_STEPS, rows=BATCH)
    sae = small_sae(
        architecture, mechanics=[sr.FrozenCore(), sr.WeightDecay(decay=0.3)]
    )
    component(sae, "frozen_core").size = CORE
    before = own(sae)
    whole = checkpointed_trainer(sae, tmp_path, iter(batches))
    whole.fit()
    checkpoint = the_checkpoint(tmp_path)
    done = int(checkpoint.name) // BATCH
    resumed = reopen(checkpoint, tmp_path, iter(batches[done:]))
    resumed.fit()
    assert component(resumed.sae, "frozen_core").size == CORE
    assert_same_state(resumed.sae, sae)
    assert torch.equal(resumed.sae.W_enc[:, :CORE], before["W_enc"][:, :CORE])


def test_its_size_is_logged() -> None:
    sae = small_sae(mechanics=[sr.FrozenCore(size=CORE)])
    outputs: list[Any] = []
    train(sae, data(1), each=outputs.append)
    assert outputs[0].metrics["frozen_core_size"] == CORE


@pytest.mark.parametrize("size", [-1, 1.5, True])
def test_a_size_that_is_no_count_is_refused(size: Any) -> None:
    with pytest.raises(sr.InputError, match="frozen_core: size is"):
        sr.FrozenCore(size=size)


def test_more_latents_than_there_are_are_refused() -> None:
    with pytest.raises(sr.InputError, match="expected at most 24"):
        small_sae(mechanics=[sr.FrozenCore(size=D_SAE + 1)])


def test_resampling_next_to_it_is_refused() -> None:
    both = [sr.FrozenCore(size=CORE), sr.DeadLatentResampling()]
    with pytest.raises(sr.InputError, match="half changed"):
        small_sae(mechanics=both)
