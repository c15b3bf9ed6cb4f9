"""Features as Neuronpedia's REST interface takes them, and its limits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eval_recipes.examples.reader import TOP, Example, LatentExamples
from eval_recipes.neuronpedia.source import Source
from saereg_plugin.errors import InputError

MOST_FEATURES = 128
"""Features of one request."""
LARGEST_INDEX = 10_000_000
MOST_TOKENS = 1024
MOST_LOGITS = 20
LONGEST_EXPLANATION = 512
LONGEST_DESCRIPTION = 128
LARGEST_QUANTILE = 99_999_999
EMPTY = "∅"
"""Shown for a token without text, which Neuronpedia refuses."""
_DIGITS = 6
_BAND = re.compile(r"(?P<low>\d+)-(?P<high>\d+) %")


def feature(source: Source, latent: LatentExamples) -> dict[str, Any]:
    """
    Return a latent as one entry of ``features`` of ``/api/feature/upload-batch``.

    Raises:
        InputError: if it is over a limit of Neuronpedia's.
    """
    text = explanation_text(source, latent.latent)
    made = {
        "index": latent.latent,
        "density": latent.density,
        "activations": [_activation(latent, one) for one in latent.examples],
        # Neuronpedia takes only the methods and models that it knows
        "explanations": [{"text": text}] if text else [],
        "topLogits": logits(latent.top_logits),
        "bottomLogits": logits(latent.bottom_logits),
    }
    for fault in faults(made):
        raise InputError(
            f"Latent {latent.latent} of SAE {source.entry.sae_id!r} cannot be on Neuronpedia: "
            f"{fault}. Run the evaluation 'examples' with other settings, or leave the SAE out."
        )
    return made


def explanation_text(source: Source, index: int) -> str:
    """
    Return an explanation with the latent's stability, in 512 characters.

    Neuronpedia has no field for stability. Of a text that is too long the explanation is cut
    first.
    """
    known = source.explanations.get(index)
    text = "" if known is None else visible(" ".join(known.text.split()))
    note = source.stability_note(index)
    if not text or not note:
        return _cut(text or note, LONGEST_EXPLANATION)
    note = _cut(f" [{note}]", LONGEST_EXPLANATION // 2)
    return _cut(text, LONGEST_EXPLANATION - units(note)) + note


def _cut(text: str, length: int) -> str:
    """Return the beginning of a text that is longer than a length in ``units``."""
    if units(text) <= length:
        return text
    kept = text[: length - 1]
    while units(kept) > length - 1:
        kept = kept[:-1]
    return f"{kept}…"


def units(text: str) -> int:
    """
    Return the length of a text as JavaScript counts it, in UTF-16.

    >>> units("a😀")
    3
    """
    return len(text.encode("utf-16-le")) // 2


def visible(text: str) -> str:
    """
    Return text that Neuronpedia can store: never empty, no NUL, no half of a surrogate pair.

    >>> visible(""), visible("a\\x00"), visible(" b")
    ('∅', 'a␀', ' b')
    """
    stored = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "␀")
    return stored or EMPTY


def logits(found: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    """Return tokens and the logits that a latent adds to them, at most 20."""
    return [
        {"token": visible(token), "value": significant(value)}
        for token, value in found[:MOST_LOGITS]
    ]


def significant(values: Any, digits: int = _DIGITS) -> Any:
    """
    Return an array of numbers as lists, rounded to significant digits.

    >>> significant(np.array([0.0, 123456789.0, 0.00012345678], np.float32))
    [0.0, 123457000.0, 0.000123457]
    """
    wide = np.asarray(values, np.float64)
    size = np.floor(np.log10(np.abs(wide), where=wide != 0, out=np.zeros_like(wide)))
    scale = 10.0 ** (digits - 1 - size)
    return (np.round(wide * scale) / scale).tolist()


def quantile(latent: LatentExamples, band: str) -> tuple[float, float, float] | None:
    """
    Return lowest and highest activation of a band and its share of the active tokens.

    The bounds are read off the latent's histogram. None for the top examples.
    """
    found = _BAND.fullmatch(band)
    if band == TOP or found is None:
        return None
    low, high = int(found["low"]) / 100, int(found["high"]) / 100
    bounds = [_at_share(latent, share) for share in (low, high)]
    return bounds[0], bounds[1], high - low


def _at_share(latent: LatentExamples, share: float) -> float:
    """Return the activation below which a share of the active tokens is."""
    left = share * sum(latent.histogram_counts)
    edges = latent.histogram_edges
    for low, high, count in zip(edges, edges[1:], latent.histogram_counts):
        if count and left <= count:
            return low + (high - low) * left / count
        left -= count
    return edges[-1]


def _activation(latent: LatentExamples, example: Example) -> dict[str, Any]:
    made: dict[str, Any] = {
        "tokens": [visible(token) for token in example.tokens],
        "values": significant(example.values),
    }
    bounds = quantile(latent, example.band)
    if bounds is not None:
        names = ("quantileMin", "quantileMax", "quantileFraction")
        made |= dict(zip(names, bounds, strict=True))
    return made


def faults(made: Mapping[str, Any]) -> Iterator[str]:
    """
    Yield words on each limit that a feature is over.

    Logits, explanations and tokens are made within theirs.
    """
    if not 0 <= made["index"] <= LARGEST_INDEX:
        yield f"its index is above {LARGEST_INDEX:,}"
    if not 0 <= made["density"] <= 1:
        yield f"its density is {made['density']}"
    if not made["activations"]:
        yield "it has no example"
    for one in made["activations"]:
        yield from _activation_faults(one)
    for name in ("topLogits", "bottomLogits"):
        if not all(math.isfinite(one["value"]) for one in made[name]):
            yield f"a value of its {name} is not finite"


def _activation_faults(one: Mapping[str, Any]) -> Iterator[str]:
    tokens, values = one["tokens"], one["values"]
    if len(tokens) != len(values):
        yield f"an example has {len(tokens)} tokens and {len(values)} values"
    if not 1 <= len(tokens) <= MOST_TOKENS:
        yield f"an example has {len(tokens)} tokens, and {MOST_TOKENS} are the most"
    if not all(map(math.isfinite, values)):
        yield "an activation is not finite"
    if one.get("quantileMax", 0) > LARGEST_QUANTILE:
        yield f"an activation is above {LARGEST_QUANTILE:,}"


def to_json(value: Any) -> str:
    """Return strict JSON in one line; raises ValueError for a number that is not finite."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
