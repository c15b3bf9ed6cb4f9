"""Sparse encodings of saved TopK SAEs against SAELens' own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

from saereg_plugin.errors import InputError
from saereg_plugin.kernels import TopKEncoder, encode_top_k, inference
from saereg_plugin.kernels.inference import can_encode_top_k
from saereg_plugin.machine import fast_dtype
from tests.kernels.screening_cases import generator

D_IN, D_SAE, K = 96, 1000, 7


def topk_sae(**fields: Any) -> TopKSAE:
    sizes: dict[str, Any] = {"d_in": D_IN, "d_sae": D_SAE, "k": K, **fields}
    sae = TopKSAE(TopKSAEConfig(**sizes))
    source = generator(0)
    for parameter in sae.parameters():
        drawn = torch.randn(parameter.shape, generator=source)
        parameter.data.copy_(drawn / 10)
    return sae


def rows(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, D_IN, generator=generator(1)).to(dtype)


@pytest.mark.parametrize(
    ("norm", "rescale", "centred", "dtype"),
    list(
        product(
            ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in"),
            (True, False),
            (True, False),
            ("float32", "float64"),
        )
    ),
)
def test_encoding_and_decoding_are_saelens_own(
    norm: Any, rescale: bool, centred: bool, dtype: str
) -> None:
    sae = topk_sae(
        normalize_activations=norm,
        rescale_acts_by_decoder_norm=rescale,
        apply_b_dec_to_input=centred,
        dtype=dtype,
    )
    x = rows(40, dtype=sae.dtype)
    expected = sae.encode(x)
    reconstruction = sae.decode(expected)
    found = encode_top_k(sae, x)
    assert found.is_sparse and found.is_coalesced()
    torch.testing.assert_close(sae.decode(found), reconstruction)
    assert torch.equal(found.to_dense() != 0, expected != 0)
    torch.testing.assert_close(found.to_dense(), expected)


@pytest.fixture(params=[False, True], ids=["unscreened", "screened"])
def screened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the selection is screened, whatever the size."""
    monkeypatch.setattr(
        inference,
        "screening_wins",
        lambda *_, **__: request.param,
    )
    return request.param


def assert_is_saelens_own(sae: TopKSAE, x: torch.Tensor) -> None:
    found, expected = encode_top_k(sae, x), sae.encode(x)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert torch.equal(found.to_dense() != 0, expected != 0)
    torch.testing.assert_close(found.to_dense(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        sae.decode(found), sae.decode(expected), rtol=1e-4, atol=1e-5
    )


@pytest.mark.usefixtures("screened")
@pytest.mark.parametrize("shape", [(), (3,), (3, 5), (2, 3, 4), (0,), (2, 0)])
def test_leading_dimensions_stay(shape: tuple[int, ...]) -> None:
    assert_is_saelens_own(topk_sae(), rows(*shape))


@pytest.mark.usefixtures("screened")
def test_heads_are_joined_as_by_saelens() -> None:
    sae = topk_sae(reshape_activations="hook_z")
    sae.turn_on_forward_pass_hook_z_reshaping()
    for leading in ((5,), (2, 5)):
        x = rows(*leading).unflatten(-1, (4, 24))
        assert_is_saelens_own(sae, x)


@pytest.mark.usefixtures("screened")
@pytest.mark.parametrize("k", [1, 125, 126, D_SAE])
def test_any_k_is_taken(k: int) -> None:
    assert_is_saelens_own(topk_sae(k=k), rows(20))
    changed: Any = topk_sae()
    changed.activation_fn.k = k
    assert_is_saelens_own(changed, rows(20))


@pytest.mark.usefixtures("screened")
def test_any_layout_and_type_of_input_and_weights_is_taken() -> None:
    sae = topk_sae()
    sae.W_enc.data = sae.W_enc.data.T.contiguous().T
    before = sae.W_enc.detach().clone()
    for x in (rows(20), rows(20).T.contiguous().T, rows(20).half(), rows(20).double()):
        assert_is_saelens_own(sae, x)
    assert torch.equal(sae.W_enc, before)


def test_encodings_have_no_gradients() -> None:
    x = rows(3).requires_grad_()
    assert not encode_top_k(topk_sae(), x).requires_grad


def test_negative_activations_are_not_among_the_active() -> None:
    sae = topk_sae()
    sae.get_parameter("b_enc").data -= 2.5
    x = rows(40)
    expected = sae.encode(x)
    assert 0 < int((expected != 0).sum()) < 40 * K
    found = encode_top_k(sae, x)
    assert torch.equal(found.to_dense() != 0, expected != 0)
    assert (found.values() > 0).all()


def test_nan_is_seen() -> None:
    sae = topk_sae()
    sae.W_enc.data[0, 5] = torch.nan
    x = rows(4)
    assert torch.equal(encode_top_k(sae, x).to_dense().isnan(), sae.encode(x).isnan())
    assert encode_top_k(sae, x).values().isnan().any()


@pytest.mark.parametrize("d_in", [96, 512])
def test_a_wide_sae_is_screened_where_that_is_faster(d_in: int) -> None:
    sae = topk_sae(d_in=d_in, d_sae=8192)
    x = torch.randn(64, d_in, generator=generator(1))
    encoder, alone = TopKEncoder(sae), TopKEncoder(sae, reused=False)
    for encode in (encoder, encoder, alone):
        found = encode(x).to_dense()
        assert torch.equal(found != 0, sae.encode(x) != 0)
        torch.testing.assert_close(found, sae.encode(x), rtol=1e-4, atol=1e-5)
    # 64 rows do not repay a screen of their own
    assert "_screen" not in vars(alone)
    fast = d_in >= 512 and fast_dtype("cpu") == "bfloat16"
    assert ("_screen" in vars(encoder)) == fast


def test_what_cannot_be_encoded_is_refused() -> None:
    standard = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE))
    half = topk_sae(dtype="bfloat16")
    hooked = topk_sae()
    hooked.hook_sae_acts_pre.add_hook(lambda tensor, hook: tensor)  # noqa: ARG005
    other = topk_sae()
    other.activation_fn = torch.nn.ReLU()
    for sae in (standard, half, hooked, other):
        assert not can_encode_top_k(sae)
        with pytest.raises(InputError, match="Call its encode"):
            encode_top_k(sae, rows(2))


def test_autocast_is_refused() -> None:
    sae = topk_sae()
    encoder = TopKEncoder(sae)
    with torch.autocast("cpu", torch.bfloat16):
        assert not can_encode_top_k(sae)
        for encode in (encoder, encoder.active, lambda x: encode_top_k(sae, x)):
            with pytest.raises(InputError, match="outside autocast"):
                encode(rows(2))
