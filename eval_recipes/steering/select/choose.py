"""Choose latents as the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.results.subject import Subject
from eval_recipes.steering.generate.models import Models
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select import contrast_texts as contrast_data
from eval_recipes.steering.select.candidates import (
    Candidates,
    alive_pool,
    draw,
    explanations_of,
    given,
    partners_of,
    stability_of,
    stable_pool,
)
from eval_recipes.steering.select.contrast import Separating, best_latents


@dataclass(frozen=True)
class Chosen:
    """Latents, and what they were chosen by."""

    candidates: Candidates
    pool: list[int]
    separating: list[Separating]
    sets: contrast_data.TextSets | None


def choose(
    subject: Subject,
    sae: SAE[Any],
    config: SteeringEvalConfig,
    stability: Mapping[int, float],
    models: Models,
) -> Chosen:
    pool = alive_pool(sae.W_enc, sae.W_dec, threshold=config.alive_threshold)
    if config.latents is not None:
        named = given(config.latents, d_sae=int(sae.W_dec.shape[0]))
        return Chosen(named, pool, [], None)
    if config.select == "contrast":
        assert config.contrast is not None
        sets = contrast_data.TextSets.read(config.contrast)
        model = models.get(sae)
        a, b = (
            contrast_data.mean_activations(model, sae, texts)
            for texts in (sets.a, sets.b)
        )
        best = best_latents(a, b, pool, config.n_latents, seed=config.random_seed)
        ids = tuple(one.latent for one in best)
        return Chosen(Candidates(ids, len(pool)), pool, best, sets)
    of_choice = pool
    if config.select == "stable":
        of_choice = stable_pool(pool, stability, minimum=config.stable_minimum)
    elif config.select == "explained":
        assert config.explanations is not None
        known = explanations_of(Path(config.explanations), subject)
        of_choice = sorted(known)
    drawn = draw(of_choice, config.n_latents, seed=config.random_seed)
    return Chosen(drawn, pool, [], None)


@dataclass(frozen=True)
class KnownStability:
    """
    What cross_seed found of an SAE's latents; empty where it was not asked.

    Attributes:
        shares: share of the other seeds that have the latent.
        partners: which latents these are, by seed.
    """

    shares: Mapping[int, float]
    partners: Mapping[int, Mapping[int, int]]


def known_stability(subject: Subject, config: SteeringEvalConfig) -> KnownStability:
    """Return what the folder ``stability`` says of an SAE."""
    if config.stability is None:
        return KnownStability({}, {})
    folder = Path(config.stability)
    return KnownStability(stability_of(folder, subject), partners_of(folder, subject))
