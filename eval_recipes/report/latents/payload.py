"""Latents of each SAE as the report page embeds them."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pandas as pd

from eval_recipes.examples.reader import (
    LOWEST,
    TOP,
    Example,
    InputExample,
    LatentExamples,
)
from eval_recipes.report.latents.inputs import LatentInputs, short
from eval_recipes.report.latents.reader import read_inputs
from eval_recipes.report.latents.sample import matches, sample
from eval_recipes.report.source import Source

MOST_EXAMPLES = 10
MOST_TOP = 4
"""Examples of the largest activations, where other intervals have some as well."""
MOST_MIDDLE = 3
"""Examples of the middle, and as many of the lowest, of latents on images and clips."""
MOST_BRIEF = 3
"""Examples of a latent that is shown only next to its match."""
BEFORE, AFTER = 8, 3
"""Tokens around the peak in these; the script cuts the examples next to them alike."""
MOST_PROMPTS = 3
"""Prompts of which the steered texts are shown."""

SPAN_KINDS = ("nearest", "gaussian", "random")
"""Partners whose span a latent is projected on: the nearest, and two nulls."""
SPAN_SIZES = (1, 2, 4, 8)

_COLUMNS = ("steered", "random", "unsteered")
"""Arms of steering, in the order in which their texts stand next to each other."""


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
            by latent; ``briefs`` has a few examples of latents that only their matches show;
            ``others`` names the other seeds, in the order of ``matches`` in a card;
            ``pictures`` has each image that they show once, by its number;
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
    found = matches(known, shown)
    return [
        _payload(one, shown[label], found.get(label, ()))
        for label, one in known.items()
    ]


def _payload(one: LatentInputs, shown: list[int], matched: Sequence[int]) -> SAEPayload:
    brief = sorted(set(matched) - set(shown))
    cards = {str(latent): _card(one, latent) for latent in sorted(shown)}
    briefs = {str(latent): _brief(one, latent) for latent in brief}
    data = {
        "latents": one.size,
        "columns": one.columns(),
        "others": [
            {"seed": other.seed, "id": other.sae_id, "sae": other.label}
            for other in one.others
        ],
        "cards": cards,
        "briefs": briefs,
        **_pictures(one, [*cards.values(), *briefs.values()]),
        "left_out": len(set(one.described) - set(shown)),
        "about": one.about(),
        "missing": one.missing,
    }
    return SAEPayload(one.label, one.sae.group, one.sae.seed, data)


def _pictures(
    one: LatentInputs, shown: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, str]]:
    """Return the images that cards show, as addresses of their data; {} without images."""
    inputs = {} if one.examples is None else one.examples.inputs
    numbers = {
        example["context"] for card in shown for example in card.get("examples", ())
    }
    found = {
        str(number): _address(picture)
        for number in sorted(numbers & set(inputs))
        if (picture := inputs[number].picture) is not None
    }
    return {"pictures": found} if found else {}


def _address(picture: bytes) -> str:
    kind = "png" if picture.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def _card(one: LatentInputs, latent: int) -> dict[str, Any]:
    """Return what is shown of a latent as plain JSON; parts without results are left out."""
    found: dict[str, Any] = {}
    if one.examples is not None and latent < len(one.examples):
        found |= _firing(one.examples.latent(latent))
    if latent in one.explanations:
        explained = one.explanations[latent]
        found["explanation"] = explained.text
        found["checked"] = explained.checked
        if explained.n2g is not None:
            found["n2g"] = explained.n2g
    if one.stability is not None:
        found["matches"] = _matches(one, latent)
        found |= _spans(one.stability.table.iloc[latent])
    if latent in one.steered:
        found["texts"] = _texts(one.steered[latent], one.steering["judge"])
    return found


def _brief(one: LatentInputs, latent: int) -> dict[str, Any]:
    """Return what is shown of a latent next to its match: explanation, a few tokens."""
    found: dict[str, Any] = {}
    if latent in one.explanations:
        found["explanation"] = one.explanations[latent].text
    if one.examples is not None and latent < len(one.examples):
        firing = one.examples.latent(latent)
        found["max"] = short(firing.max_activation)
        found["examples"] = [_near_peak(e) for e in firing.examples[:MOST_BRIEF]]
    return found


def _near_peak(example: Example) -> dict[str, Any]:
    """Return an example with the tokens around its peak alone; of an image or clip all rows."""
    if isinstance(example, InputExample):
        return _example(example)
    first = max(0, example.peak - BEFORE)
    near = slice(first, example.peak + AFTER + 1)
    return _example(example) | {
        "peak": example.peak - first,
        "tokens": example.tokens[near],
        "values": [_value(value) for value in example.values[near]],
    }


def _firing(latent: LatentExamples) -> dict[str, Any]:
    return {
        "active": latent.active,
        "max": short(latent.max_activation),
        "edges": [short(edge) for edge in latent.histogram_edges],
        "counts": latent.histogram_counts,
        "top": _logits(latent.top_logits),
        "bottom": _logits(latent.bottom_logits),
        "examples": [_example(example) for example in _shown(latent.examples)],
    }


def _logits(logits: Sequence[tuple[str, float]]) -> list[list[Any]]:
    return [[token, short(value)] for token, value in logits]


def _shown(examples: Sequence[Example]) -> list[Example]:
    """
    Return at most ``MOST_EXAMPLES``: the top ones, then of every band in turn.

    They stay in their order, from the largest activations down. Of images and clips they are
    top, middle and lowest ones.
    """
    if any(isinstance(example, InputExample) for example in examples):
        return list(_ends_and_middle(examples))
    bands: dict[str, list[Example]] = {}
    for example in examples:
        bands.setdefault(example.band, []).append(example)
    top = bands.pop(TOP, [])
    turns = [one for turn in zip_longest(*bands.values()) for one in turn if one]
    chosen = [*top[:MOST_TOP], *turns, *top[MOST_TOP:]][:MOST_EXAMPLES]
    ids = {id(example) for example in chosen}
    return [example for example in examples if id(example) in ids]


def _ends_and_middle(examples: Sequence[Example]) -> Iterator[Example]:
    """Yield the top examples, those of the bands around the median, and the lowest."""
    bands = list(dict.fromkeys(example.band for example in examples))
    between = [band for band in bands if band not in (TOP, LOWEST)]
    most = {TOP: MOST_TOP, LOWEST: MOST_MIDDLE}
    for band in between[(len(between) - 1) // 2 : len(between) // 2 + 1]:
        most[band] = MOST_MIDDLE - (len(between) % 2 == 0)
    for example in examples:
        left = most.get(example.band, 0)
        if left > 0:
            most[example.band] = left - 1
            yield example


def _example(example: Example) -> dict[str, Any]:
    if isinstance(example, InputExample):
        return {
            "band": example.band,
            "peak": example.peak,
            "values": [_value(value) for value in example.values],
            "context": example.context,
            "position": example.position,
            "title": example.input.title,
            "label": example.input.label,
            "seconds": short(example.seconds),
        }
    return {
        "band": example.band,
        "peak": example.peak,
        "tokens": example.tokens,
        "values": [_value(value) for value in example.values],
        "context": example.context,
        "position": example.position,
    }


def _value(value: float) -> float:
    """Return an activation in three digits; a zero as whole number, which is shorter."""
    return short(value) or 0


def _matches(one: LatentInputs, latent: int) -> list[dict[str, Any]]:
    """Return the match in each other seed: decoder, encoder as [latent, |cosine|], shared."""
    assert one.stability is not None
    row: Any = one.stability.table.iloc[latent]
    return [
        {
            "decoder": _partner(row, "decoder", other.seed),
            "encoder": _partner(row, "encoder", other.seed),
            "shared": bool(row[f"shared_{other.seed}"]),
        }
        for other in one.others
    ]


def _spans(row: Any) -> dict[str, Any]:
    """Return the share of a latent in spans of other seeds' latents, and its form by chance."""
    found: dict[str, Any] = {}
    by_size = [
        [size, *(short(row.get(f"span_{kind}_{size}")) for kind in SPAN_KINDS)]
        for size in SPAN_SIZES
    ]
    known = [shares for shares in by_size if shares[1] is not None]
    if known:
        found["spans"] = known
    chance = short(row.get("surface_form_chance"))
    return found if chance is None else {**found, "form_chance": chance}


