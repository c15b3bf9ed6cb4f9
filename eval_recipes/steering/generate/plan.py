"""Requests to the language model for the texts of one SAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from eval_recipes.steering.generate.decoding import Request
from eval_recipes.steering.generate.sampling import Streams
from eval_recipes.steering.options import SteeringEvalConfig

Arm = Literal["steered", "random", "unsteered", "calibration"]
"""
What the second text of a pair is.

- ``steered``: along the latent's direction, with the first text's random numbers.
- ``random``: the same strength along a random direction, judged by the latent's explanation.
- ``unsteered``: nothing added, other random numbers.
- ``calibration``: the same, both texts in no other pair; only thresholds are learned from it.

Texts of the last two are sampled even if the others are greedy.
"""

ARMS = get_args(Arm)


@dataclass(frozen=True)
class Planned:
    """
    A pair before it is written.

    Attributes:
        arm: what the second text is.
        latent: place among the latents.
        prompt: index of the prompt.
        repeat: number of the pair among those of its latent and prompt.
        amount: strength in the units of the mode; None where nothing is added.
        original: the first text.
        other: the second.
    """

    arm: Arm
    latent: int
    prompt: int
    repeat: int
    amount: float | None
    original: Request
    other: Request


def plan_pairs(
    ids: Sequence[int],
    n_prompts: int,
    strengths: dict[float, list[float]],
    config: SteeringEvalConfig,
    streams: Streams,
) -> list[Planned]:
    """
    Return every pair of an SAE.

    A latent without a strength (NaN, see ``strengths``) is left out at that amount. Vectors are
    numbered: the latents' own, then ``control_vector`` of each latent and repeat.

    Args:
        ids: the latents.
        n_prompts: prompts that are continued.
        strengths: of each latent, by amount.
        config: samples and decoding.
        streams: random numbers.
    """
    return [
        *_steered(ids, n_prompts, strengths, config, streams),
        *_unsteered(ids, n_prompts, config, streams),
        *_calibration(ids, n_prompts, config, streams),
    ]


def control_vector(
    place: int, repeat: int, n_latents: int, config: SteeringEvalConfig
) -> int:
    """Return the number of a control's vector; ``place`` is the latent's."""
    return n_latents + place * config.samples_per_prompt + repeat


def _steered(
    ids: Sequence[int],
    n_prompts: int,
    strengths: dict[float, list[float]],
    config: SteeringEvalConfig,
    streams: Streams,
) -> list[Planned]:
    arms: tuple[Arm, Arm] = ("steered", "random")
    found: list[Planned] = []
    for amount, values in strengths.items():
        for arm in arms:
            for place, latent in enumerate(ids):
                if not math.isfinite(values[place]):
                    continue
                for prompt in range(n_prompts):
                    for repeat in range(config.samples_per_prompt):
                        # greedy texts take no random numbers: one original serves all
                        number = (
                            0
                            if config.greedy
                            else streams.number(latent, repeat, "pair")
                        )
                        vector = (
                            place
                            if arm == "steered"
                            else control_vector(place, repeat, len(ids), config)
                        )
                        found.append(
                            Planned(
                                arm,
                                place,
                                prompt,
                                repeat,
                                amount,
                                Request(prompt, number),
                                Request(prompt, number, vector, values[place]),
                            )
                        )
    return found


def _unsteered(
    ids: Sequence[int], n_prompts: int, config: SteeringEvalConfig, streams: Streams
) -> list[Planned]:
    # of greedy texts there would be no second one; a sampled text against a greedy one would
    # measure the way of decoding
    first = "sampled" if config.greedy else "pair"
    return [
        Planned(
            "unsteered",
            place,
            prompt,
            repeat,
            None,
            Request(prompt, streams.number(latent, repeat, first)),
            Request(prompt, streams.number(latent, repeat, "unsteered")),
        )
        for place, latent in enumerate(ids)
        for prompt in range(n_prompts)
        for repeat in range(config.samples_per_prompt)
    ]


def _calibration(
    ids: Sequence[int], n_prompts: int, config: SteeringEvalConfig, streams: Streams
) -> list[Planned]:
    """Return as many pairs of each latent, prompts in turn."""
    each = math.ceil(config.calibration_pairs / len(ids))
    found: list[Planned] = []
    for place, latent in enumerate(ids):
        for number in range(each):
            # begun at another prompt by each latent, so that one pair each uses all prompts
            prompt, repeat = (latent + number) % n_prompts, number // n_prompts
            found.append(
                Planned(
                    "calibration",
                    place,
                    prompt,
                    repeat,
                    None,
                    Request(prompt, streams.number(latent, repeat, "calibration")),
                    Request(prompt, streams.number(latent, repeat, "calibrated")),
                )
            )
    return found
