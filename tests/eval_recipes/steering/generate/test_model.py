"""Steering the embedded model: against a plain loop, and with a planted latent."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import (
    AutoModelForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from eval_recipes.results.files import read_result, result_path
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.speed.measurement import SpeedConfig
from eval_recipes.speed.steering import Work, steering_rows
from eval_recipes.steering.generate.decoding import Decoding, Request, Steering
from eval_recipes.steering.generate.generate import generate
from eval_recipes.steering.generate.language_model import Models, backend_for, kind_of
from eval_recipes.steering.generate.prompts import (
    PUBLISHED_PROMPTS,
    Prompt,
    encode_prompts,
)
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import random_directions
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles.steering_oracle import step_logits

run = Named("steering").run

HOOK = "blocks.20.hook_resid_post"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def model(whole_model: HookedTransformer) -> HookedTransformer:
    return whole_model


@pytest.fixture(scope="module")
def plain(model_folder: Path) -> PreTrainedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module")
def prompts(model: HookedTransformer) -> list[Prompt]:
    return encode_prompts(model.tokenizer, PUBLISHED_PROMPTS, prepend_bos=True)


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


# The design below was fixed before any score was seen: words, strength, numbers of texts. For the
# sake of time it was halved later, once, before any score of the half was seen.
WORDS = ("music", "water", "school", "doctor", "river", "money", "garden", "winter")
PLANTED = range(10, 10 + len(WORDS))
SETTINGS: dict[str, Any] = {
    "latents": list(PLANTED),
    "strength_mode": "norm_ratio",
    "amounts": [0.5],
    "new_tokens": 12,
    # 48 pairs an arm; as many random directions as latents and repeats: 16
    "samples_per_prompt": 2,
    "calibration_pairs": 80,
    "judges": ["embedding", "log_probability"],
}


@pytest.fixture(scope="module")
def planted(
    model: HookedTransformer, model_name: str, tmp_path_factory: pytest.TempPathFactory
) -> RunContext:
    """The whole recipe on an SAE with latents that write a word's unembedding."""
    folder = tmp_path_factory.mktemp("planted")
    sae = tiny_sae(model_name, HOOK, torch.zeros(576), 0)
    details: list[dict[str, Any]] = []
    for latent, word in zip(PLANTED, WORDS, strict=True):
        row = model.W_U[:, int(model.to_single_token(f" {word}"))].detach()
        # of any norm: steering takes the direction
        sae.W_dec.data[latent] = 3 * row / row.norm()
        said = f'the tokens "{word}"'
        details.append(
            {"latent": latent, "explanation": said, "score": None, "checked_score": 0.9}
        )
    subjects = save_release(folder / "planted-release", {"s0": sae})
    record = {
        "eval_type_id": "autointerp",
        "eval_config": {"explainer": "tokens"},
        "eval_result_metrics": {},
        "eval_result_details": details,
    }
    path = result_path(folder / "given", "autointerp", subjects[0].release, "s0")
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record))
    cache = ModelCache()
    cache.hold(model, model_name, dtype="float32", device="cpu")
    context = RunContext(
        subjects=subjects,
        out=folder / "out",
        artifacts=folder / "artifacts",
        options={"steering": {**SETTINGS, "explanations": str(folder / "given")}},
        models=cache,
    )
    assert run(context) == []
    return context


@pytest.mark.parametrize("judge", ["log_probability", "embedding"])
def test_planted_latents_succeed_and_random_directions_do_not(
    judge: str, planted: RunContext
) -> None:
    subject = planted.subjects[0]
    path = result_path(planted.out, "steering", subject.release, subject.sae_id)
    record = read_result(path)
    found = record["eval_result_metrics"][judge]
    assert found["success_n"] == len(WORDS) and found["pairs"] == 48
    assert found["random_pairs_distinct"] == found["unsteered_pairs_distinct"] == 48
    # paired by latent, prompt and repeat; 8 latents are the clusters
    assert found["over_random_ci_low"] > 0, found
    assert found["over_unsteered_ci_low"] > 0, found
    # Chance is what the threshold lets pass. A random push of half a norm need not be chance, which
    # is why it is the control: the log-probability judge's interval for it begins at .0521.
    assert found["unsteered_ci_low"] <= 0.05 <= found["unsteered_ci_high"], found
    threshold = record["eval_result_unstructured"]["judges"][judge]["threshold"]
    assert threshold["n"] == 160 and threshold["achieved"] == 0.05


def test_steering_off_the_models_own_way_costs_fluency(planted: RunContext) -> None:
    subject = planted.subjects[0]
    path = result_path(planted.out, "steering", subject.release, subject.sae_id)
    fluency = read_result(path)["eval_result_metrics"]["fluency"]
    assert fluency["loss_ci_low"] > 0 and fluency["loss_n"] == len(WORDS)


def test_a_model_of_unknown_layout_is_steered_as_hooked(
    model_folder: Path, model_name: str, tmp_path: Path
) -> None:
    unknown = OPTConfig(
        vocab_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        ffn_dim=8,
        num_attention_heads=1,
        max_position_embeddings=8,
        word_embed_proj_dim=8,
    )
    OPTForCausalLM(unknown).save_pretrained(tmp_path / "opt")
    config = SteeringEvalConfig()

    def kind(name: str, hook: str = HOOK, **settings: Any) -> str:
        return kind_of(
            tiny_sae(name, hook, torch.zeros(8), 0), replace(config, **settings)
        )

    assert kind(str(tmp_path / "opt")) == "hooked"
    assert kind(model_name) == kind(str(model_folder)) == "plain"
    assert kind(model_name, "blocks.2.hook_resid_mid") == "hooked"
    # who names one gets it, or an error that says why not
    assert kind(str(tmp_path / "opt"), backend="plain") == "plain"


def test_one_language_model_is_in_memory_at_a_time(
    model: HookedTransformer, model_name: str, tmp_path: Path
) -> None:
    sae = tiny_sae(model_name, HOOK, torch.zeros(576), 0)
    config = SteeringEvalConfig()
    context = RunContext(subjects=[], out=tmp_path, models=ModelCache())
    models = Models(context, config)
    left = weakref.ref(context.models.get(model_name, dtype="float32", device="cpu"))
    plain = weakref.ref(models.get(sae).backend)
    # what another evaluation loaded is gone
    assert left() is None
    own = models.for_explaining(sae)
    # the plain one is gone, and the explainer's goes with its cache
    assert plain() is None and own is not context.models
    # one that the caller holds is used, and so is the one that is steered
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    assert models.for_explaining(sae) is context.models
    hooked = Models(
        RunContext(subjects=[], out=tmp_path, models=ModelCache()),
        replace(config, backend="hooked"),
    )
    assert hooked.for_explaining(sae) is hooked.context.models


def test_speed_is_measured_with_all_implementations() -> None:
    rows = list(
        steering_rows(SpeedConfig(repeats=3), batched=Work(6, 2), one_by_one=Work(1, 2))
    )
    names = [row.implementation for row in rows]
    assert names[0].startswith("saereg")
    assert sum("transformers generate" in name for name in names) >= 1
    assert names[-1].startswith("HookedTransformer.generate")
    assert all(row.throughput and row.ratio and row.n == 3 for row in rows)
