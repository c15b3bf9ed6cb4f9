"""The firing rate of a batch and its running average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mechanics.small import D_SAE, ROWS, data, small_sae, train
from tests.training import ARCHITECTURES, component, forward

SCALING: dict[str, Any] = {"name": "activation_rate_scaling", "decay": 0.75}


def rate(sae: Any) -> torch.Tensor:
    return component(sae, "activation_rate_scaling").rate


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_average_follows_the_formula_step_by_step(architecture: str) -> None:
    sae = small_sae(architecture, mechanics=[SCALING])
    expected = [torch.zeros(D_SAE)]

    def check(output: Any) -> None:
        fired = (output.feature_acts.detach() > 0).sum(dim=0) / ROWS
        expected.append(0.75 * expected[-1] + 0.25 * fired)
        torch.testing.assert_close(rate(sae), expected[-1], rtol=1e-6, atol=0)

    train(sae, data(6), each=check)
    assert len(expected) == 7
    assert expected[-1].max() <= 1
    assert expected[-1].std() > 0.01


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka_batchtopk"])
def test_sparse_step_and_sparse_tensor_count_as_the_dense_step(
    architecture: str,
) -> None:
    variants: list[dict[str, Any]] = [
        {"sparse_step": "never"},
        {"sparse_step": "always"},
        {"sparse_step": "never", "use_sparse_activations": True},
    ]
    # SAELens' sparse activations do not train with rescaling
    fields = {"mechanics": [SCALING], "rescale_acts_by_decoder_norm": False}
    saes = [small_sae(architecture, **fields, **each) for each in variants]
    outputs: list[Any] = []
    for sae in saes:
        train(sae, data(1), each=outputs.append)
    dense, sparse, tensor = (rate(sae) for sae in saes)
    assert saes[1].took_sparse_step
    assert outputs[2].feature_acts.is_sparse or architecture != "topk"
    assert dense.any()
    assert torch.equal(sparse, dense)
    assert torch.equal(tensor, dense)


@pytest.mark.parametrize("name", ["activation_rate_scaling", "resampling"])
def test_passes_without_an_optimiser_step_count_nothing(name: str) -> None:
    mechanic = {"name": name, "decay": 0.75}
    mechanic |= {"threshold": 0.1} if name == "resampling" else {}
    first, second = data(2)
    sae, plain = (small_sae(mechanics=[mechanic]) for _ in range(2))
    forward(sae, first)
    assert not component(sae, name).rate.any()
    train(sae, [second])
    train(plain, [second])
    assert torch.equal(component(sae, name).rate, component(plain, name).rate)
    before = component(sae, name).rate.clone()
    forward(sae, first)
    assert torch.equal(component(sae, name).rate, before)


def test_rows_that_are_left_out_do_not_count() -> None:
    (batch,) = data(1)
    batch[:4] *= 1000
    sae = small_sae(mechanics=[{**SCALING, "decay": 0.0}], max_norm_multiple=10.0)
    train(sae, [batch])
    kept = small_sae(mechanics=[{**SCALING, "decay": 0.0}])
    train(kept, [batch[4:]])
    assert torch.equal(rate(sae), rate(kept))
    assert rate(sae).sum() == pytest.approx(4)  # k of the rows that are left


def test_state_is_kept_in_float32_and_in_checkpoints(tmp_path: Path) -> None:
    sae = small_sae(mechanics=[SCALING], dtype="bfloat16")
    sae.to(torch.bfloat16)
    train(sae, [batch.bfloat16() for batch in data(3)])
    assert rate(sae).dtype == torch.float32
    sae.save_model(tmp_path)
    again = small_sae(mechanics=[SCALING], dtype="bfloat16")
    again.load_weights_from_checkpoint(tmp_path)
    assert torch.equal(rate(again), rate(sae)) and rate(sae).any()
