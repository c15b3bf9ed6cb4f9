"""Every text of one SAE: steered, and the controls, written by the language model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from eval_recipes.steering.config import SteeringEvalConfig
from eval_recipes.steering.decoding import Continuation, Decoding, Request, Steering
from eval_recipes.steering.generation import generate
from eval_recipes.steering.language_model import LanguageModel
from eval_recipes.steering.latents import Latents
from eval_recipes.steering.plan import ARMS, Arm, plan_pairs
from eval_recipes.steering.prompts import Prompt
from eval_recipes.steering.stored import kept_texts
from eval_recipes.steering.streams import Streams

__all__ = ["ARMS", "Arm", "Trial", "decoding_of", "make_trials"]


@dataclass(frozen=True)
class Trial:
    """
    Two continuations of one prompt, for one latent.

    Attributes:
        arm: what the second one is.
        latent: id in the SAE.
        prompt: index of the prompt.
        repeat: number of the text among those of its latent and prompt.
        amount: strength in the units of the mode; None where nothing is added.
        strength: what the unit direction was multiplied by; None where nothing is added.
        original: the unsteered text.
        other: the second text.
    """

    arm: Arm
    latent: int
    prompt: int
    repeat: int
    amount: float | None
    strength: float | None
    original: Continuation
    other: Continuation


def decoding_of(config: SteeringEvalConfig) -> Decoding:
    """Return how texts are continued."""
    return Decoding(
        new_tokens=config.new_tokens,
        greedy=config.greedy,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=config.random_seed,
    )


def make_trials(
    model: LanguageModel,
    latents: Latents,
    prompts: Sequence[Prompt],
    strengths: dict[float, list[float]],
    config: SteeringEvalConfig,
    *,
    weights: str,
    folder: Path,
) -> list[Trial]:
    """
    Write every text and return the pairs, arm by arm.

    Equal requests are written once. Each batch is kept as soon as it is written.

    Args:
        model: the language model.
        latents: directions.
        prompts: what is continued.
        strengths: of each latent, by amount.
        config: samples and decoding.
        weights: hash of the SAE; random numbers and control directions follow from it.
        folder: where batches are kept: an artefact folder.
    """
    streams = Streams(config.random_seed, weights)
    plan = plan_pairs(latents.ids, len(prompts), strengths, config, streams)
    controls = [
        streams.direction(latent, repeat, model.backend.d_model)
        for latent in latents.ids
        for repeat in range(config.samples_per_prompt)
    ]
    steering = Steering(
        hook_name=latents.hook_name,
        vectors=torch.cat([latents.directions, torch.stack(controls)]),
        positions=config.positions,
    )
    decoding = decoding_of(config)

    def write(
        name: str, wanted: Iterable[Request], how: Decoding
    ) -> dict[Request, Continuation]:
        return kept_texts(
            folder,
            name,
            list(dict.fromkeys(wanted)),
            lambda batch: generate(
                model.backend,
                model.tokenizer,
                prompts,
                batch,
                steering=steering,
                decoding=how,
                batch_size=config.batch_size,
            ),
            batch_size=config.batch_size,
        )

    pushed = [
        text
        for one in plan
        for text in (one.original, one.other)
        if one.amount is not None
    ]
    left = [
        text for one in plan for text in (one.original, one.other) if one.amount is None
    ]
    sampled = replace(decoding, greedy=False)
    if config.greedy:
        by_greed, by_chance = (
            write("greedy", pushed, decoding),
            write("sampled", left, sampled),
        )
    else:
        by_greed = by_chance = write("sampled", [*pushed, *left], sampled)
    trials: list[Trial] = []
    for one in plan:
        written = by_chance if one.amount is None else by_greed
        trials.append(
            Trial(
                arm=one.arm,
                latent=latents.ids[one.latent],
                prompt=one.prompt,
                repeat=one.repeat,
                amount=one.amount,
                strength=None if one.amount is None else one.other.strength,
                original=written[one.original],
                other=written[one.other],
            )
        )
    return trials
