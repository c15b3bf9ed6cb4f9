"""Latents of each SAE as the report page embeds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from eval_recipes.report.latents.cards import card
from eval_recipes.report.latents.inputs import LatentInputs
from eval_recipes.report.latents.reader import read_inputs
from eval_recipes.report.latents.sample import sample
from eval_recipes.report.source import Source


@dataclass(frozen=True)
class SAEPayload:
    """
    One SAE's latents for the script of the page.

    Attributes:
        sae_id: label of the SAE on the page.
        group: group as the page names it.
        seed: seed, if it is known.
        data: plain JSON, the same for the same results. ``columns`` has a list for every scalar
            with an entry for each latent; ``cards`` has what is shown of the sampled latents,
            by latent; ``others`` names the other seeds, in the order of ``matches`` in a card;
            ``about`` has settings, and ``missing`` a sentence for every part without results.
    """

    sae_id: str
    group: str
    seed: int | None
    data: dict[str, Any]


def latents_of(source: Source, *, per_sae: int) -> list[SAEPayload]:
    """
    Return the latents of every SAE with a result about single latents.

    Args:
        source: results of the page.
        per_sae: largest number of latents of an SAE that are shown with examples and texts.
    """
    known = {one.label: one for one in read_inputs(source)}
    shown = sample(known, per_sae)
    return [_payload(one, shown[label]) for label, one in known.items()]


def _payload(one: LatentInputs, shown: list[int]) -> SAEPayload:
    data = {
        "latents": one.size,
        "columns": one.columns(),
        "others": [
            {"seed": other.seed, "id": other.sae_id, "sae": other.label}
            for other in one.others
        ],
        "cards": {str(latent): card(one, latent) for latent in sorted(shown)},
        "left_out": len(set(one.described) - set(shown)),
        "about": one.about(),
        "missing": one.missing,
    }
    return SAEPayload(one.label, one.sae.group, one.sae.seed, data)
