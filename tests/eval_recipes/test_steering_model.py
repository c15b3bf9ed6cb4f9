"""Steering the embedded model: against a plain loop, and with a planted latent."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, PreTrainedModel

from eval_recipes.speed.config import SpeedConfig
from eval_recipes.speed.steering import ONE_BY_ONE, Work, per_token, steering_rows
from eval_recipes.speed.timing import Timing
from eval_recipes.steering.backend import Backend, backend_for
from eval_recipes.steering.decoding import Continuation, Decoding, Request, Steering
from eval_recipes.steering.fluency import fluency
from eval_recipes.steering.generation import generate
from eval_recipes.steering.judges.embedding import EmbeddingJudge
from eval_recipes.steering.judges.log_probability import LogProbabilityJudge
from eval_recipes.steering.judges.protocol import Pair
from eval_recipes.steering.judges.sentences import SentenceModel
from eval_recipes.steering.latents import random_directions
from eval_recipes.steering.prompts import PUBLISHED_PROMPTS, Prompt, encode_prompts
from eval_recipes.steering.strengths import last_token_norms
from tests.oracles.steering_oracle import step_logits

HOOK = "blocks.20.hook_resid_post"
WORD = "music"
NEW_TOKENS = 8
N_SAMPLES = 3


@pytest.fixture(scope="module")
def plain(model_folder: Path) -> PreTrainedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module")
def prompts(model: HookedTransformer) -> list[Prompt]:
    return encode_prompts(model.tokenizer, PUBLISHED_PROMPTS, prepend_bos=True)


@pytest.fixture(scope="module")
def backend(plain: PreTrainedModel) -> Backend:
    return backend_for(plain)


def test_both_kinds_of_model_give_the_logits_of_a_plain_loop(
    model: HookedTransformer, plain: PreTrainedModel, prompts: list[Prompt]
) -> None:
    steer = Steering(hook_name=HOOK, vectors=random_directions(1, 576, seed=0))
    for one in (model, plain):
        kept: list[torch.Tensor] = []
        texts = generate(
            backend_for(one),
            model.tokenizer,
            prompts[:2],
            [Request(0), Request(1, 0, 0, 40.0)],
            steering=steer,
            decoding=Decoding(new_tokens=2),
            observe=lambda _, logits, kept=kept: kept.append(logits),
        )
        tokens = prompts[1].tokens
        expected = step_logits(
            one, HOOK, tokens, texts[1].tokens, 40 * steer.vectors[0], len(tokens)
        )
        torch.testing.assert_close(kept[0][:, 1], expected, rtol=0, atol=1e-4)


def test_bfloat16_texts_do_not_depend_on_their_batch(
    model_folder: Path, model: HookedTransformer, prompts: list[Prompt]
) -> None:
    half: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.bfloat16)
    steer = Steering(hook_name=HOOK, vectors=random_directions(2, 576, seed=0))
    still = [Request(i % 3, i) for i in range(3)]
    mixed = [
        Request(0, 9, 1, 50.0),
        *(Request(r.prompt, r.sample, 0, 0.0) for r in still),
    ]
    first, second = (
        generate(
            backend_for(half.eval()),
            model.tokenizer,
            prompts,
            requests,
            steering=steer,
            decoding=Decoding(new_tokens=4),
            batch_size=5,
        )
        for requests in (still, mixed)
    )
    assert first == second[1:]


@pytest.fixture(scope="module")
def texts(
    model: HookedTransformer, backend: Backend, prompts: list[Prompt]
) -> dict[str, list[Continuation]]:
    """By kind and sample, a text for each prompt: planted, random and unsteered."""
    token = int(model.to_single_token(f" {WORD}"))
    planted = model.W_U[:, token].detach()
    vectors = torch.stack(
        [planted / planted.norm(), random_directions(1, 576, seed=1)[0]]
    )
    strength = 0.8 * float(last_token_norms(backend, prompts, HOOK).mean())
    kinds: dict[str, tuple[int | None, float]] = {
        "planted": (0, strength),
        "random": (1, strength),
        "unsteered": (None, 0.0),
    }
    keys = [
        (f"{kind} {sample}", Request(prompt, sample, *how))
        for kind, how in kinds.items()
        for sample in range(2 * N_SAMPLES if kind == "unsteered" else N_SAMPLES)
        for prompt in range(len(prompts))
    ]
    made = generate(
        backend,
        model.tokenizer,
        prompts,
        [request for _, request in keys],
        steering=Steering(hook_name=HOOK, vectors=vectors, positions="prompt_end"),
        decoding=Decoding(new_tokens=NEW_TOKENS),
    )
    found: dict[str, list[Continuation]] = {}
    for (key, _), text in zip(keys, made, strict=True):
        found.setdefault(key, []).append(text)
    return found


def pairs_of(
    texts: dict[str, list[Continuation]], prompts: list[Prompt], *keys: tuple[str, str]
) -> list[Pair]:
    """Pairs of two keys' texts, prompt by prompt."""
    return [
        Pair(f'the tokens "{WORD}"', prompt, original, changed)
        for before, after in keys
        for prompt, original, changed in zip(
            prompts, texts[before], texts[after], strict=True
        )
    ]