def _partner(row: Any, side: str, seed: int) -> list[Any] | None:
    partner = row[f"{side}_partner_{seed}"]
    if pd.isna(partner):
        return None
    return [int(partner), short(row[f"{side}_similarity_{seed}"])]


def _texts(rows: Sequence[dict[str, Any]], judge: str) -> list[dict[str, Any]]:
    """Return the texts of the first prompts: the original, and one of each arm."""
    pairs: dict[tuple[int, str], dict[str, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["repeat"]):
        pairs.setdefault((row["repeat"], row["prompt"]), {})[row["arm"]] = row
    found: list[dict[str, Any]] = []
    for (_, prompt), arms in list(pairs.items())[:MOST_PROMPTS]:
        first = next(iter(arms.values()))
        original = [first["original"], short(first["original_perplexity"])]
        texts = {arm: _text(arms[arm], judge) for arm in _COLUMNS if arm in arms}
        found.append({"prompt": prompt, "original": original, **texts})
    return found


def _text(row: dict[str, Any], judge: str) -> dict[str, Any]:
    """Return one text with its perplexity, and the first judge's score and verdict."""
    success = row[f"{judge}_success"]
    return {
        "text": row["text"],
        "perplexity": short(row["perplexity"]),
        "score": short(row[f"{judge}_score"]),
        "success": None if pd.isna(success) else bool(success),
    }
