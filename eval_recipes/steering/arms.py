"""Every text of one SAE: steered, and both controls, as requests to the language model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch

from eval_recipes.steering.config import SteeringEvalConfig
from eval_recipes.steering.decoding import Continuation, Decoding, Request, Steering
from eval_recipes.steering.generation import generate
from eval_recipes.steering.language_model import LanguageModel
from eval_recipes.steering.latents import Latents, random_directions
from eval_recipes.steering.prompts import Prompt

Arm = Literal["steered", "random", "unsteered", "calibration"]
"""
What the second text of a pair is.

- ``steered``: along the latent's direction, with the first text's random numbers.
- ``random``: the same strength along a random direction, judged by the latent's explanation.
- ``unsteered``: nothing added, other random numbers; sampled even if the others are greedy.
- ``calibration``: the same with further random numbers; only thresholds are learned from it.
"""

ARMS = get_args(Arm)

CALIBRATION_PAIRS = 3000
"""Pairs that thresholds are learned from, as far as random numbers allow."""


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


@dataclass(frozen=True)
class _Planned:
    arm: Arm
    latent: int
    prompt: int
    repeat: int
    amount: float | None
    original: Request
    other: Request


def make_trials(
    model: LanguageModel,
    latents: Latents,
    prompts: Sequence[Prompt],
    strengths: dict[float, list[float]],
    config: SteeringEvalConfig,
) -> list[Trial]:
    """
    Write every text and return the pairs, arm by arm.

    A latent without a strength (NaN, see ``strengths``) is left out at that amount. Equal
    requests are written once.

    Args:
        model: the language model.
        latents: directions.
        prompts: what is continued.
        strengths: of each latent, by amount.
        config: samples and decoding.
    """
    plan = [
        *_steered(len(latents.ids), len(prompts), strengths, config),
        *_unsteered(len(latents.ids), len(prompts), config),
    ]
    controls = random_directions(
        len(latents.ids), model.backend.d_model, seed=config.random_seed
    )
    steering = Steering(
        hook_name=latents.hook_name,
        vectors=torch.cat([latents.directions, controls]),
        positions=config.positions,
    )
    decoding = decoding_of(config)

    def write(wanted: Iterable[Request], how: Decoding) -> dict[Request, Continuation]:
        requests = list(dict.fromkeys(wanted))
        texts = generate(
            model.backend,
            model.tokenizer,
            prompts,
            requests,
            steering=steering,
            decoding=how,
            batch_size=config.batch_size,
        )
        return dict(zip(requests, texts, strict=True))

    pushed = [one for one in plan if one.amount is not None]
    left = [one for one in plan if one.amount is None]
    written = write(
        [r for one in pushed for r in (one.original, one.other)]
        + [one.original for one in left],
        decoding,
    )
    # greedy texts have no random numbers: without sampling the controls would be no texts
    # of their own
    written |= write([one.other for one in left], replace(decoding, greedy=False))
    return [
        Trial(
            arm=one.arm,
            latent=latents.ids[one.latent],
            prompt=one.prompt,
            repeat=one.repeat,
            amount=one.amount,
            strength=one.other.strength if one.amount is not None else None,
            original=written[one.original],
            other=written[one.other],
        )
        for one in plan
    ]


def _steered(
    n_latents: int,
    n_prompts: int,
    strengths: dict[float, list[float]],
    config: SteeringEvalConfig,
) -> list[_Planned]:
    arms: tuple[Arm, Arm] = ("steered", "random")
    return [
        _Planned(
            arm,
            latent,
            prompt,
            repeat,
            amount,
            Request(prompt, _stream(latent, repeat, config)),
            Request(
                prompt,
                _stream(latent, repeat, config),
                latent + n_latents * (arm == "random"),
                values[latent],
            ),
        )
        for amount, values in strengths.items()
        for arm in arms
        for latent in range(n_latents)
        if math.isfinite(values[latent])
        for prompt in range(n_prompts)
        for repeat in range(config.samples_per_prompt)
    ]


def _unsteered(
    n_latents: int, n_prompts: int, config: SteeringEvalConfig
) -> list[_Planned]:
    plan: list[_Planned] = []
    streams = config.unsteered_samples
    wanted = math.ceil(CALIBRATION_PAIRS / (n_latents * n_prompts))
    repeats: dict[Arm, int] = {
        "unsteered": config.samples_per_prompt,
        "calibration": min(streams, max(1, wanted)),
    }
    for offset, (arm, most) in enumerate(repeats.items(), start=1):
        for latent in range(n_latents):
            for prompt in range(n_prompts):
                for repeat in range(most):
                    stream = _stream(latent, repeat, config)
                    plan.append(
                        _Planned(
                            arm,
                            latent,
                            prompt,
                            repeat,
                            None,
                            Request(prompt, stream),
                            # streams of their own, so that no text is both
                            Request(prompt, stream + offset * streams),
                        )
                    )
    return plan


def _stream(latent: int, repeat: int, config: SteeringEvalConfig) -> int:
    """Return which random numbers a latent's text takes: in turn, so that few texts serve all."""
    return (latent * config.samples_per_prompt + repeat) % config.unsteered_samples
