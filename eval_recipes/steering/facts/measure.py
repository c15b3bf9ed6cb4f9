"""Measurement of dated facts under latents, their sum, and random controls."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import torch
from sae_lens import SAE
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.results.sidecar import SideTable
from eval_recipes.results.subject import Subject
from eval_recipes.steering.facts.file import Fact, read_facts
from eval_recipes.steering.facts.scores import NameReader, NameScores, encode_names
from eval_recipes.steering.generate.language_model import LanguageModel, residuals
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.contrast import TextSets
from eval_recipes.steering.select.latents import Latents, read_latents
from eval_recipes.steering.texts import EVAL, FACTS_SUFFIX
from saereg_plugin.errors import InputError

Arm = Literal["latent", "together", "mean_difference", "random", "random_latents"]
"""
Directions of norm 1 that are added, all at one strength.

- ``latent``: a steered latent's decoder row.
- ``together``: the sum of all their rows, scaled to norm 1.
- ``mean_difference``: the mean residual vector of the contrast's first texts less that of the
  second; only with ``select=contrast``.
- ``random``: uniformly random.
- ``random_latents``: as ``together``, for as many other latents of the alive pool.
"""

COLUMNS = {
    "fact": pa.int64(),
    "date": pa.string(),
    "question": pa.string(),
    "holder": pa.string(),
    "later_holder": pa.string(),
    "arm": pa.string(),
    "number": pa.int64(),
    "amount": pa.float64(),
    "strength": pa.float64(),
    "holder_score": pa.float64(),
    "later_score": pa.float64(),
}
"""
Columns of the table of facts.

``arm`` is an ``Arm``, or ``before`` (nothing added) or ``later_date`` (nothing added, the
question at the later date). ``number`` is the latent's id, or the control's number.
"""

FACTS = SideTable("Facts", EVAL, "facts_table", FACTS_SUFFIX, COLUMNS)
"""``read`` takes the table's path or that of the result that names it."""


@dataclass(frozen=True)
class Push:
    """A direction to add."""

    arm: Arm
    number: int
    """Id of the latent, or number of the control."""
    direction: Tensor
    """[d_model], of norm 1."""


@dataclass(frozen=True)
class Pushed:
    """Scores of all facts with a direction added."""

    arm: Arm
    number: int
    amount: float
    strength: float
    scores: NameScores


@dataclass(frozen=True)
class Measurement:
    """Scores of the facts under one SAE."""

    facts: tuple[Fact, ...]
    before: NameScores
    """With nothing added."""
    dated: tuple[int, ...]
    """Indices of the facts with a later date."""
    at_later_date: NameScores | None
    """Their scores at the later date, nothing added; None without any."""
    pushed: tuple[Pushed, ...]

    def of(self, amount: float, arm: Arm) -> list[Pushed]:
        """Return the scores of one arm at one strength."""
        return [one for one in self.pushed if (one.amount, one.arm) == (amount, arm)]


def measure_facts(
    model: LanguageModel,
    sae: SAE[Any],
    latents: Latents,
    pool: Sequence[int],
    by_amount: Mapping[float, Sequence[float]],
    config: SteeringEvalConfig,
    *,
    weights: str,
    sets: TextSets | None = None,
) -> Measurement:
    """
    Score the facts before and after each direction is added.

    Args:
        model: the language model.
        sae: the SAE.
        latents: those that are steered.
        pool: alive latents, of which controls are drawn.
        by_amount: strength of each latent by amount, the same for all latents.
        config: the facts, positions, score and number of controls.
        weights: hash of the SAE; controls follow from it and the seed.
        sets: texts of the contrast, if there are any.

    Raises:
        InputError: for unusable facts, or if steering drives the model out of its range.
    """
    assert config.facts is not None
    facts = read_facts(config.facts)

    def reader(chosen: Sequence[Fact], questions: Sequence[str]) -> NameReader:
        holders, laters = (
            encode_names(
                model.tokenizer, questions, names, prepend_bos=latents.prepend_bos
            )
            for names in (
                [fact.holder for fact in chosen],
                [fact.later_holder for fact in chosen],
            )
        )
        return NameReader(
            model.backend,
            latents.hook_name,
            holders,
            laters,
            positions=config.facts_positions,
            score=config.facts_score,
            batch_size=config.batch_size,
        )

    later = {
        place: fact.later_question
        for place, fact in enumerate(facts)
        if fact.later_question is not None
    }
    dated = [facts[place] for place in later]
    at_later_date = reader(dated, list(later.values())).read() if later else None
    now = reader(facts, [fact.question for fact in facts])
    pushes = list(
        _pushes(
            sae,
            latents,
            pool,
            config.facts_controls,
            f"{config.random_seed}/{weights}",
        )
    )
    if sets is not None:
        pushes.append(Push("mean_difference", 0, mean_difference(model, latents, sets)))
    todo = [
        (amount, values[0], push)
        for amount, values in by_amount.items()
        for push in pushes
    ]
    pushed = tuple(
        Pushed(
            push.arm, push.number, amount, strength, now.read(strength * push.direction)
        )
        for amount, strength, push in tqdm(
            todo, desc="facts", leave=False, disable=None
        )
    )
    return Measurement(facts, now.read(), tuple(later), at_later_date, pushed)


