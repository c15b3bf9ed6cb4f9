"""Choose latents to steer; record the dropped ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.cross_seed.stability_table import read_stability
from eval_recipes.results.files import read_result, result_name
from eval_recipes.results.reading import result_files
from eval_recipes.results.subject import Subject
from eval_recipes.saebench.autointerp.figures import Explanation, read_explanations
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select import contrast as contrast_data
from eval_recipes.steering.select.contrast import Separating, best_latents
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import alive_mask

MOST_NAMED = 5
"""Latents that a message names."""


@dataclass(frozen=True)
class Candidates:
    """
    Chosen latents, before it is known which have an explanation.

    Attributes:
        ids: the latents, in the order in which they were chosen.
        pool: how many there were to choose from.
    """

    ids: tuple[int, ...]
    pool: int


@dataclass(frozen=True)
class Explained:
    """
    Candidates with an explanation, and a count of those without.

    Attributes:
        ids: latents that are steered with.
        explanations: by latent.
        without: candidates without a valid explanation.
    """

    ids: tuple[int, ...]
    explanations: Mapping[int, Explanation] = field(
        default_factory=dict[int, Explanation]
    )
    without: tuple[int, ...] = ()


def alive_pool(W_enc: Tensor, W_dec: Tensor, *, threshold: float) -> list[int]:
    """
    Return the latents that are alive by weights: cos(enc_j, dec_j) > threshold.

    Args:
        W_enc: SAELens' encoder [d_in, d_sae].
        W_dec: SAELens' decoder [d_sae, d_in].
        threshold: .1 as published.
    """
    rows = W_enc.detach().cpu().T.float(), W_dec.detach().cpu().float()
    return alive_mask(*rows, threshold=threshold).nonzero().flatten().tolist()


def draw(pool: Sequence[int], n: int, *, seed: int) -> Candidates:
    """
    Draw ``n`` latents without replacement; all of the pool if it has no more.

    The first m of a draw of n are the draw of m: asking for more adds latents.

    Raises:
        InputError: if the pool is empty.
    """
    if not pool:
        raise InputError(
            "No latent is left to choose from; expected an SAE with alive latents, or a lower "
            "alive_threshold or stable_minimum."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pool), generator=generator)[:n].tolist()
    return Candidates(tuple(pool[place] for place in order), len(pool))


def given(latents: Sequence[int], *, d_sae: int) -> Candidates:
    """
    Return the latents that the user named.

    Raises:
        InputError: if the SAE has no such latent.
    """
    wrong = [latent for latent in latents if not 0 <= latent < d_sae]
    if wrong:
        raise InputError(
            f"Latents {wrong[:MOST_NAMED]} were asked for, but the SAE has {d_sae}; expected "
            f"ids below {d_sae}."
        )
    return Candidates(tuple(latents), len(latents))


def stability_of(folder: Path, subject: Subject) -> dict[int, float]:
    """
    Return the share of the other seeds in which each latent of an SAE is shared.

    Args:
        folder: results folder with cross_seed's results.
        subject: the SAE.

    Raises:
        InputError: if no cross_seed result of this SAE is there, or its table is damaged.
    """
    table = read_stability(find_result(folder, subject, eval="cross_seed"))
    return dict(zip(table["latent"].tolist(), table["stability"].tolist(), strict=True))


def partners_of(folder: Path, subject: Subject) -> dict[int, dict[int, int]]:
    """
    Return, of each latent of an SAE, the latents of other seeds that it is shared with, by seed.

    Raises:
        InputError: as ``stability_of``.
    """
    table = read_stability(find_result(folder, subject, eval="cross_seed"))
    found: dict[int, dict[int, int]] = {int(latent): {} for latent in table["latent"]}
    front = "decoder_partner_"
    for column in table.columns:
        seed = str(column).removeprefix(front)
        if seed == column or f"shared_{seed}" not in table.columns:
            continue
        shared = table.loc[table[f"shared_{seed}"].astype(bool) & table[column].notna()]
        for latent, partner in zip(shared["latent"], shared[column], strict=True):
            found[int(latent)][int(seed)] = int(partner)
    return found


def stable_pool(
    pool: Collection[int], stability: Mapping[int, float], *, minimum: float
) -> list[int]:
    """Return those of the pool that are shared with at least ``minimum`` of the other seeds."""
    # a share such as 1/3 is stored in float32
    return [latent for latent in pool if stability.get(latent, 0.0) >= minimum - 1e-6]


def explanations_of(folder: Path, subject: Subject) -> dict[int, Explanation]:
    """
    Return the explanations of an SAE's latents from an autointerp result.

    Raises:
        InputError: if no such result of this SAE is there, or it holds no explanations.
    """
    return read_explanations(find_result(folder, subject, eval="autointerp"))


def find_result(folder: Path, subject: Subject, *, eval: str) -> Path:
    """
    Return the result file of one SAE below a folder.

    Raises:
        InputError: if there is none, or several that differ in place.
    """
    name = result_name(subject.release, subject.sae_id)
    found = [
        path
        for path in (result_files(folder) if folder.is_dir() else [])
        if path.name == name and read_result(path)["eval_type_id"] == eval
    ]
    if len(found) != 1:
        listed = ", ".join(repr(str(path)) for path in found[:3]) or "none"
        raise InputError(
            f"Folder {str(folder)!r} has {len(found)} results of {eval} for SAE "
            f"{subject.sae_id!r} of release {subject.release!r} ({listed}); expected one. Run "
            f"'{eval}' into it before, in a command of its own, or name the folder that holds one."
        )
    return found[0]


def with_explanations(
    candidates: Candidates, explanations: Mapping[int, Explanation]
) -> Explained:
    """Split candidates into those with a valid explanation (any text) and the others."""
    valid = {
        latent: explanations[latent]
        for latent in candidates.ids
        if latent in explanations and explanations[latent].text.strip()
    }
    return Explained(
        ids=tuple(valid),
        explanations=valid,
        without=tuple(latent for latent in candidates.ids if latent not in valid),
    )


def interp_score(explanation: Explanation) -> float | None:
    """
    Return an explanation's score: upstream's where a judge scored, else the checked one.

    Scores of token explanations and of language models are not comparable.
    """
    return (
        explanation.score
        if explanation.score is not None
        else explanation.checked_score
    )


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
