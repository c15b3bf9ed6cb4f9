"""Edits of any module: against plain loops, at strength 0, and what stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import (
    SAE,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TopKSAE,
    TopKSAEConfig,
)
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from saereg_plugin.activations.edits.changes import (
    AddDirection,
    AddLatents,
    Edit,
    ScaleLatents,
    zero_latents,
)
from saereg_plugin.activations.edits.context import edit, edited
from saereg_plugin.activations.edits.magnitudes import (
    mean_difference,
    typical_magnitudes,
)
from saereg_plugin.errors import InputError

D_IN, D_SAE = 6, 10
LATENTS = [1, 4, 7]


def topk(**options: Any) -> TopKSAE:
    return TopKSAE(TopKSAEConfig(d_in=D_IN, d_sae=D_SAE, k=5, **options))


def standard(**options: Any) -> StandardSAE:
    return StandardSAE(StandardSAEConfig(d_in=D_IN, d_sae=D_SAE, **options))


KINDS: dict[str, Callable[[], SAE[Any]]] = {
    "topk": topk,
    "topk, by decoder norm": lambda: topk(rescale_acts_by_decoder_norm=True),
    "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(d_in=D_IN, d_sae=D_SAE)),
    "layer norm": lambda: standard(normalize_activations="layer_norm"),
    "rescaled": lambda: standard(normalize_activations="constant_norm_rescale"),
}


def random_sae(kind: str = "topk") -> SAE[Any]:
    """An SAE with decoder rows of several norms and biases that are not 0."""
    sae = KINDS[kind]()
    generator = torch.Generator().manual_seed(3)
    for parameter in sae.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.7
    return sae


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, D_IN, generator=torch.Generator().manual_seed(seed))


def edits_of(sae: SAE[Any], strength: float) -> list[Edit]:
    typical = torch.linspace(0.5, 2.0, D_SAE)
    return [
        AddDirection(rows(seed=9), strength),
        AddLatents(sae, LATENTS, typical, strength),
        ScaleLatents(sae, LATENTS, strength),
    ]


class Returns(nn.Module):
    """A model whose part returns its input, wrapped."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.part = nn.Identity()
        self.part.forward = wrap  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Any:
        return self.part(x)


def loop(sae: SAE[Any], x: Tensor, new_code: Callable[[int, float], float]) -> Tensor:
    """x + decode(z') - decode(z), by SAELens' own decoder, a row and a latent at a time."""
    found = x.clone()
    for n in range(x.shape[0]):
        for t in range(x.shape[1]):
            row = x[n, t][None]
            before = sae.encode(row)
            plain = sae.decode(before)
            after = sae.encode(row).clone()
            for latent in LATENTS:
                after[0, latent] = new_code(latent, float(after[0, latent]))
            found[n, t] = (row + sae.decode(after) - plain)[0]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_edits_are_those_of_a_plain_loop_over_saelens_decoder(kind: str) -> None:
    sae, x = random_sae(kind), rows(2, 4)
    typical = torch.linspace(0.5, 2.0, D_SAE)
    with torch.no_grad():
        expected = loop(sae, x, lambda j, z: z - 1.5 * float(typical[j]))
        added = edited(x, AddLatents(sae, LATENTS, typical, -1.5))
        torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-5)
        expected = loop(sae, x, lambda _, z: z * 3)
        torch.testing.assert_close(
            edited(x, ScaleLatents(sae, LATENTS, 2.0)), expected, rtol=1e-4, atol=1e-5
        )
        expected = loop(sae, x, lambda _j, _z: 0.0)
        torch.testing.assert_close(
            edited(x, zero_latents(sae, LATENTS)), expected, rtol=1e-4, atol=1e-5
        )
    assert not torch.equal(expected, x)
    # SAELens keeps each row's scale between encoder and decoder; none is left behind
    assert not {"ln_mu", "ln_std", "x_norm_coeff"} & set(vars(sae))


def test_latents_have_a_strength_each() -> None:
    sae, x = random_sae(), rows(2, 3)
    typical = torch.linspace(0.5, 2.0, D_SAE)
    together = edited(x, AddLatents(sae, LATENTS, typical, [1.0, -2.0, 0.0]))
    apart = edited(x, AddLatents(sae, [1], typical, 1.0))
    apart = edited(apart, AddLatents(sae, [4], typical, -2.0))
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_strength_0_returns_the_very_output(kind: int, dtype: torch.dtype) -> None:
    x = rows(2, 3).to(dtype)
    x[0, 0, 0], x[0, 0, 1] = float("nan"), -0.0
    model = Returns(lambda value: value)
    with edit(model, "part", edits_of(random_sae(), 0.0)[kind]):
        assert model(x) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_edit_keeps_the_data_type(dtype: torch.dtype) -> None:
    x = rows(2, 3).to(dtype)
    for change in edits_of(random_sae(), 1.0):
        found = edited(x, change)
        assert found.dtype == dtype
        expected = edited(x.float(), change)
        torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@settings(deadline=None, max_examples=30)
