"""Multi-TopK adds the reconstruction loss at 4k; a sparse step selects once."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import saereg_plugin as sr
from saereg_plugin.architectures import sparse_step as sparse_steps
from saereg_plugin.kernels.encode import ActiveLatents, WiderSelection
from saereg_plugin.kernels.selected import select_rows
from tests.oracles.multi_topk_oracle import multi_topk_loss
from tests.regularizers.synthetic import D_SAE, small_sae, sparse_data
from tests.training import forward

LABEL = "multi_topk"
DECODERS: list[dict[str, Any]] = [{}, {"decoder_constraint": "unit_norm"}]
STEPS = ["never", "always"]


def double(**fields: Any) -> Any:
    """An SAE in float64 with biases that are not 0."""
    sae = small_sae(dtype="float64", **fields)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for bias in (sae.b_enc, sae.b_dec):
            bias.add_(0.05 * torch.randn(bias.shape, generator=generator))
        if not sae.cfg.unit_norm:
            sae.W_dec.mul_(torch.rand(D_SAE, 1, generator=generator) + 0.5)
    return sae


def gradients(sae: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*sae.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("apply_b_dec", [True, False])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("sparse_step", STEPS)
def test_loss_and_gradient_are_those_of_the_plain_formula(
    sparse_step: str, decoder: dict[str, Any], apply_b_dec: bool
) -> None:
    sae = double(
        regularizers=[sr.MultiTopK()],
        sparse_step=sparse_step,
        apply_b_dec_to_input=apply_b_dec,
        **decoder,
    )
    batch = sparse_data(24).double()
    output = forward(sae, batch)
    assert sae.took_sparse_step == (sparse_step == "always")
    expected = multi_topk_loss(sae, batch, k=4, multiple=4, weight=1 / 8)
    torch.testing.assert_close(output.loss, expected, rtol=1e-10, atol=1e-12)
    found, wanted = gradients(sae, output.loss), gradients(sae, expected)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-10)


@settings(deadline=None, max_examples=30)
@given(
    k=st.integers(1, 20),
    multiple=st.integers(2, 6),
    coefficient=st.floats(0.01, 2),
    rows=st.integers(1, 5),
)
def test_any_k_and_multiple_agree_in_both_steps(
    k: int, multiple: int, coefficient: float, rows: int
) -> None:
    regularizer = sr.MultiTopK(coefficient=coefficient, multiple=multiple)
    batch = sparse_data(rows).double()
    for sparse_step in STEPS:
        sae = double(k=k, regularizers=[regularizer], sparse_step=sparse_step)
        loss = forward(sae, batch).loss
        expected = multi_topk_loss(
            sae, batch, k=k, multiple=multiple, weight=coefficient
        )
        torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)


def test_sparse_step_selects_once_and_keeps_the_k_largest() -> None:
    plain = small_sae(sparse_step="always")
    sae = small_sae(regularizers=[sr.MultiTopK()], sparse_step="always")
    batch = sparse_data(32)
    with patch.object(
        sparse_steps, "select_top_k", wraps=sparse_steps.select_top_k
    ) as select:
        output: Any = forward(sae, batch)
    assert [call.args[1] for call in select.call_args_list] == [16]
    expected: Any = forward(plain, batch)
    assert output.active is not None and expected.active is not None
    assert torch.equal(output.active.selected.latents, expected.active.selected.latents)
    assert torch.equal(output.feature_acts.to_dense(), expected.feature_acts.to_dense())
    assert torch.equal(output.losses["mse_loss"], expected.losses["mse_loss"])
    assert torch.equal(output.sae_out, expected.sae_out)
    assert expected.wider is None


def test_whole_loss_is_that_at_k_and_an_eighth_of_that_at_4k() -> None:
    batch = sparse_data(32)
    output = forward(small_sae(regularizers=[sr.MultiTopK()]), batch)
    at_4k = forward(small_sae(k=16), batch).losses["mse_loss"]
    at_k = forward(small_sae(), batch).losses["mse_loss"]
    torch.testing.assert_close(output.losses["mse_loss"], at_k)
    torch.testing.assert_close(output.losses[LABEL], at_4k / 8)
    torch.testing.assert_close(output.metrics[f"{LABEL}_mse"], at_4k)
    torch.testing.assert_close(
        output.loss, at_k + at_4k / 8 + output.losses["auxiliary_reconstruction_loss"]
    )


def test_two_multiples_share_the_larger_selection() -> None:
    regularizers = [sr.MultiTopK(multiple=2), sr.MultiTopK(multiple=3, label="three")]
    batch = sparse_data(16).double()
    outputs: list[Any] = [
        forward(double(regularizers=regularizers, sparse_step=sparse_step), batch)
        for sparse_step in STEPS
    ]
    for name in (LABEL, "three"):
        torch.testing.assert_close(
            outputs[0].losses[name], outputs[1].losses[name], rtol=1e-10, atol=1e-12
        )
    assert outputs[1].wider.ranking.shape == (16, 12)


def test_the_first_k_of_a_wider_selection_reach_its_gradients() -> None:
    ranking = torch.tensor([[3.0, 1.0, 2.0], [1.0, 5.0, 4.0]])
    acts = ranking.flatten().clone().requires_grad_()
    latents = torch.tensor([[0, 4, 6], [1, 2, 3]])
    wider = WiderSelection(ActiveLatents(select_rows(latents, 8), acts, None), ranking)
    first = wider.of_k(2)
    assert first.selected.latents.tolist() == [0, 6, 2, 3]
    assert first.acts.tolist() == [3.0, 2.0, 5.0, 4.0]
    first.acts.sum().backward()
    assert acts.grad is not None and acts.grad.tolist() == [1, 0, 1, 0, 1, 1]
    assert wider.of_k(3) is wider.active


def test_annealed_k_is_multiplied_in_each_step() -> None:
    batch = sparse_data(16)
    for sparse_step in STEPS:
        sae = small_sae(
            k=2,
            regularizers=[sr.MultiTopK(multiple=2)],
            mechanics=[sr.KAnnealing(steps=4)],
            sparse_step=sparse_step,
        )
        output = forward(sae, batch)
        # d_in = 16 latents at the start, so 32 of 48
        expected = forward(small_sae(k=32), batch).losses["mse_loss"]
        torch.testing.assert_close(output.metrics[f"{LABEL}_mse"], expected)


def test_step_is_sparse_where_four_times_k_leaves_it_the_faster() -> None:
    batch = sparse_data(16)
    for d_sae, sparse in ((128, True), (112, False)):
        sae = small_sae(
            k=2, d_sae=d_sae, regularizers=[sr.MultiTopK()], sparse_step="auto"
        )
        forward(sae, batch)
        assert sae.took_sparse_step is sparse


@pytest.mark.parametrize("sparse_step", STEPS)
def test_trained_sae_reconstructs_better_at_4k(sparse_step: str) -> None:
    errors: list[float] = []
    for regularizers in ([], [sr.MultiTopK(coefficient=0.5)]):
        sae = small_sae(k=2, regularizers=regularizers, sparse_step=sparse_step)
        optimizer = torch.optim.Adam(sae.parameters(), lr=3e-3)
        for batch in sparse_data(64 * 300).split(64):
            forward(sae, batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        held_out = sparse_data(512, seed=9)
        sae.activation_fn.k = 8
        with torch.no_grad():
            errors.append(float((sae(held_out) - held_out).square().mean()))
    assert errors[1] < 0.9 * errors[0]


def test_autocast_of_a_dense_step_is_served() -> None:
    sae = small_sae(regularizers=[sr.MultiTopK()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = forward(sae, sparse_data(16))
    assert output.losses[LABEL].dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sparse = forward(
            small_sae(regularizers=[sr.MultiTopK()], sparse_step="always"),
            sparse_data(16),
        )
    torch.testing.assert_close(
        output.losses[LABEL], sparse.losses[LABEL], rtol=0.03, atol=1e-3
    )


@pytest.mark.parametrize(
    "architecture",
    ["standard", "batchtopk", "matryoshka_batchtopk", "jumprelu", "gated"],
)
def test_other_architectures_are_refused(architecture: str) -> None:
    with pytest.raises(
        sr.InputError, match="selected row by row. Use regularized_topk"
    ):
        small_sae(architecture, regularizers=[sr.MultiTopK()])


def test_normalisation_inside_the_step_is_refused() -> None:
    with pytest.raises(sr.InputError, match="multi_topk cannot be used with"):
        small_sae(regularizers=[sr.MultiTopK()], normalize_activations="layer_norm")


@pytest.mark.parametrize("multiple", [1, 0, 2.5, "4", True])
def test_bad_multiple_is_refused(multiple: Any) -> None:
    with pytest.raises(sr.InputError, match="multi_topk: multiple is"):
        sr.MultiTopK(multiple=multiple)
