"""Strengths against their definitions, and what is read from an SAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sae_lens import (
    SAE,
    StandardSAE,
    StandardSAEConfig,
    Transcoder,
    TranscoderConfig,
)
from sae_lens.saes.sae import SAEMetadata

from eval_recipes.steering.generate.language_model import backend_for
from eval_recipes.steering.generate.strengths import (
    StrengthRule,
    last_token_norms,
    strengths,
)
from eval_recipes.steering.select.latents import random_directions, read_latents
from saereg_plugin.errors import InputError
from tests.eval_recipes.steering.test_steering import (
    PROMPTS,
    WIDTH,
    hooked,
    llama,
    tokenizer,
)

HOOK = "blocks.0.hook_resid_post"


def sae(n: int = 6, *, normalize_activations: Any = "none", **facts: Any) -> SAE[Any]:
    config = StandardSAEConfig(
        d_in=WIDTH,
        d_sae=n,
        normalize_activations=normalize_activations,
        metadata=SAEMetadata(**{"hook_name": HOOK, "prepend_bos": True, **facts}),
    )
    made = StandardSAE(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # far from unit norm
        made.W_dec.copy_(3 * torch.randn(n, WIDTH, generator=generator))
        made.W_enc.copy_(
            0.5 * made.W_dec.T + torch.randn(WIDTH, n, generator=generator)
        )
    return made


def test_directions_are_of_unit_norm_whatever_the_decoder() -> None:
    made = sae()
    latents = read_latents(made, [4, 1])
    for row, latent in enumerate((4, 1)):
        expected = made.W_dec[latent] / made.W_dec[latent].norm()
        torch.testing.assert_close(latents.directions[row], expected)
    assert latents.hook_name == HOOK


def test_an_sae_in_another_dtype_is_read_in_float32() -> None:
    latents = read_latents(sae().to(torch.bfloat16), [0, 2])
    assert latents.directions.dtype == latents.slopes.dtype == torch.float32
    torch.testing.assert_close(latents.directions.norm(dim=1), torch.ones(2))


def test_target_preactivation_is_reached() -> None:
    made = sae()
    ids = [0, 3, 5]
    latents = read_latents(made, ids)
    found = strengths(StrengthRule(mode="target_preact", amount=2.5), latents)
    x = torch.randn(WIDTH, generator=torch.Generator().manual_seed(2))
    for row, latent in enumerate(ids):
        unit = made.W_dec[latent] / made.W_dec[latent].norm()
        moved = x + float(found.values[row]) * unit
        before, after = (made.process_sae_in(one) @ made.W_enc for one in (x, moved))
        assert float((after - before)[latent].detach()) == pytest.approx(2.5, abs=1e-4)


def test_a_target_that_cannot_be_reached_is_named_and_has_no_strength() -> None:
    made = sae(5)
    with torch.no_grad():
        unit = made.W_dec / made.W_dec.norm(dim=1, keepdim=True)
        across = torch.randn(WIDTH, generator=torch.Generator().manual_seed(3))
        across -= (across @ unit[1]) * unit[1]
        # 1: no slope to speak of; 2: against its decoder; 3: no encoder at all
        made.W_enc[:, 1] = across + 0.005 * across.norm() * unit[1]
        made.W_enc[:, 2] = -unit[2]
        made.W_enc[:, 3] = 0
    found = strengths(
        StrengthRule(mode="target_preact", amount=1.0), read_latents(made, range(5))
    )
    assert (found.near_zero, found.opposed) == ((1, 3), (2,))
    assert found.values.isnan().tolist() == [False, True, True, True, False]


def test_target_preactivation_needs_an_input_that_is_not_scaled() -> None:
    latents = read_latents(sae(normalize_activations="layer_norm"), [0])
    with pytest.raises(InputError, match="normalize_activations='layer_norm'"):
        strengths(StrengthRule(mode="target_preact"), latents)
    assert strengths(StrengthRule(amount=2), latents).values.tolist() == [2]


@pytest.mark.parametrize("make", [llama, hooked])
def test_residual_rms_is_that_of_the_last_tokens_over_coordinates(
    make: Callable[[], Any],
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    expected = []
    for prompt in PROMPTS:
        text = torch.tensor([prompt.tokens])
        if make is hooked:
            _, cache = model.run_with_cache(text, names_filter=HOOK)
            last = cache[HOOK][0, -1]
        else:
            last = model(text, output_hidden_states=True).hidden_states[1][0, -1]
        expected.append(math.sqrt(float((last.detach() ** 2).mean())))
    latents = read_latents(sae(), [0, 1])
    found = strengths(
        StrengthRule(mode="resid_rms", amount=4),
        latents,
        backend=backend_for(model),
        prompts=PROMPTS,
    )
    mean = sum(expected) / 3
    assert found.values.tolist() == pytest.approx([4 * mean] * 2, rel=1e-5)
    norms = last_token_norms(backend_for(model), PROMPTS, HOOK)
    assert (norms / WIDTH**0.5).tolist() == pytest.approx(expected, rel=1e-5)


def test_fixed_strength_is_alpha() -> None:
    assert strengths(StrengthRule(), read_latents(sae(), [0, 1])).values.tolist() == [
        5,
        5,
    ]


def test_prompts_begin_as_the_metadata_says() -> None:
    names = tokenizer()
    for bos, first in [(True, 60), (False, 3), (None, 60)]:
        latents = read_latents(sae(prepend_bos=bos), [0])
        assert latents.prompts(names, ["w3"])[0].tokens[0] == first


def test_random_directions_are_unit_vectors_of_their_seed() -> None:
    drawn = random_directions(400, 64, seed=0)
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(400))
    assert torch.equal(drawn, random_directions(400, 64, seed=0))
    assert not torch.equal(drawn, random_directions(400, 64, seed=1))
    assert float(drawn.mean(0).norm()) < 0.1


def test_what_cannot_be_steered_with_is_refused() -> None:
    empty = sae()
    with torch.no_grad():
        empty.W_dec[2] = 0
    transcoder = Transcoder(
        TranscoderConfig(
            apply_b_dec_to_input=False,
            d_in=4,
            d_sae=8,
            d_out=4,
            metadata=SAEMetadata(hook_name=HOOK),
        )
    )
    cases: list[tuple[Any, list[int], str]] = [
        (sae(), [6], "ids below 6"),
        (sae(), [], "one or more ids below 6"),
        (empty, [1, 2], r"decoder rows of latents \[2\] are zero"),
        (sae(hook_name=None), [0], "names no hook"),
        (transcoder, [0], "is a transcoder"),
    ]
    for made, ids, message in cases:
        with pytest.raises(InputError, match=message):
            read_latents(made, ids)
    with pytest.raises(InputError, match="Did you mean 'resid_rms'"):
        StrengthRule(mode="resid_rm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="amount is inf"):
        StrengthRule(amount=math.inf)
    with pytest.raises(InputError, match="expected a model and one or more prompts"):
        strengths(StrengthRule(mode="resid_rms"), read_latents(sae(), [0]))
