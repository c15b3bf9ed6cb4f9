"""The four scalings of the auxiliary loss, dense and sparse, against plain code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import saereg_plugin as sr
from saereg_plugin.kernels.aux_loss import AuxKLoss, DeadLatents
from saereg_plugin.mechanics.auxk import auxk_scale
from tests.kernels.test_gradients import leaf
from tests.mechanics.small import D_SAE, data, small_sae, small_stock
from tests.oracles.auxk_oracle import scaled_auxk
from tests.training import TOPK_ARCHITECTURES, forward, make_trainer, run_steps

AUX = "auxiliary_reconstruction_loss"
SCALINGS = ("sae_lens", "openai", "dictionary_learning", "sparsify")
NEW = SCALINGS[1:]
# fewer than k_aux = 6, more, one
DEADS = ([1, 7, 20], [0, 2, 3, 5, 8, 11, 13, 17, 21, 23], [4])


def mask_of(dead: list[int]) -> torch.Tensor:
    mask = torch.zeros(D_SAE, dtype=torch.bool)
    mask[dead] = True
    return mask


def double_sae(architecture: str = "topk", **fields: Any) -> Any:
    sae = small_sae(architecture, dtype="float64", **fields)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (sae.b_enc, sae.b_dec):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise)
    return sae


def expected_loss(
    sae: Any, batch: torch.Tensor, sae_out: torch.Tensor, dead: list[int]
) -> torch.Tensor:
    """In the SAE's own parameters; its decoder's norms cancel."""
    pre = (batch - sae.b_dec * sae.cfg.apply_b_dec_to_input) @ sae.W_enc + sae.b_enc
    if sae.cfg.rescale_acts_by_decoder_norm:
        norms = sae.W_dec.norm(dim=-1)
        pre, rows = pre * norms, sae.W_dec / norms[:, None]
    else:
        rows = sae.W_dec
    loss = scaled_auxk(sae.cfg.auxk_scaling, batch, sae_out.detach(), pre, rows, dead)
    return sae.cfg.aux_loss_coefficient * loss


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("sparse_step", ["never", "always"])
@pytest.mark.parametrize("dead", DEADS, ids=len)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_loss_and_gradients_are_those_of_plain_code(
    scaling: str, dead: list[int], sparse_step: str, rescale: bool
) -> None:
    sae = double_sae(
        auxk_scaling=scaling,
        sparse_step=sparse_step,
        rescale_acts_by_decoder_norm=rescale,
        apply_b_dec_to_input=rescale,
        aux_loss_coefficient=0.7,
    )
    batch = data(1)[0].double()
    output = forward(sae, batch, mask_of(dead))
    expected = expected_loss(sae, batch, output.sae_out, dead)
    assert expected > 0
    torch.testing.assert_close(output.losses[AUX], expected)
    names = ["W_enc", "b_enc", "W_dec"] + (["b_dec"] if rescale else [])
    parameters = [sae.get_parameter(name) for name in names]
    theirs = torch.autograd.grad(expected, parameters)
    ours = torch.autograd.grad(output.losses[AUX], parameters)
    for mine, plain in zip(ours, theirs, strict=True):
        assert plain.any()
        torch.testing.assert_close(mine, plain)


@pytest.mark.parametrize("sparse_step", ["never", "always"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_matryoshka_levels_add_up(scaling: str, sparse_step: str) -> None:
    sae = double_sae(
        "matryoshka_batchtopk",
        auxk_scaling=scaling,
        sparse_step=sparse_step,
        use_matryoshka_aux_loss=True,
    )
    batch = data(1)[0].double()
    dead = [1, 3, 4, 7, 20, 22]
    output = forward(sae, batch, mask_of(dead))
    acts = output.feature_acts.detach().to_dense() / sae.W_dec.norm(dim=-1)
    inner = acts[:, :6] @ sae.W_dec[:6] + sae.b_dec
    expected = expected_loss(sae, batch, inner, [1, 3, 4]) + expected_loss(
        sae, batch, output.sae_out, [7, 20, 22]
    )
    torch.testing.assert_close(output.losses[AUX], expected)
    only_first = forward(sae, batch, mask_of([2])).losses[AUX]
    torch.testing.assert_close(only_first, expected_loss(sae, batch, inner, [2]))


@pytest.mark.parametrize("scaling", NEW)
@pytest.mark.parametrize("architecture", TOPK_ARCHITECTURES)
def test_sparse_and_dense_training_agree(architecture: str, scaling: str) -> None:
    fields: dict[str, Any] = {"auxk_scaling": scaling, "aux_loss_coefficient": 30.0}
    saes = [
        double_sae(architecture, sparse_step=sparse_step, **fields)
        for sparse_step in ("never", "always")
    ]
    sums = []
    for sae in saes:
        batches = iter([batch.double() for batch in data(12)])
        trainer = make_trainer(sae, batches, batch_size=16, dead_feature_window=1)
        outputs = run_steps(trainer, 12)
        sums.append(sum(float(output.losses[AUX].detach()) for output in outputs))
    assert sums[0] == pytest.approx(sums[1], rel=1e-8)
    assert sums[0] > 0
    for name, parameter in saes[0].named_parameters():
        torch.testing.assert_close(
            saes[1].get_parameter(name), parameter, rtol=1e-7, atol=1e-9
        )


@pytest.mark.parametrize("k", [3, 5, 1])
def test_rectified_kernel_passes_gradcheck(k: int) -> None:
    inputs = [
        leaf(6, 4, seed=1),
        leaf(4, 15, seed=2),
        leaf(15, seed=3),
        leaf(15, 4, seed=4),
        leaf(4, seed=5),
    ]
    residual = leaf(6, 4, seed=7).detach()
    dead = DeadLatents(torch.tensor([1, 2, 6, 9, 13]), k, None, torch.float64, True)
    assert torch.autograd.gradcheck(
        lambda *t: AuxKLoss.apply(*t, residual, dead), inputs
    )


@pytest.mark.parametrize("scaling", NEW)
def test_dense_loss_has_the_gradient_of_finite_differences(scaling: str) -> None:
    sae = double_sae(auxk_scaling=scaling, aux_loss_coefficient=5.0)
    batch, mask = data(1)[0].double()[:5], mask_of(DEADS[1])
    # what is constant in the loss must be constant here
    sae_out = forward(sae, batch, mask).sae_out.detach()

    def loss(W_enc: torch.Tensor, W_dec: torch.Tensor) -> torch.Tensor:
        pre = ((batch - sae.b_dec.detach()) @ W_enc + sae.b_enc.detach()) * W_dec.norm(
            dim=-1
        )
        old = sae.W_dec
        try:
            del sae._parameters["W_dec"]
            sae.W_dec = W_dec
            return sae.calculate_topk_aux_loss(batch, sae_out, pre, mask)
        finally:
            del sae.W_dec
            sae.register_parameter("W_dec", old)

    inputs = tuple(p.detach().clone().requires_grad_() for p in (sae.W_enc, sae.W_dec))
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("sparse_step", ["never", "always"])
@pytest.mark.parametrize("scaling", SCALINGS)
def test_no_dead_latent_costs_nothing(scaling: str, sparse_step: str) -> None:
    sae = small_sae(auxk_scaling=scaling, sparse_step=sparse_step)
    for dead in (None, mask_of([])):
        assert forward(sae, data(1)[0], dead).losses[AUX] == 0


@pytest.mark.parametrize("sparse_step", ["never", "always"])
@pytest.mark.parametrize("scaling", NEW)
def test_batch_of_one_row_has_no_variance_and_no_nan(
    scaling: str, sparse_step: str
) -> None:
    sae = small_sae(auxk_scaling=scaling, sparse_step=sparse_step)
    output = forward(sae, data(1)[0][:1], mask_of(DEADS[0]))
    assert output.losses[AUX] == 0
    output.loss.backward()
    assert all(p.grad.isfinite().all() for p in sae.parameters())


def test_scale_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2), variance 1 + 4
    residual = torch.tensor([[0.0, 1.0], [0.0, -1.0]])  # variance 1
    scales = [
        float(auxk_scale(name, n_dead=2, k_aux=8, x=x, residual=residual))  # type: ignore[arg-type]
        for name in SCALINGS
    ]
    assert scales == pytest.approx([0.25, 1 / 160, 1 / 32, 0.05])
    many = auxk_scale("sparsify", n_dead=20, k_aux=8, x=x, residual=residual)
    assert float(many) == pytest.approx(0.2)


def test_default_is_saelens_own_bit_for_bit() -> None:
    ours, stock = small_sae(auxk_scaling="sae_lens"), small_stock()
    outputs = [forward(sae, data(1)[0], mask_of(DEADS[0])) for sae in (ours, stock)]
    assert torch.equal(outputs[0].losses[AUX], outputs[1].losses[AUX])
    assert outputs[0].losses[AUX] > 0


def test_unknown_scaling_is_refused() -> None:
    with pytest.raises(
        sr.InputError, match="auxk_scaling is 'open_ai'. Did you mean 'openai'"
    ):
        small_sae(auxk_scaling="open_ai")


@pytest.mark.parametrize("scaling", NEW)
def test_normalisation_inside_the_step_is_refused(scaling: str) -> None:
    with pytest.raises(sr.InputError, match="'layer_norm', for which the auxiliary"):
        small_sae(auxk_scaling=scaling, normalize_activations="layer_norm")