@given(first=st.floats(-4, 4), second=st.floats(-4, 4), kind=st.sampled_from([0, 1]))
def test_strengths_of_additive_edits_add_up(
    first: float, second: float, kind: int
) -> None:
    sae, x = random_sae(), rows(2, 3)
    twice = edited(edited(x, edits_of(sae, first)[kind]), edits_of(sae, second)[kind])
    once = edited(x, edits_of(sae, first + second)[kind])
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    data=st.data(),
    shape=st.sampled_from([(1, 5), (3, 4), (2, 1)]),
    kind=st.sampled_from([0, 1, 2]),
)
def test_rows_that_are_not_chosen_stay_bit_for_bit(
    data: st.DataObject, shape: tuple[int, int], kind: int
) -> None:
    n, t = shape
    flags = st.lists(st.booleans(), min_size=n * t, max_size=n * t)
    mask = torch.tensor(data.draw(flags)).reshape(shape)
    x, change = rows(*shape), edits_of(random_sae(), 1.0)[kind]
    found, every = edited(x, change, positions=mask), edited(x, change)
    assert torch.equal(found[~mask], x[~mask])
    assert torch.equal(found[mask], every[mask])


def test_positions_count_from_either_end_of_a_call() -> None:
    x, change = rows(2, 4), AddDirection(torch.ones(D_IN))
    for positions in ([1, -1], slice(1, None, 2), torch.tensor([False, True] * 2)):
        moved = (edited(x, change, positions=positions) != x).any(-1)
        assert moved.tolist() == [[False, True, False, True]] * 2


def test_maps_are_edited_place_by_place() -> None:
    sae, x = random_sae(), rows(2, 12)
    change = AddLatents(sae, LATENTS, torch.ones(D_SAE), 2.0)
    expected = edited(x, change, positions=[5])
    places = x.reshape(2, 3, 4, D_IN)
    found = edited(places.permute(0, 3, 1, 2), change, positions=[5])
    assert torch.equal(found.permute(0, 2, 3, 1).reshape(2, 12, D_IN), expected)
    assert torch.equal(
        edited(places, change, positions=[5]), expected.view(2, 3, 4, -1)
    )
    assert torch.equal(edited(x[:, 5], change), expected[:, 5])


class Pair(NamedTuple):
    states: Tensor
    extra: str


def test_the_first_tensor_of_any_output_is_edited() -> None:
    x = rows(2, 3)
    change = AddDirection(torch.ones(D_IN))
    wraps: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = [
        (lambda v: (v, "extra"), lambda out: out[0]),
        (lambda v: [None, v], lambda out: out[1]),
        (lambda v: (None, v, v), lambda out: out[1]),
        (lambda v: Pair(v, "extra"), lambda out: out.states),
        (lambda v: {"states": v, "extra": 1}, lambda out: out["states"]),
        (
            lambda v: BaseModelOutput(last_hidden_state=v),
            lambda out: out.last_hidden_state,
        ),
        (lambda v: BaseModelOutput(last_hidden_state=v), lambda out: out[0]),
    ]
    for wrap, read in wraps:
        model = Returns(wrap)
        plain = model(x)
        with edit(model, "part", change):
            found = model(x)
        assert type(found) is type(plain) and len(found) == len(plain)
        assert torch.equal(read(found), x + 1)
        assert torch.equal(read(plain), x)


def test_the_hook_goes_after_an_error() -> None:
    model = nn.Sequential(nn.Identity())
    x = rows(2, 3)
    with pytest.raises(KeyError), edit(model, "0", AddDirection(torch.ones(D_IN))):
        assert not torch.equal(model(x), x)
        raise KeyError
    assert model(x) is x
    # an error inside the module's call, too
    narrow = AddDirection(torch.ones(5))
    with pytest.raises(InputError, match="width 5"), edit(model, "0", narrow):
        model(x)
    assert model(x) is x and not model[0]._forward_hooks


def test_edits_of_one_module_stack() -> None:
    model, x = nn.Sequential(nn.Identity()), rows(2, 3)
    one = AddDirection(torch.ones(D_IN))
    with edit(model, "0", one), edit(model, "0", one):
        assert torch.equal(model(x), x + 1 + 1)


