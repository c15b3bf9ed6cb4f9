"""MonoLoss against the pair loop, its gradients, and the sparse step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import saereg_plugin as sr
from saereg_plugin.metrics import Codes, score_sums, unit_embeddings
from saereg_plugin.regularizers.mono_loss import (
    batch_scores,
    dense_sums,
    sparse_sums,
    sums_dtype,
)
from tests.oracles import vision_oracle as oracle
from tests.regularizers.synthetic import (
    in_batches,
    small_sae,
    small_stock_sae,
    sparse_data,
)
from tests.training import (
    ARCHITECTURES,
    TOPK_ARCHITECTURES,
    forward,
    make_trainer,
    run_steps,
)

LABEL = "mono_loss"


def formula(z: Tensor, inputs: Tensor) -> Tensor:
    """``1 - mean MS`` from the matrix of all cosines, by autograd."""
    unit = functional.normalize(inputs.detach().double(), dim=-1)
    cosines = unit @ unit.T
    z = z.double()
    others = 1 - torch.eye(len(z), dtype=torch.float64)
    above = torch.einsum("nj,nm,mj->j", z, cosines * others, z)
    below = torch.einsum("nj,nm,mj->j", z, others, z)
    scored = ((z > 0).sum(0) > 1).detach()
    return 1 - (above[scored] / below[scored]).mean()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_value_and_gradients_are_those_of_the_formula(architecture: str) -> None:
    rows = sparse_data(7)
    ours = small_sae(architecture, regularizers=[sr.MonoLoss(coefficient=0.5)])
    stock = small_stock_sae(architecture)
    output, plain = forward(ours, rows), forward(stock, rows)
    wanted = 0.5 * formula(plain.feature_acts, rows)
    assert output.losses[LABEL].dtype == torch.float32
    torch.testing.assert_close(output.losses[LABEL], wanted.float())
    loops = 0.5 * oracle.mono_loss(plain.feature_acts.tolist(), rows.tolist())
    assert output.losses[LABEL].item() == pytest.approx(loops, rel=1e-5)
    output.loss.backward()
    (plain.loss + wanted).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(
            ours.get_parameter(name).grad,
            parameter.grad,
            rtol=1e-4,
            atol=1e-6,
            msg=name,
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(0, 10_000))
def test_dense_and_sparse_sums_give_the_scores_of_the_metric(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    z = torch.rand(n, 6, generator=generator)
    z *= torch.rand(n, 6, generator=generator) < 0.5
    unit = functional.normalize(torch.randn(n, 4, generator=generator).double())
    codes = Codes.of(z)
    dense, scored = batch_scores(dense_sums(z, unit))
    sparse, _ = batch_scores(sparse_sums(codes.selected, codes.values, unit))
    torch.testing.assert_close(sparse, dense)
    off = (z == 0).any(0)  # the metric shifts the others by their minimum
    wanted = score_sums(codes, unit).scores()
    torch.testing.assert_close(dense[off & scored], wanted[off & scored])
    assert torch.equal((z > 0).sum(0) > 1, scored)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_row_of_0_that_fires_has_a_cosine_of_0(sparse: bool) -> None:
    inputs = [[1.0, 0.0], [0.0, 0.0], [0.6, 0.8]]
    z = torch.tensor([[2.0, 1.0], [3.0, 4.0], [1.0, 0.0]])
    unit = functional.normalize(torch.tensor(inputs).double(), dim=-1)
    codes = Codes.of(z)
    sums = (
        sparse_sums(codes.selected, codes.values, unit)
        if sparse
        else dense_sums(z, unit)
    )
    scores, scored = batch_scores(sums)
    # 2 * 1 * .6 over 2 * 3 + 2 * 1 + 3 * 1
    assert scores.tolist() == pytest.approx([1.2 / 11, 0.0])
    assert scored.tolist() == [True, True]
    wanted = [oracle.weighted_cosine(column, inputs) for column in z.T.tolist()]
    assert scores.tolist() == pytest.approx(wanted)
    with pytest.raises(ValueError, match="embedding of image 1 is 0"):
        unit_embeddings(torch.tensor(inputs))


def test_sums_are_float32_where_float64_is_missing() -> None:
    assert sums_dtype(torch.device("mps")) == torch.float32
    assert sums_dtype(torch.device("cpu")) == torch.float64
    rows = sparse_data(64).double()
    z = torch.relu(rows[:, :6])
    found = []
    for dtype in (torch.float32, torch.float64):
        unit = functional.normalize(rows.to(dtype), dim=-1)
        scores, scored = batch_scores(dense_sums(z, unit))
        codes = Codes.of(z)
        sparse, _ = batch_scores(sparse_sums(codes.selected, codes.values, unit))
        assert scores.dtype == sparse.dtype == dtype
        found += [(scores.double(), scored), (sparse.double(), scored)]
    for scores, scored in found:
        torch.testing.assert_close(scores, found[-1][0], rtol=1e-4, atol=1e-5)
        assert torch.equal(scored, found[-1][1])


@pytest.mark.parametrize("sparse", [True, False])
def test_gradient_against_finite_differences(sparse: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(6, 5, generator=generator, dtype=torch.float64) + 0.1
    z *= torch.rand(6, 5, generator=generator) < 0.6
    inputs = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    inputs[3] = 0
    unit = functional.normalize(inputs, dim=-1)
    codes = Codes.of(z)

    def value(given: Tensor) -> Tensor:
        made = (
            sparse_sums(codes.selected, given, unit)
            if sparse
            else dense_sums(given, unit)
        )
        return batch_scores(made)[0].sum()

    start = codes.values.clone() if sparse else z.clone()
    assert torch.autograd.gradcheck(value, (start.requires_grad_(),))


def test_scores_survive_a_row_that_outweighs_the_others() -> None:
    inputs = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])
    z = torch.tensor([[1e3, 5.0], [1e-4, 0.0], [0.0, 0.0]]).requires_grad_()
    scores, scored = batch_scores(dense_sums(z, functional.normalize(inputs.double())))
    assert scored.tolist() == [True, False]
    assert scores.tolist() == pytest.approx([0.6, 0.0], rel=1e-6)
    (gradient,) = torch.autograd.grad(scores.sum(), z)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_sparse_step_is_the_dense_step(architecture: str, rescale: bool) -> None:
    fields: dict[str, Any] = {
        "dtype": "float64",
        "rescale_acts_by_decoder_norm": rescale,
        "regularizers": [sr.MonoLoss(coefficient=0.5)],
    }
    rows = sparse_data(640).double()
    saes = [
        small_sae(architecture, sparse_step=way, **fields)
        for way in ("never", "always")
    ]
    outputs = [
        run_steps(make_trainer(sae, in_batches(rows, 64), batch_size=64), 8)
        for sae in saes
    ]
    assert [sae.took_sparse_step for sae in saes] == [False, True]
    for dense, sparse in zip(*outputs, strict=True):
        for key in (f"{LABEL}_monosemanticity", f"{LABEL}_scored_latents"):
            torch.testing.assert_close(sparse.metrics[key], dense.metrics[key])
        torch.testing.assert_close(sparse.loss, dense.loss)
    for name, parameter in saes[0].named_parameters():
        torch.testing.assert_close(
            saes[1].get_parameter(name), parameter, rtol=1e-8, atol=1e-8, msg=name
        )


@pytest.mark.parametrize("way", ["never", "always"])
def test_a_coefficient_of_0_trains_as_without(way: str) -> None:
    saes = [
        small_sae(
            sparse_step=way,
            rescale_acts_by_decoder_norm=False,
            regularizers=regularizers,
        )
        for regularizers in ([], [sr.MonoLoss(coefficient=0)])
    ]
    for sae in saes:
        data = in_batches(sparse_data(640), 64)
        run_steps(make_trainer(sae, data, batch_size=64), 5)
    for name, parameter in saes[0].named_parameters():
        assert torch.equal(saes[1].get_parameter(name), parameter), name


def test_training_with_it_raises_the_score() -> None:
    data = sparse_data(2048)
    found = []
    for coefficient in (0.0, 50.0):
        sae = small_sae(regularizers=[sr.MonoLoss(coefficient=coefficient)])
        trainer = make_trainer(sae, in_batches(data, 256), steps=60, batch_size=256)
        last: Any = run_steps(trainer, 60)[-1]
        found.append(float(last.metrics[f"{LABEL}_monosemanticity"]))
    assert found[1] > found[0] + 0.05
