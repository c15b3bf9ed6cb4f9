"""Every text of one SAE: steered, and the controls, written by the language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.steering.generate.decoding import (
    Continuation,
    Decoding,
    Request,
    Steering,
    Streams,
)
from eval_recipes.steering.generate.generate import generate
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import Latents

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
    folder: ArtifactFolder,
    unsteered: ArtifactFolder,
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
        folder: where batches of steered texts are kept: an artefact folder.
        unsteered: the same of texts to which nothing is added. They do not depend on
            directions and strengths, so runs that differ in these alone share them.
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

    # controls first: they have every latent, so that which texts are unsteered, and their
    # order, do not depend on which latents have a strength
    ordered = sorted(plan, key=lambda one: one.amount is not None)

    def texts_of(*, greedy: bool) -> dict[Request, Continuation]:
        how = replace(decoding_of(config), greedy=greedy)
        wanted = dict.fromkeys(
            text
            for one in ordered
            if _is_greedy(one, config) == greedy
            for text in (one.original, one.other)
        )
        found: dict[Request, Continuation] = {}
        for where, steered in ((unsteered, False), (folder, True)):
            found |= kept_texts(
                where,
                "greedy" if greedy else "sampled",
                [one for one in wanted if (one.vector is not None) == steered],
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
        return found

    written = {greedy: texts_of(greedy=greedy) for greedy in (True, False)}
    trials: list[Trial] = []
    for one in plan:
        texts = written[_is_greedy(one, config)]
        trials.append(
            Trial(
                arm=one.arm,
                latent=latents.ids[one.latent],
                prompt=one.prompt,
                repeat=one.repeat,
                amount=one.amount,
                strength=None if one.amount is None else one.other.strength,
                original=texts[one.original],
                other=texts[one.other],
            )
        )
    return trials


def _is_greedy(pair: Planned, config: SteeringEvalConfig) -> bool:
    """Whether a pair's texts are greedy: there is no second greedy text without steering."""
    return config.greedy and pair.amount is not None


def kept_texts(
    folder: ArtifactFolder,
    name: str,
    requests: Sequence[Request],
    write: Callable[[list[Request]], list[Continuation]],
    *,
    batch_size: int,
) -> dict[Request, Continuation]:
    """
    Return a text for each request; batches that are kept are read, the others written and kept.

    Batches are cut at the same places every time, so a run that goes on makes the texts that
    an uninterrupted one would have made. A file that is damaged, or holds the texts of other
    requests, counts as absent.

    Args:
        folder: an artefact folder: what is in it follows from its determinants.
        name: of these texts, where a folder holds several kinds.
        requests: all different.
        write: writes a batch.
        batch_size: texts in a batch.
    """
    texts: dict[Request, Continuation] = {}
    starts = range(0, len(requests), batch_size)
    with folder.locked():
        for number, start in enumerate(
            tqdm(starts, desc=f"{name} texts", leave=False, disable=None)
        ):
            batch = list(requests[start : start + batch_size])
            file = f"{name}-{number:05d}.parquet"
            found = _read(folder.read(file), batch)
            if found is None:
                found = write(batch)
                with folder.write(file) as temporary:
                    _keep(temporary, batch, found)
            texts |= zip(batch, found, strict=True)
    return texts


def _read(path: Path | None, batch: Sequence[Request]) -> list[Continuation] | None:
    if path is None:
        return None
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    if [_request(row) for row in rows] != list(batch):
        return None
    return [
        Continuation(
            tokens=tuple(row["tokens"]),
            text=row["text"],
            near_ties=row["near_ties"],
            first_near_tie=row["first_near_tie"],
        )
        for row in rows
    ]


def _request(row: dict[str, Any]) -> Request:
    return Request(row["prompt"], row["sample"], row["vector"], row["strength"])


def _keep(path: Path, batch: Sequence[Request], texts: Sequence[Continuation]) -> None:
    schema = pa.schema(
        [
            ("prompt", pa.int64()),
            ("sample", pa.int64()),
            ("vector", pa.int64()),
            ("strength", pa.float64()),
            ("tokens", pa.list_(pa.int64())),
            ("text", pa.string()),
            ("near_ties", pa.int64()),
            ("first_near_tie", pa.int64()),
        ]
    )
    rows = [
        {
            "prompt": request.prompt,
            "sample": request.sample,
            "vector": request.vector,
            "strength": request.strength,
            "tokens": list(text.tokens),
            "text": text.text,
            "near_ties": text.near_ties,
            "first_near_tie": text.first_near_tie,
        }
        for request, text in zip(batch, texts, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
