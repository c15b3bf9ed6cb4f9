"""Sparse encodings of saved TopK SAEs against SAELens' own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

from saereg_plugin.errors import InputError
from saereg_plugin.kernels import TopKEncoder, encode_top_k
from saereg_plugin.kernels.inference import can_encode_top_k
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
    product(
        ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in"),
        (True, False),
        (True, False),
        ("float32", "float64"),
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


def test_leading_dimensions_stay() -> None:
    sae = topk_sae()
    x = rows(3, 5)
    found = encode_top_k(sae, x)
    assert found.shape == (3, 5, D_SAE)
    torch.testing.assert_close(found.to_dense(), sae.encode(x))
    torch.testing.assert_close(sae.decode(found), sae.decode(sae.encode(x)))


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
    encoder = TopKEncoder(sae)
    for _ in range(2):
        found = encoder(x).to_dense()
        assert torch.equal(found != 0, sae.encode(x) != 0)
        torch.testing.assert_close(found, sae.encode(x), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_encoded_is_refused() -> None:
    standard = StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE))
    half = topk_sae(dtype="bfloat16")
    hooked = topk_sae()
    hooked.hook_sae_acts_pre.add_hook(lambda tensor, hook: tensor)  # noqa: ARG005
    for sae in (standard, half, hooked):
        assert not can_encode_top_k(sae)
        with pytest.raises(InputError, match="Call its encode"):
            encode_top_k(sae, rows(2))
