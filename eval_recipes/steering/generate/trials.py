"""Pairs of texts of one SAE, steered and controls."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.steering.generate.decoding import (
    Continuation,
    Decoding,
    Request,
    Steering,
)
from eval_recipes.steering.generate.generate import generate
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import Latents

Arm = Literal["steered", "random", "unsteered", "calibration"]
"""
Kinds of the second text of a pair.

- ``steered``: along the latent's direction, with the first text's random numbers.
- ``random``: the same strength along a random direction, judged by the latent's explanation.
- ``unsteered``: nothing added, other random numbers.
- ``calibration``: the same, with texts of no other pair; only thresholds are learned from it.

Texts of the last two are sampled even if the others are greedy.
"""

Side = Literal["pair", "unsteered", "sampled", "calibration", "calibrated"]
"""
The text of a latent that random numbers are for.

- ``pair``: the original, the steered and the randomly steered text, which share numbers.
- ``unsteered``: the unsteered text in the steered text's place.
- ``sampled``: its original where the others are greedy.
- ``calibration``, ``calibrated``: both sides of a calibration pair.
"""

_BITS = 63
_KEPT = pa.schema(
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
"""Columns of a file of kept texts: the fields of a request, then of its text."""


@dataclass(frozen=True)
class Streams:
    """The random numbers of one SAE in one run."""

    seed: int
    """Seed of the run."""
    weights: str
    """Hash of the SAE (``artifacts.weights_hash``)."""

    def number(self, latent: int, repeat: int, side: Side) -> int:
        """Return the stream of a text, for ``decoding.Request.sample``."""
        return self._hashed(f"{side}/{latent}/{repeat}")

    def direction(self, latent: int, repeat: int, d_model: int) -> Tensor:
        """Return the control's unit vector [d_model], of uniformly random direction."""
        generator = torch.Generator().manual_seed(
            self._hashed(f"direction/{latent}/{repeat}")
        )
        drawn = torch.randn(d_model, generator=generator)
        return drawn / drawn.norm()

    def _hashed(self, what: str) -> int:
        text = f"{self.seed}/{self.weights}/{what}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> (64 - _BITS)


T = TypeVar("T", Request, Continuation)


@dataclass(frozen=True)
class TextPair(Generic[T]):
    """Two texts of one prompt for one latent: requests, and continuations once written."""

    arm: Arm
    latent: int
    """Id in the SAE."""
    prompt: int
    """Index of the prompt."""
    repeat: int
    """Number of the pair among the pairs of its latent and prompt."""
    amount: float | None
    """Strength in the units of the mode; None where nothing is added."""
    strength: float | None
    """Factor of the unit direction; None where nothing is added."""
    original: T
    """The unsteered text."""
    other: T
    """The second text."""


Planned: TypeAlias = TextPair[Request]
Trial: TypeAlias = TextPair[Continuation]


def plan_pairs(
    ids: Sequence[int],
    n_prompts: int,
    strengths: dict[float, list[float]],
    config: SteeringEvalConfig,
    streams: Streams,
) -> list[Planned]:
    """
    Return every pair of an SAE.

    ``strengths`` holds the strength of each latent, by amount. Latents without a strength (NaN)
    are left out at that amount. Vectors are numbered: the latents' vectors, then one for each
    latent and repeat of the controls.
    """
    planner = _Planner(ids, n_prompts, config, streams)
    return [*planner.steered(strengths), *planner.unsteered(), *planner.calibration()]