def _pushes(
    sae: SAE[Any],
    latents: Latents,
    pool: Sequence[int],
    n_controls: int,
    stream: str,
) -> Iterator[Push]:
    for latent, direction in zip(latents.ids, latents.directions, strict=True):
        yield Push("latent", latent, direction)
    yield Push("together", 0, _unit(latents.directions.sum(0)))
    for number in range(n_controls):
        generator = _generator(stream, f"direction/{number}")
        drawn = torch.randn(latents.directions.shape[1], generator=generator)
        yield Push("random", number, _unit(drawn))
    chosen = set(latents.ids)
    others = [latent for latent in pool if latent not in chosen]
    for number in range(n_controls if others else 0):
        generator = _generator(stream, f"latents/{number}")
        order = torch.randperm(len(others), generator=generator)
        drawn_ids = [others[place] for place in order[: len(latents.ids)].tolist()]
        rows = read_latents(sae, drawn_ids).directions
        yield Push("random_latents", number, _unit(rows.sum(0)))


def _generator(stream: str, what: str) -> torch.Generator:
    """Return the random numbers of one control, which depend on seed, SAE and control alone."""
    digest = hashlib.blake2b(f"{stream}/facts/{what}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def mean_difference(model: LanguageModel, latents: Latents, sets: TextSets) -> Tensor:
    """Return the unit vector from the second texts' mean residual to the first's [d_model]."""
    means: list[Tensor] = []
    for texts in (sets.a, sets.b):
        total = torch.zeros(latents.directions.shape[1], dtype=torch.float64)
        count = 0
        for vectors, kept in residuals(
            model, texts, latents.hook_name, prepend_bos=latents.prepend_bos
        ):
            total += vectors[kept].double().sum(0)
            count += int(kept.sum())
        means.append(total / max(count, 1))
    return _unit((means[0] - means[1]).float())


def _unit(vector: Tensor) -> Tensor:
    norm = float(vector.norm())
    if norm < 1e-6:
        raise InputError(
            "The directions to steer the facts with cancel out; expected a sum that is not 0. "
            "Choose other latents."
        )
    return vector / norm


def facts_table(found: Measurement, subject: Subject) -> Any:
    """Return the ``pyarrow.Table`` of one SAE, a row per fact and direction."""
    rows: list[dict[str, Any]] = []

    def add(scores: NameScores, places: Sequence[int], **about: Any) -> None:
        for place, holder, later in zip(
            places, scores.holder.tolist(), scores.later.tolist(), strict=True
        ):
            fact = found.facts[place]
            at_later = about["arm"] == "later_date"
            rows.append(
                {
                    "fact": place,
                    "date": str(fact.later_date if at_later else fact.date),
                    "question": fact.later_question if at_later else fact.question,
                    "holder": fact.holder,
                    "later_holder": fact.later_holder,
                    "holder_score": holder,
                    "later_score": later,
                    **about,
                }
            )

    every = range(len(found.facts))
    add(found.before, every, arm="before")
    if found.at_later_date is not None:
        add(found.at_later_date, found.dated, arm="later_date")
    for one in found.pushed:
        about = {"arm": one.arm, "number": one.number}
        add(one.scores, every, **about, amount=one.amount, strength=one.strength)
    arrays = {
        name: pa.array([row.get(name) for row in rows], kind)
        for name, kind in COLUMNS.items()
    }
    return FACTS.of(arrays, subject)
