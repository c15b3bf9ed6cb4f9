"""Log-probabilities of names: a plain loop, strength 0, and a planted direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_recipes.steering.facts.scores import Asked, NameReader, encode_names
from eval_recipes.steering.generate.language_model import backend_for
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.select.latents import random_directions
from saereg_plugin.errors import InputError
from tests.eval_recipes.steering.test_steering import (
    FIRST,
    VOCABULARY,
    WIDTH,
    gpt2,
    gpt_neox,
    hooked,
    llama,
    tokenizer,
)
from tests.oracles.facts_oracle import name_log_probability

HOOK = "blocks.0.hook_resid_post"
PROMPTS = [
    Prompt("long", (1, 7, 9, 4, 22)),
    Prompt("short", (1, 5)),
    Prompt("one", (8, 3, 4)),
]
HOLDERS = [
    Asked(prompt, name) for prompt, name in zip(PROMPTS, [(3, 4, 5), (9,), (2, 2)])
]
LATERS = [
    Asked(prompt, name) for prompt, name in zip(PROMPTS, [(6,), (10, 11, 12, 13), (7,)])
]


@pytest.fixture(autouse=True)
def own_random_numbers() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("positions", ["generation", "prompt_end", "all"])
@pytest.mark.parametrize("make", [llama, gpt_neox, gpt2, hooked])
def test_scores_are_those_of_a_plain_loop(make: Any, positions: Any) -> None:
    model = make()
    added = 5.0 * random_directions(1, WIDTH, seed=1)[0]
    for batch_size in (2, 64):
        reader = NameReader(
            backend_for(model),
            HOOK,
            HOLDERS,
            LATERS,
            positions=positions,
            batch_size=batch_size,
        )
        for push in (None, added):
            found = reader.read(push)
            for asked, scores in ((HOLDERS, found.holder), (LATERS, found.later)):
                expected = []
                for one in asked:
                    place = FIRST[positions]
                    n = len(one.prompt.tokens)
                    first = 0 if place is None else n + place
                    vector = torch.zeros(WIDTH) if push is None else push
                    expected.append(
                        name_log_probability(
                            model, HOOK, one.prompt.tokens, one.name, vector, first
                        )
                    )
                np.testing.assert_allclose(scores, expected, rtol=0, atol=2e-4)
            np.testing.assert_array_equal(found.difference, found.later - found.holder)


@pytest.mark.parametrize("positions", ["generation", "prompt_end", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_changes_no_bit(dtype: torch.dtype, positions: Any) -> None:
    reader = NameReader(
        backend_for(llama(dtype)), HOOK, HOLDERS, LATERS, positions=positions
    )
    before = reader.read()
    reader.read(9.0 * random_directions(1, WIDTH, seed=1)[0])
    for push in (torch.zeros(WIDTH), 0.0 * random_directions(1, WIDTH, seed=2)[0]):
        after = reader.read(push)
        np.testing.assert_array_equal(after.holder, before.holder)
        np.testing.assert_array_equal(after.later, before.later)


def test_the_unembedding_difference_at_the_last_layer_moves_the_names() -> None:
    model = llama()
    rows = model.lm_head.weight.detach()
    holders = [Asked(prompt, (20,)) for prompt in PROMPTS]
    laters = [Asked(prompt, (30,)) for prompt in PROMPTS]
    last = "blocks.1.hook_resid_post"
    planted = rows[30] - rows[20]
    reader = NameReader(backend_for(model), last, holders, laters)
    before = reader.read().difference
    nearer = reader.read(planted).difference - before
    further = reader.read(-planted).difference - before
    assert (nearer > 0).all() and (further < 0).all()
    # an exact copy of the direction, so much of it that nothing else is left
    much = reader.read(1e4 * planted).difference
    scale = model.config.hidden_size**0.5 / float(planted.norm())
    np.testing.assert_allclose(much, scale * float(planted @ planted), rtol=1e-2)
    # the first token is chosen before anything is added
    late = NameReader(backend_for(model), last, holders, laters, positions="generation")
    np.testing.assert_array_equal(late.read(planted).difference, before)


def test_the_mean_over_tokens_divides_by_their_number() -> None:
    model = backend_for(llama())
    total = NameReader(model, HOOK, HOLDERS, LATERS).read()
    mean = NameReader(model, HOOK, HOLDERS, LATERS, score="token_mean").read()
    np.testing.assert_array_equal(mean.holder, total.holder / [3, 1, 2])
    np.testing.assert_array_equal(mean.later, total.later / [1, 4, 1])


tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5)


@settings(max_examples=20, deadline=None)
@given(
    facts=st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=5),
    batch_size=st.integers(1, 7),
)
def test_a_score_does_not_depend_on_the_other_facts(
    facts: list[Any], batch_size: int
) -> None:
    torch.manual_seed(0)
    backend = backend_for(llama())
    added = 3.0 * random_directions(1, WIDTH, seed=1)[0]
    asked = [
        [Asked(Prompt("", tuple(fact[0])), tuple(fact[side])) for fact in facts]
        for side in (1, 2)
    ]
    together = NameReader(backend, HOOK, *asked, batch_size=batch_size).read(added)
    for place, pair in enumerate(zip(*asked, strict=True)):
        alone = NameReader(backend, HOOK, *([one] for one in pair)).read(added)
        assert together.holder[place] == pytest.approx(alone.holder[0], abs=1e-4)
        assert together.later[place] == pytest.approx(alone.later[0], abs=1e-4)


def test_names_are_tokenised_after_their_question() -> None:
    found = encode_names(
        tokenizer(), ["w1 w2", "w3"], ["w4 w5", "w6"], prepend_bos=True
    )
    assert [one.prompt.tokens for one in found] == [(60, 1, 2), (60, 3)]
    assert [one.name for one in found] == [(4, 5), (6,)]


class Merging:
    """A tokenizer that gives the last word of a text another token."""

    bos_token_id, eos_token_id = None, 0

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        n = len(text.split())
        return {"input_ids": [*range(1, n), 50 + n]}


def test_a_question_whose_tokens_change_is_refused() -> None:
    with pytest.raises(InputError, match="The tokens of 'w1 w2' change in 'w1 w2 w4'"):
        encode_names(Merging(), ["w1 w2"], ["w4"], prepend_bos=False)


def test_a_model_driven_out_of_its_range_is_refused() -> None:
    reader = NameReader(backend_for(llama()), HOOK, HOLDERS, LATERS)
    with pytest.raises(InputError, match="no numbers"):
        reader.read(torch.full((WIDTH,), float("inf")))
