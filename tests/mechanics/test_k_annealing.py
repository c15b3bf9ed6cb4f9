"""k falls from d_in to its final value over the first steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file

import saereg_plugin as sr
from saereg_plugin.mechanics.k_annealing import annealed_k
from tests.mechanics.small import D_IN, D_SAE, ROWS, data, small_sae, small_stock, train
from tests.training import assert_same_state, component, forward

KINDS = ("topk", "batchtopk", "matryoshka_batchtopk")
STEPS = 8
# int(12 (1 - t / 8) + 4 t / 8) = int(12 - t)
BY_HAND = [12, 11, 10, 9, 8, 7, 6, 5, 4, 4, 4]


def test_sequence_by_hand() -> None:
    ks = [annealed_k(t, steps=STEPS, d_in=12, d_sae=24, k=4) for t in range(11)]
    assert ks == BY_HAND
    # int() cuts: 10 - 2.25, 10 - 4.5, 10 - 6.75
    ks = [annealed_k(t, steps=4, d_in=10, d_sae=24, k=1) for t in range(5)]
    assert ks == [10, 7, 5, 3, 1]


def test_never_more_than_the_latents_nor_fewer_than_one() -> None:
    ks = [annealed_k(t, steps=4, d_in=10, d_sae=6, k=2) for t in range(5)]
    assert ks == [6, 6, 6, 4, 2]
    # BatchTopK's k need not be whole; the final one stays as given
    ks = [annealed_k(t, steps=4, d_in=4, d_sae=6, k=0.5) for t in range(6)]
    assert ks == [4, 3, 2, 1, 0.5, 0.5]


@pytest.mark.parametrize("sparse_step", ["never", "always"])
@pytest.mark.parametrize("architecture", KINDS)
def test_every_step_uses_the_k_of_its_time(architecture: str, sparse_step: str) -> None:
    sae = small_sae(
        architecture,
        mechanics=[sr.KAnnealing(steps=STEPS)],
        sparse_step=sparse_step,
        b_dec_init="mean",
    )
    used: list[float] = []

    def check(output: Any) -> None:
        k = output.metrics["k_annealing_k"]
        pairs = int((output.feature_acts.detach().to_dense() > 0).sum())
        # with 24 latents on 12 dimensions about half the pre-activations are positive
        assert pairs <= k * ROWS
        assert k > 9 or pairs > 0.7 * k * ROWS
        used.append(k)
        assert sae.cfg.k == sae.current_k == 4

    train(sae, data(11), each=check)
    assert used == BY_HAND


@pytest.mark.parametrize("architecture", KINDS)
def test_sparse_and_dense_steps_agree_while_k_falls(architecture: str) -> None:
    saes = [
        small_sae(
            architecture,
            mechanics=[sr.KAnnealing(steps=STEPS)],
            sparse_step=sparse_step,
            dtype="float64",
        )
        for sparse_step in ("never", "always")
    ]
    for sae in saes:
        train(sae, [batch.double() for batch in data(11)])
    dense, sparse = saes
    assert sparse.took_sparse_step and not dense.took_sparse_step
    for name, parameter in dense.named_parameters():
        torch.testing.assert_close(
            sparse.get_parameter(name), parameter, rtol=1e-8, atol=1e-10
        )


def test_step_is_sparse_from_where_the_current_k_makes_it_faster() -> None:
    sae = small_sae(
        d_sae=128, k=4, mechanics=[sr.KAnnealing(steps=STEPS)], sparse_step="auto"
    )
    sparse: list[bool] = []
    train(sae, data(11), each=lambda _: sparse.append(sae.took_sparse_step))
    assert sparse == [16 * k <= 128 for k in BY_HAND]
    assert sparse[0] is False and sparse[-1] is True


def test_after_the_annealing_it_trains_as_without() -> None:
    annealed = small_sae(mechanics=[sr.KAnnealing(steps=1)])
    plain = small_stock(k=D_IN)
    optimizers = [train(sae, data(1)) for sae in (annealed, plain)]
    assert_same_state(annealed, plain)
    plain.activation_fn.k = 4
    for sae, optimizer in zip((annealed, plain), optimizers, strict=True):
        train(sae, data(5)[1:], optimizer)
    assert_same_state(annealed, plain)


@pytest.mark.parametrize("architecture", KINDS)
def test_final_k_outside_of_training_steps(architecture: str, tmp_path: Path) -> None:
    sae = small_sae(architecture, mechanics=[sr.KAnnealing(steps=100)])
    train(sae, data(3))
    (batch,) = data(1, seed=1)
    sae.eval()
    with torch.no_grad():
        acts = sae.encode(batch)
    assert (acts > 0).sum() <= 4 * ROWS
    sae.save_model(tmp_path / "training")
    sae.save_inference_model(tmp_path / "saved")
    cfg = json.loads((tmp_path / "training" / "cfg.json").read_text())
    assert cfg["k"] == 4
    saved = SAE.load_from_disk(tmp_path / "saved")
    if architecture == "topk":
        assert saved.cfg.k == 4
        assert (saved.encode(batch) > 0).sum() <= 4 * ROWS
    weights = load_file(tmp_path / "saved" / "sae_weights.safetensors")
    assert not [name for name in weights if "annealing" in name]


def test_auxiliary_loss_is_defined_as_without() -> None:
    """AuxK's share and number of latents come from d_in and the dead, not from k."""
    dead = torch.arange(D_SAE) >= 20
    (batch,) = data(1)
    annealed = small_sae(mechanics=[sr.KAnnealing(steps=100)])
    plain = small_stock(k=D_IN)
    losses = [
        forward(sae, batch, dead).losses["auxiliary_reconstruction_loss"]
        for sae in (annealed, plain)
    ]
    assert torch.equal(*losses) and losses[0] > 0


def test_resumed_annealing_goes_on(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"mechanics": [sr.KAnnealing(steps=STEPS)]}
    sae = small_sae(**fields)
    train(sae, data(3))
    sae.save_model(tmp_path)
    again = small_sae(**fields)
    again.load_weights_from_checkpoint(tmp_path)
    forward(again, data(1)[0])
    assert component(again, "k_annealing").metrics()["k"] == BY_HAND[3]


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated"])
def test_architecture_without_k_is_refused(architecture: str) -> None:
    with pytest.raises(
        sr.InputError, match=f"regularized_{architecture} has no k to anneal. Use"
    ):
        small_sae(architecture, mechanics=[sr.KAnnealing()])


@pytest.mark.parametrize("steps", [0, -1, 1.5, "10", True])
def test_bad_length_is_refused(steps: Any) -> None:
    with pytest.raises(
        sr.InputError,
        match=f"k_annealing: steps is {steps!r}; expected a whole number, 1",
    ):
        sr.KAnnealing(steps=steps)


@pytest.mark.parametrize("sparse_step", ["never", "always"])
def test_a_pass_that_fails_leaves_the_final_k(sparse_step: str) -> None:
    sae = small_sae(mechanics=[sr.KAnnealing(steps=100)], sparse_step=sparse_step)
    (batch,) = data(1)
    with pytest.raises(RuntimeError, match="shape|size"):
        forward(sae, batch[:, :-1])
    assert sae.activation_fn.k == 4
    # refused by a component that comes before the annealing, after it was set up
    sae = small_sae(
        mechanics=[sr.KAnnealing(steps=100)],
        regularizers=[sr.TemporalDifference(context_size=5)],
        sparse_step=sparse_step,
    )
    with pytest.raises(sr.InputError, match="no multiple of context_size=5"):
        forward(sae, batch)
    assert sae.activation_fn.k == 4
