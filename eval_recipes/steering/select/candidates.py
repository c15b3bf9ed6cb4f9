"""The choice of latents to steer, and their explanations and stability."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.cross_seed.stability import read_stability
from eval_recipes.results.files import read_result, result_name
from eval_recipes.results.reading import result_files
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.saebench.autointerp.figures import Explanation
from eval_recipes.select.separation import ChosenLatent, separate
from eval_recipes.statistics.interval import Array
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.contrast import TextSets, mean_activations
from eval_recipes.steering.select.explanation_file import (
    Found,
    import_explanations,
    read_found,
)
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import alive_mask

MOST_NAMED = 5
"""Most latents that a message names."""


@dataclass(frozen=True)
class Candidates:
    """Chosen latents, with and without an explanation."""

    ids: tuple[int, ...]
    """In the order in which they were chosen."""
    pool: int
    """Number of latents there were to choose from."""


@dataclass(frozen=True)
class Explained:
    """Candidates with an explanation, and candidates without."""

    ids: tuple[int, ...]
    """Latents to steer."""
    explanations: Mapping[int, Explanation] = field(
        default_factory=dict[int, Explanation]
    )
    """By latent."""
    without: tuple[int, ...] = ()
    """Candidates without a valid explanation."""


def alive_pool(W_enc: Tensor, W_dec: Tensor, *, threshold: float) -> list[int]:
    """
    Return the latents that are alive by weights: cos(enc_j, dec_j) > threshold.

    Weights are SAELens': encoder [d_in, d_sae], decoder [d_sae, d_in].
    """
    rows = W_enc.detach().cpu().T.float(), W_dec.detach().cpu().float()
    return alive_mask(*rows, threshold=threshold).nonzero().flatten().tolist()


def draw(pool: Sequence[int], n: int, *, seed: int) -> Candidates:
    """
    Draw ``n`` latents without replacement, or all of a smaller pool.

    The first m of a draw of n are the draw of m, so a larger ``n`` adds latents.

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


@dataclass(frozen=True)
class KnownStability:
    """Stability of an SAE's latents by cross_seed; empty without its results."""

    shares: Mapping[int, float] = field(default_factory=dict[int, float])
    """Share of the other seeds that have the latent."""
    partners: Mapping[int, Mapping[int, int]] = field(
        default_factory=dict[int, Mapping[int, int]]
    )
    """The matching latents, by seed."""


def stability_of(folder: Path, subject: Subject) -> KnownStability:
    """
    Read the stability of an SAE's latents from the cross_seed results below a folder.

    Raises:
        InputError: if there is no cross_seed result of this SAE, or its table is damaged.
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
    shares = zip(table["latent"].tolist(), table["stability"].tolist(), strict=True)
    return KnownStability(dict(shares), found)


def known_stability(subject: Subject, config: SteeringEvalConfig) -> KnownStability:
    """Return the stability of an SAE's latents from the folder ``stability``."""
    if config.stability is None:
        return KnownStability()
    return stability_of(Path(config.stability), subject)


def stable_pool(
    pool: Collection[int], stability: Mapping[int, float], *, minimum: float
) -> list[int]:
    """Return the latents of the pool shared with at least ``minimum`` of the other seeds."""
    # a share such as 1/3 is stored in float32
    return [latent for latent in pool if stability.get(latent, 0.0) >= minimum - 1e-6]


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


def given_explanations(place: Path, subject: Subject) -> Found:
    """
    Return the explanations of an SAE that the user named.

    Args:
        place: folder with results of autointerp, or a file of Neuronpedia.
        subject: the SAE.

    Raises:
        InputError: if there are none, they cannot be read, or the SAE has not that many latents.
    """
    if place.is_file():
        found = import_explanations(place, subject)
    else:
        found = read_found(find_result(place, subject, eval="autointerp"))
    d_sae = SubjectFacts.read(subject).d_sae
    wrong = [latent for latent in sorted(found.explanations) if latent >= d_sae]
    if wrong:
        raise InputError(
            f"{str(place)!r} explains latents {wrong[:MOST_NAMED]}, but SAE {subject.sae_id!r} has "
            f"{d_sae}; expected ids below {d_sae}. Give the explanations of this SAE."
        )
    return found


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
    Return an explanation's score: upstream's where a judge scored, else the checked score.

    Scores of token explanations and of language models are not comparable.
    """
    if explanation.score is not None:
        return explanation.score
    return explanation.checked_score


@dataclass(frozen=True)
class Chosen:
    """Candidates and how they were chosen."""

    candidates: Candidates
    pool: list[int]
    """Latents that are alive."""
    separating: list[ChosenLatent] = field(default_factory=list[ChosenLatent])
    """The candidates with their figures, if they were chosen by contrast."""
    sets: TextSets | None = None
    """The texts of the contrast."""


def separating_latents(
    a: Array, b: Array, pool: Sequence[int], n: int, *, seed: int
) -> list[ChosenLatent]:
    """
    Return at most ``n`` latents of a pool that are larger on ``a`` than on ``b``, best first.

    Raises:
        InputError: if none is, or there are too few texts (``separate``).
    """
    columns = list(pool)
    found = separate(
        a[:, columns], b[:, columns], n=n, sides="first", permutations=0, seed=seed
    )
    if not found.latents:
        raise InputError(
            "No latent is larger on the first texts of 'contrast' than on the second; expected "
            "one or more. Give other texts, or another choice of latents."
        )
    return [replace(one, latent=columns[one.latent]) for one in found.latents]


def choose(
    subject: Subject,
    sae: SAE[Any],
    config: SteeringEvalConfig,
    stability: Mapping[int, float],
    models: Models,
) -> Chosen:
    """Choose latents as the settings say; raises InputError if there are none."""
    pool = alive_pool(sae.W_enc, sae.W_dec, threshold=config.alive_threshold)
    if config.latents is not None:
        named = given(config.latents, d_sae=int(sae.W_dec.shape[0]))
        return Chosen(named, pool)
    if config.select == "contrast":
        assert config.contrast is not None
        sets = TextSets.read(config.contrast)
        model = models.get(sae)
        a, b = (mean_activations(model, sae, texts) for texts in (sets.a, sets.b))
        best = separating_latents(a, b, pool, config.n_latents, seed=config.random_seed)
        ids = tuple(one.latent for one in best)
        return Chosen(Candidates(ids, len(pool)), pool, best, sets)
    of_choice = pool
    if config.select == "stable":
        of_choice = stable_pool(pool, stability, minimum=config.stable_minimum)
    elif config.select == "explained":
        assert config.explanations is not None
        found = given_explanations(Path(config.explanations), subject)
        of_choice = sorted(found.explanations)
    drawn = draw(of_choice, config.n_latents, seed=config.random_seed)
    return Chosen(drawn, pool)