def test_generation_calls_are_told_apart() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=D_IN * 2, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, pad_token_id=0, eos_token_id=None, bos_token_id=1,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval()
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    lengths: list[int] = []

    class Counted(AddDirection):
        def shift(self, x: Tensor) -> Tensor:
            lengths.append(x.shape[1])
            return super().shift(x)

    change = Counted(torch.full((D_IN * 2,), 3.0))
    settings_ = {"max_new_tokens": 4, "do_sample": False}
    seen: dict[str, list[int]] = {}
    texts: dict[str, Tensor] = {"none": model.generate(tokens, **settings_)}
    for calls in ("all", "prompt", "steps"):
        lengths.clear()
        with edit(model, "model.layers.0", change, calls=calls):
            texts[calls] = model.generate(tokens, **settings_)
        seen[calls] = list(lengths)
    assert seen == {"all": [3, 1, 1, 1], "prompt": [3], "steps": [1, 1, 1]}
    assert torch.equal(model.generate(tokens, **settings_), texts["none"])
    assert not torch.equal(texts["all"], texts["none"])


def test_vision_and_audio_models_are_edited_alike() -> None:
    torch.manual_seed(0)
    dino = Dinov2Model(
        Dinov2Config(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            patch_size=14,
            mlp_ratio=1,
        )  # fmt: skip
    ).eval()
    pixels = torch.randn(2, 3, 28, 28)
    change = AddDirection(torch.ones(12))
    with torch.no_grad():
        plain = dino(pixels, output_hidden_states=True)
        with edit(dino, "encoder.layer.1", change, positions=[0]):
            found = dino(pixels, output_hidden_states=True)
        states = plain.hidden_states[-1].clone()
        states[:, 0] += 1
        assert torch.equal(found.last_hidden_state, dino.layernorm(states))
        whisper = tiny_whisper()
        audio = torch.randn(2, 8, 20)
        with edit(whisper, "model.encoder", change):
            moved = whisper.get_encoder()(audio).last_hidden_state
        assert torch.equal(moved, whisper.get_encoder()(audio).last_hidden_state + 1)


def tiny_whisper() -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=30,
            num_mel_bins=8,
            d_model=12,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=8,
            decoder_ffn_dim=8,
            max_source_positions=10,
            max_target_positions=10,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )  # fmt: skip
    ).eval()


def test_a_hand_written_layer_norm_agrees() -> None:
    sae = random_sae("layer norm")
    x = rows(2, 3)
    typical = torch.ones(D_SAE)
    with torch.no_grad():
        found = edited(x, AddLatents(sae, [2], typical, 1.0))
        centred = x - x.mean(-1, keepdim=True)
        expected = x + centred.std(-1, keepdim=True) * sae.W_dec[2]
    torch.testing.assert_close(found, expected)


def test_typical_magnitudes_are_means_over_rows_that_fire() -> None:
    sae = random_sae()
    batches = [rows(7, seed=1), rows(5, seed=2)]
    codes = sae.encode(torch.cat(batches)).detach()
    codes_by_latent = [column[column != 0] for column in codes.T]
    expected = [float(c.mean()) if len(c) else 0.0 for c in codes_by_latent]
    found = typical_magnitudes(sae, iter(batches))
    torch.testing.assert_close(found, torch.tensor(expected))
    assert float(typical_magnitudes(sae, [])[0]) == 0


def test_mean_difference_is_that_of_all_rows() -> None:
    first, second = [rows(3, seed=1), rows(1, seed=2)], [rows(4, seed=3)]
    expected = torch.cat(first).mean(0) - second[0].mean(0)
    torch.testing.assert_close(mean_difference(first, second), expected)
    with pytest.raises(InputError, match="no rows"):
        mean_difference(first, [])


def unfolded() -> Any:
    sae = topk()
    sae.cfg.normalize_activations = "expected_average_only_in"
    return sae


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ScaleLatents(random_sae(), [10], 1.0), "ids below 10"),
        (lambda: ScaleLatents(random_sae(), [], 1.0), "one or more"),
        (lambda: ScaleLatents(random_sae(), [1], float("nan")), "strength is nan"),
        (lambda: ScaleLatents(unfolded(), [1], 1.0), "not folded"),
        (lambda: AddLatents(random_sae(), [1], torch.ones(3)), r"expected .* \(10,\)"),
        (lambda: AddLatents(random_sae(), [1], torch.zeros(10)), r"Latents \[1\] fire in no"),
        (lambda: AddLatents(random_sae(), [1], torch.ones(10), [1.0, 2.0]), "2 strengths"),
        (lambda: AddDirection(torch.ones(2, 2)), r"shape \(2, 2\)"),
        (lambda: edited(rows(1, 3), AddDirection(torch.ones(6)), positions=[3]), "3 rows"),
        (
            lambda: edited(
                rows(1, 3), AddDirection(torch.ones(6)), positions=torch.ones(2, dtype=torch.bool)
            ),
            "The mask has shape",
        ),
        (lambda: edit(nn.Sequential(), "1", AddDirection(torch.ones(2))).__enter__(), "no module"),
        (
            lambda: edit(
                nn.Sequential(), "", AddDirection(torch.ones(2)), calls="new"  # type: ignore[arg-type]
            ).__enter__(),
            "calls is 'new'",
        ),
    ],
)  # fmt: skip
def test_unusable_edits_are_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()