@dataclass(frozen=True)
class _Planner:
    ids: Sequence[int]
    n_prompts: int
    config: SteeringEvalConfig
    streams: Streams

    def steered(self, strengths: dict[float, list[float]]) -> Iterator[Planned]:
        arms: tuple[Arm, Arm] = ("steered", "random")
        repeats = self.config.samples_per_prompt
        for amount, values in strengths.items():
            for arm, (place, latent) in product(arms, enumerate(self.ids)):
                if not math.isfinite(values[place]):
                    continue
                for prompt, repeat in product(range(self.n_prompts), range(repeats)):
                    control = len(self.ids) + place * repeats + repeat
                    vector = place if arm == "steered" else control
                    # greedy texts take no random numbers: one original serves all
                    number = (
                        0
                        if self.config.greedy
                        else self.streams.number(latent, repeat, "pair")
                    )
                    yield Planned(
                        arm,
                        latent,
                        prompt,
                        repeat,
                        amount,
                        values[place],
                        Request(prompt, number),
                        Request(prompt, number, vector, values[place]),
                    )

    def unsteered(self) -> Iterator[Planned]:
        # there is no second greedy text, and a sampled text against a greedy one would
        # measure the way of decoding
        first = "sampled" if self.config.greedy else "pair"
        repeats = range(self.config.samples_per_prompt)
        for latent, prompt, repeat in product(self.ids, range(self.n_prompts), repeats):
            yield self._plain("unsteered", latent, prompt, repeat, (first, "unsteered"))

    def calibration(self) -> Iterator[Planned]:
        """Yield equally many pairs of each latent, prompts in turn."""
        each = math.ceil(self.config.calibration_pairs / len(self.ids))
        for latent, number in product(self.ids, range(each)):
            # each latent starts at another prompt, so that one pair each uses all prompts
            prompt, repeat = (
                (latent + number) % self.n_prompts,
                number // self.n_prompts,
            )
            sides = ("calibration", "calibrated")
            yield self._plain("calibration", latent, prompt, repeat, sides)

    def _plain(
        self, arm: Arm, latent: int, prompt: int, repeat: int, sides: tuple[Side, Side]
    ) -> Planned:
        first, second = (
            Request(prompt, self.streams.number(latent, repeat, side)) for side in sides
        )
        return Planned(arm, latent, prompt, repeat, None, None, first, second)


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
        prompts: texts to continue.
        strengths: of each latent, by amount.
        config: samples and decoding.
        weights: hash of the SAE; random numbers and control directions follow from it.
        folder: artefact folder of the steered texts.
        unsteered: artefact folder of the texts to which nothing is added. They do not depend
            on directions and strengths, so runs that differ in these alone share them.
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
    # controls first: they have every latent, so that the unsteered texts and their order do
    # not depend on which latents have a strength
    ordered = sorted(plan, key=lambda pair: pair.amount is not None)

    def texts_of(*, greedy: bool) -> dict[Request, Continuation]:
        decoding = Decoding(
            new_tokens=config.new_tokens,
            greedy=greedy,
            temperature=config.temperature,
            top_p=config.top_p,
            seed=config.random_seed,
        )
        wanted = dict.fromkeys(
            text
            for pair in ordered
            if _is_greedy(pair, config) == greedy
            for text in (pair.original, pair.other)
        )
        found: dict[Request, Continuation] = {}
        for where, steered in ((unsteered, False), (folder, True)):
            found |= kept_texts(
                where,
                "greedy" if greedy else "sampled",
                [text for text in wanted if (text.vector is not None) == steered],
                lambda batch: generate(
                    model.backend,
                    model.tokenizer,
                    prompts,
                    batch,
                    steering=steering,
                    decoding=decoding,
                    batch_size=config.batch_size,
                ),
                batch_size=config.batch_size,
            )
        return found

    written = {greedy: texts_of(greedy=greedy) for greedy in (True, False)}
    trials: list[Trial] = []
    for pair in plan:
        texts = written[_is_greedy(pair, config)]
        written_pair: dict[str, Any] = {
            **vars(pair),
            "original": texts[pair.original],
            "other": texts[pair.other],
        }
        trials.append(Trial(**written_pair))
    return trials


def _is_greedy(pair: Planned, config: SteeringEvalConfig) -> bool:
    """Return whether a pair is greedy: without steering there is no second greedy text."""
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
    Return a text for each request: read the batches that are kept, write and keep the others.

    Batches are always cut at the same places, so a resumed run makes the texts of an
    uninterrupted run. A file that is damaged or holds other requests counts as absent.

    Args:
        folder: an artefact folder, whose determinants decide the texts.
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
                rows = [
                    asdict(request) | asdict(text)
                    for request, text in zip(batch, found, strict=True)
                ]
                with folder.write(file) as temporary:
                    pq.write_table(pa.Table.from_pylist(rows, schema=_KEPT), temporary)
            texts |= zip(batch, found, strict=True)
    return texts


def _read(path: Path | None, batch: Sequence[Request]) -> list[Continuation] | None:
    if path is None:
        return None
    rows: list[dict[str, Any]] = pq.ParquetFile(path).read().to_pylist()
    requests = [
        Request(row["prompt"], row["sample"], row["vector"], row["strength"])
        for row in rows
    ]
    if requests != list(batch):
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