def against_original(kind: str) -> list[tuple[str, str]]:
    return [(f"unsteered {n}", f"{kind} {n}") for n in range(N_SAMPLES)]


@pytest.mark.parametrize("name", ["log_probability", "embedding"])
def test_a_planted_latent_succeeds_and_a_random_one_does_not(
    name: str,
    model: HookedTransformer,
    backend: Backend,
    texts: dict[str, list[Continuation]],
    prompts: list[Prompt],
) -> None:
    judge = (
        LogProbabilityJudge(backend, model.tokenizer)
        if name == "log_probability"
        else EmbeddingJudge(SentenceModel())
    )
    unsteered = [key for key in texts if key.startswith("unsteered")]
    judge.calibrate(
        pairs_of(texts, prompts, *itertools.permutations(unsteered, 2)), rate=0.05
    )
    successes = {
        kind: sum(
            bool(verdict.success)
            for verdict in judge.judge(
                pairs_of(texts, prompts, *against_original(kind))
            )
        )
        for kind in ("planted", "random")
    }
    assert successes["planted"] >= 8  # of 9
    assert successes["random"] <= 2


def test_steering_off_the_models_own_way_costs_fluency(
    backend: Backend, texts: dict[str, list[Continuation]], prompts: list[Prompt]
) -> None:
    pairs = pairs_of(texts, prompts, *against_original("planted"))
    costs = [one.loss for one in fluency(backend, pairs)]
    assert sum(costs) / len(costs) > 0.5


@pytest.mark.slow
def test_speed_is_measured_with_all_implementations() -> None:
    rows = list(
        steering_rows(SpeedConfig(repeats=3), batched=Work(6, 2), one_by_one=Work(1, 2))
    )
    names = [row.implementation for row in rows]
    assert names[0].startswith("saereg")
    assert sum("transformers generate" in name for name in names) >= 1
    assert names[-1].startswith("HookedTransformer.generate")
    assert all(row.throughput and row.ratio and row.n == 3 for row in rows)


def test_speed_is_compared_by_the_token() -> None:
    timed = {"ours": Timing((2.0, 4.0, 2.0)), "loop": Timing((1.0, 2.0, 1.0))}
    work = {"ours": Work(texts=10, new_tokens=10), "loop": ONE_BY_ONE}
    ours, loop = per_token(timed, work, seed=0)
    assert (ours.seconds, ours.throughput, ours.ratio) == (0.02, 50, 1)
    assert (loop.seconds, loop.ratio) == (0.05, 2.5)
    assert ours.suite == "steering"
