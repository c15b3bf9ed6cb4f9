"""Steered texts: hooks, batches, random numbers and decoding, on small random models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from eval_recipes.steering.generate.decoding import (
    Continuation,
    Decoding,
    Request,
    Steering,
    greedy,
    sample,
    uniforms,
)
from eval_recipes.steering.generate.generate import generate
from eval_recipes.steering.generate.language_model import backend_for
from eval_recipes.steering.generate.prompts import Prompt, encode_prompts
from eval_recipes.steering.select.latents import random_directions
from saereg_plugin.errors import InputError
from tests.oracles.steering_oracle import sampled, step_logits

VOCABULARY = 60
WIDTH = 32
PROMPTS = [
    Prompt("long", (1, 7, 9, 4, 22)),
    Prompt("short", (1, 5)),
    Prompt("one", (8,)),
]
FIRST = {"generation": 0, "prompt_end": -1, "all": None}


@pytest.fixture(autouse=True)
def own_random_numbers() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def llama(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 48}
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        **sizes,
    )
    return LlamaForCausalLM(config).to(dtype).eval()  # pyright: ignore[reportArgumentType]


def gpt_neox() -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
    )
    return GPTNeoXForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=WIDTH,
        n_layer=2,
        n_head=4,
        n_positions=64,
        initializer_range=0.3,
    )
    return GPT2LMHeadModel(config).eval()


def hooked(
    positions: Literal["rotary", "standard"] = "rotary", *, parallel: bool = False
) -> HookedTransformer:
    config = HookedTransformerConfig(
        n_layers=2,
        d_model=WIDTH,
        n_ctx=64,
        d_head=8,
        n_heads=4,
        d_mlp=48,
        d_vocab=VOCABULARY,
        act_fn="gelu",
        positional_embedding_type=positions,
        rotary_dim=8 if positions == "rotary" else None,
        parallel_attn_mlp=parallel,
        initializer_range=0.3,
        seed=0,
    )
    return HookedTransformer(config).eval()


def tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(VOCABULARY)}
    words |= {"<s>": VOCABULARY, "</s>": VOCABULARY + 1}
    made = Tokenizer(models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    special = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", unk_token="w0", **special
    )


def steering(hook: str, positions: Any = "generation", n: int = 4) -> Steering:
    vectors = random_directions(n, WIDTH, seed=3)
    return Steering(hook_name=hook, vectors=vectors, positions=positions)


REQUESTS = [
    Request(0, 0, 0, 6.0),
    Request(1, 0, 1, -6.0),
    Request(2, 1, 2, 4.0),
    Request(1, 1),
    Request(0, 2, 3, 0.5),
]


@pytest.mark.parametrize("positions", ["generation", "prompt_end", "all"])
@pytest.mark.parametrize(
    ("make", "hook"),
    [
        (llama, "blocks.0.hook_resid_post"),
        (llama, "blocks.1.hook_resid_pre"),
        (gpt_neox, "blocks.0.hook_resid_post"),
        (gpt2, "blocks.0.hook_resid_pre"),
        (hooked, "blocks.0.hook_resid_mid"),
        (lambda: hooked("standard"), "blocks.1.hook_resid_pre"),
        (lambda: hooked(parallel=True), "blocks.0.hook_resid_post"),
    ],
)
def test_logits_are_those_of_a_plain_loop(
    make: Callable[[], Any], hook: str, positions: str
) -> None:
    model, steer = make(), steering(hook, positions)
    batches: dict[int, Tensor] = {}
    texts = generate(
        backend_for(model),
        tokenizer(),
        PROMPTS,
        REQUESTS,
        steering=steer,
        decoding=Decoding(new_tokens=5),
        batch_size=3,
        observe=batches.__setitem__,
    )
    assert sorted(batches) == [0, 3]
    found = torch.cat([batches[0], batches[3]], dim=1)
    for row, request in enumerate(REQUESTS):
        prompt = PROMPTS[request.prompt].tokens
        added = torch.zeros(WIDTH)
        if request.vector is not None:
            added = request.strength * steer.vectors[request.vector]
        offset = FIRST[positions]
        first = 0 if offset is None else len(prompt) + offset
        expected = step_logits(model, hook, prompt, texts[row].tokens, added, first)
        torch.testing.assert_close(found[:, row], expected, rtol=0, atol=1e-4)
        if request.vector is not None:
            plain = step_logits(
                model, hook, prompt, texts[row].tokens, 0 * added, first
            )
            # the hook does something, from the second step on in every mode
            assert float((plain - expected)[1:].abs().max()) > 1e-3


def same_up_to_ties(left: Continuation, right: Continuation) -> bool:
    """Whether texts are equal, or differ from a counted near tie on."""
    if left.tokens == right.tokens:
        return True
    first = next(
        place
        for place, (a, b) in enumerate(zip(left.tokens, right.tokens, strict=True))
        if a != b
    )
    tie = left.first_near_tie
    return tie is not None and tie <= first


@pytest.mark.parametrize("make", [llama, hooked])
def test_a_text_is_the_same_in_every_batch(make: Callable[[], Any]) -> None:
    backend, steer = backend_for(make()), steering("blocks.0.hook_resid_post")
    requests = [Request(i % 3, i // 3, i % 4, 2.0) for i in range(12)]
    options: dict[str, Any] = {
        "steering": steer,
        "decoding": Decoding(new_tokens=12, seed=5),
    }
    together = generate(backend, tokenizer(), PROMPTS, requests, **options)
    backwards = generate(
        backend, tokenizer(), PROMPTS, requests[::-1], batch_size=5, **options
    )[::-1]
    alone = [
        generate(backend, tokenizer(), PROMPTS, [request], **options)[0]
        for request in requests[:3]
    ]
    for left, right in zip(together + together[:3], backwards + alone, strict=True):
        assert same_up_to_ties(left, right)
    assert (
        sum(a.tokens == b.tokens for a, b in zip(together, backwards, strict=True))
        >= 11
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("greedily", [False, True])
def test_strength_zero_is_no_steering_token_for_token(
    dtype: torch.dtype, greedily: bool
) -> None:
    backend = backend_for(llama(dtype))
    steer = steering("blocks.1.hook_resid_post")
    decoding = Decoding(new_tokens=12, greedy=greedily)
    still = [Request(i % 3, i) for i in range(9)]
    zero = [Request(one.prompt, one.sample, 1, 0.0) for one in still]
    moved = [Request(i % 3, i, 2, 9.0) for i in range(4)]
    plain = generate(
        backend, tokenizer(), PROMPTS, still, decoding=decoding, batch_size=7
    )
    # other neighbours, other places in the batch
    mixed = generate(
        backend,
        tokenizer(),
        PROMPTS,
        moved + zero,
        steering=steer,
        decoding=decoding,
        batch_size=7,
    )
    if dtype == torch.bfloat16:
        assert plain == mixed[4:]
    assert all(map(same_up_to_ties, plain, mixed[4:]))
    assert mixed[:4] != generate(
        backend,
        tokenizer(),
        PROMPTS,
        [Request(i % 3, i) for i in range(4)],
        decoding=decoding,
        batch_size=7,
    )


def test_the_first_token_is_steered_only_from_the_prompts_end_on() -> None:
    backend = backend_for(llama())
    seen: dict[str, Tensor] = {}
    for positions in ("generation", "prompt_end"):
        generate(
            backend,
            tokenizer(),
            PROMPTS,
            [Request(0, 0, 0, 9.0), Request(0)],
            steering=steering("blocks.0.hook_resid_post", positions),
            decoding=Decoding(new_tokens=2),
            observe=lambda _, logits, name=positions: seen.__setitem__(name, logits),
        )
    assert torch.equal(seen["generation"][0, 0], seen["generation"][0, 1])
    assert not torch.allclose(seen["prompt_end"][0, 0], seen["prompt_end"][0, 1])


def test_random_numbers_belong_to_seed_prompt_sample_and_position() -> None:
    base = uniforms(0, "a", 0, 500)
    assert np.array_equal(uniforms(0, "a", 0, 30), base[:30])
    assert base.min() >= 0 and base.max() < 1
    others = [
        uniforms(1, "a", 0, 500),
        uniforms(0, "b", 0, 500),
        uniforms(0, "a", 1, 500),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.2
    # seed 1, sample 11 is not seed 11, sample 1
    assert not np.array_equal(uniforms(1, "a", 11, 9), uniforms(11, "a", 1, 9))
    assert (
        abs(np.mean([uniforms(0, "p", i, 100).mean() for i in range(100)]) - 0.5) < 0.02
    )


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([0.0, 0.1, 1.0, 5.0]),
    temperature=st.sampled_from([0.3, 0.7, 1.5]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_samples_are_those_of_a_sorted_list(
    seed: int, scale: float, temperature: float, top_p: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, 50, generator=generator)
    logits = (logits * 4).round() / 4 if seed % 2 else logits
    u = torch.rand(3, generator=generator, dtype=torch.float64)
    tokens, near = sample(logits, u, temperature=temperature, top_p=top_p)
    for row in range(3):
        expected = sampled(logits[row].tolist(), float(u[row]), temperature, top_p)
        assert int(tokens[row]) == expected or bool(near[row])


@pytest.mark.parametrize("scale", [0.0, 0.5])
@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_samples_from_a_flat_distribution(scale: float, top_p: float) -> None:
    # most of 20,000 tokens have a probability below 1e-4
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(1, 20_000, generator=generator)
    u = torch.tensor([0.4321], dtype=torch.float64)
    tokens, _ = sample(logits, u, temperature=1.0, top_p=top_p)
    expected = sampled(logits[0].tolist(), 0.4321, 1.0, top_p)
    # so many boundaries are nearer to each other than rounding is small
    assert abs(int(tokens[0]) - expected) <= 1


def test_samples_have_the_nucleus_probabilities() -> None:
    p = torch.tensor([0.05, 0.5, 0.15, 0.3])
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    tokens, near = sample(p.log().expand(2000, 4), u, temperature=1.0, top_p=0.9)
    shares = torch.bincount(tokens, minlength=4) / 2000
    kept = torch.tensor([0.0, 0.5, 0.15, 0.3]) / 0.95
    torch.testing.assert_close(shares, kept, rtol=0, atol=1e-3)
    # two inner boundaries, 2e-4 wide each
    assert int(near.sum()) <= 2


def test_near_ties_are_counted_where_rounding_decides() -> None:
    p = torch.tensor([[0.6, 0.4]])
    for u, tie in [
        (0.6 - 5e-5, True),
        (0.6 + 5e-5, True),
        (0.59, False),
        (1e-9, False),
    ]:
        _, near = sample(
            p.log(), torch.tensor([u], dtype=torch.float64), temperature=1.0, top_p=1.0
        )
        assert bool(near) is tie
    # the nucleus ends at .9 exactly: whether .1 is in it, rounding decides
    edge = torch.tensor([[0.5, 0.1, 0.4]]).log()
    for u, tie in [(0.6, True), (0.2, False)]:
        found = sample(
            edge, torch.tensor([u], dtype=torch.float64), temperature=1.0, top_p=0.9
        )
        assert bool(found[1]) is tie


def test_greedy_takes_the_smallest_of_equal_ids_and_counts_the_tie() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 3.0 - 5e-5], [3.0, 1.0, 2.9]])
    tokens, near = greedy(logits)
    assert tokens.tolist() == [1, 0, 0]
    assert near.tolist() == [True, True, False]


def test_a_text_ends_before_eos_only_if_asked() -> None:
    backend = backend_for(llama())
    names = tokenizer()
    whole = generate(
        backend, names, PROMPTS, [Request(0)], decoding=Decoding(new_tokens=9)
    )
    ending = whole[0].tokens[4]
    names.eos_token = f"w{ending}"
    full, short = (
        generate(
            backend,
            names,
            PROMPTS,
            [Request(0)],
            decoding=Decoding(new_tokens=9, stop_at_eos=stop),
        )[0]
        for stop in (False, True)
    )
    assert full.tokens == whole[0].tokens
    assert short.tokens == full.tokens[: full.tokens.index(ending)]


def test_prompts_begin_as_the_sae_was_trained() -> None:
    assert encode_prompts(tokenizer(), ["w3 w4"], prepend_bos=True)[0].tokens == (
        60,
        3,
        4,
    )
    assert encode_prompts(tokenizer(), ["w3"], prepend_bos=False)[0].tokens == (3,)
    # without BOS its EOS, as TransformerLens does
    assert encode_prompts(tokenizer(bos=False), ["w3"], prepend_bos=True)[0].tokens == (
        61,
        3,
    )
    with pytest.raises(InputError, match="has no tokens"):
        encode_prompts(tokenizer(), [""], prepend_bos=False)


@pytest.mark.parametrize(
    ("make", "hook", "message"),
    [
        (llama, "blocks.0.hook_resid_mid", "plain LlamaForCausalLM: no module begins"),
        (llama, "blocks.0.attn.hook_z", "expected one in the residual stream"),
        (llama, "blocks.2.hook_resid_post", "expected one below 2"),
        (lambda: hooked(parallel=True), "blocks.0.hook_resid_mid", "run in parallel"),
    ],
)
def test_a_hook_that_cannot_be_steered_is_refused(
    make: Callable[[], Any], hook: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        generate(
            backend_for(make()),
            tokenizer(),
            PROMPTS,
            [Request(0, 0, 0, 1.0)],
            steering=steering(hook),
        )


def test_what_does_not_fit_is_refused_before_any_work() -> None:
    backend, names = backend_for(llama()), tokenizer()
    steer = steering("blocks.0.hook_resid_post")
    wide = Steering(hook_name=steer.hook_name, vectors=torch.ones(1, WIDTH + 1))
    cases: list[tuple[Request, Steering | None, str]] = [
        (Request(3), None, "names prompt 3"),
        (Request(0, 0, 0, 1.0), None, "no steering was given"),
        (Request(0, 0, 4, 1.0), steer, "names vector 4"),
        (Request(0, 0, 0, float("nan")), steer, "strength of vector 0 is nan"),
        (Request(0, 0, 0, 1.0), wide, "have 33 entries; expected 32"),
    ]
    for request, given_steering, message in cases:
        with pytest.raises(InputError, match=message):
            generate(backend, names, PROMPTS, [request], steering=given_steering)
    with pytest.raises(InputError, match="Cannot find the layers of a OPTForCausalLM"):
        backend_for(
            OPTForCausalLM(
                OPTConfig(
                    vocab_size=8,
                    hidden_size=8,
                    num_hidden_layers=1,
                    ffn_dim=8,
                    num_attention_heads=1,
                    max_position_embeddings=8,
                    word_embed_proj_dim=8,
                )
            )
        )
    with pytest.raises(InputError, match="top_p=0; expected above 0"):
        Decoding(top_p=0)
    with pytest.raises(InputError, match="Unknown positions 'everywhere'"):
        steering("blocks.0.hook_resid_post", "everywhere")
