"""Choice of the latents that are shown with their examples."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest

from eval_recipes.report.latents.inputs import LatentInputs

Shown = dict[str, list[int]]
"""Latents by the label of their SAE, in the order in which they were chosen."""


def sample(known: Mapping[str, LatentInputs], n: int) -> Shown:
    """
    Choose at most ``n`` latents of each SAE; the same for the same results.

    First come latents with a score or a steered text. Half of the room that is left is for
    their matches in other seeds. The rest is drawn evenly from the levels of stability, again
    with matches, so that a card and its match can be read next to each other.
    """
    shown: Shown = {label: one.described[:n] for label, one in known.items()}
    strata = {label: _by_stratum(one) for label, one in known.items()}
    for part in (2, 1):
        found = matches(known, shown)
        for candidates in (found, strata):
            for label, latents in shown.items():
                room = (n - len(latents)) // part
                latents += _new(candidates.get(label, ()), latents, room)
    return shown


def _new(candidates: Iterable[int], shown: Iterable[int], room: int) -> list[int]:
    """Return the first ``room`` candidates that are not shown yet."""
    known = set(shown)
    return [latent for latent in candidates if latent not in known][:room]


def _by_stratum(one: LatentInputs) -> list[int]:
    """
    Return all latents, one of each level of stability in turn, from the highest level.

    Within a level the order is random by the SAE's label, with latents that fire first.
    """
    levels: dict[int, list[int]] = defaultdict(list)
    order = list(range(one.size))
    random.Random(one.label).shuffle(order)
    for latent in sorted(order, key=lambda latent: one.density[latent] == 0):
        levels[one.levels[latent]].append(latent)
    drawn = zip_longest(*(levels[level] for level in sorted(levels, reverse=True)))
    return [latent for turn in drawn for latent in turn if latent is not None]


def matches(known: Mapping[str, LatentInputs], shown: Shown) -> Shown:
    """Return the matches of shown latents, by SAE: shared ones first, then by cosine."""
    found: dict[str, dict[int, tuple[bool, float]]] = defaultdict(dict)
    for label, one in known.items():
        for other, latent, rank in _ranked(one, shown[label]):
            best = found[other].get(latent, (True, 0.0))
            found[other][latent] = min(best, rank)
    return {
        label: sorted(ranks, key=lambda latent: (ranks[latent], latent))
        for label, ranks in found.items()
        if label in known
    }


def _ranked(
    one: LatentInputs, latents: Iterable[int]
) -> Iterator[tuple[str, int, tuple[bool, float]]]:
    """Yield SAE, match and rank of each decoder match of the latents."""
    if one.stability is None:
        return
    rows = one.stability.table.iloc[list(latents)]
    for other in one.others:
        if other.label is None:
            continue
        names = ("decoder_partner", "decoder_similarity", "shared")
        columns = (rows[f"{name}_{other.seed}"].tolist() for name in names)
        for partner, similarity, shared in zip(*columns, strict=True):
            # null where the other SAE has fewer latents
            if partner is not None and partner == partner:
                yield other.label, int(partner), (not shared, -similarity)
