"""Titles and meanings of metrics, from the JSON schemas of the results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from eval_recipes.registry import RECIPES, load_evaluation

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Meaning:
    """A metric in words: its title, one sentence, and whether it is a headline."""

    title: str
    sentence: str
    category: str
    shown: bool


@cache
def meanings(eval_type: str) -> Mapping[str, Meaning]:
    """Return the meaning of every metric of an evaluation, by ``category/name``."""
    found: dict[str, Meaning] = {}
    for schema in _schemas(eval_type):
        definitions = schema.get("$defs", {})
        categories = _resolved(schema["properties"]["eval_result_metrics"], definitions)
        for category, about in categories.get("properties", {}).items():
            metrics = _resolved(about, definitions).get("properties", {})
            for name, metric in metrics.items():
                found[f"{category}/{name}"] = Meaning(
                    title=str(metric.get("title") or name),
                    sentence=_sentence(str(metric.get("description") or "")),
                    category=_sentence(str(about.get("description") or "")),
                    shown=bool(metric.get("ui_default_display")),
                )
    return found


def meaning(eval_type: str, metric: str) -> Meaning:
    """Return the meaning of one metric; its own name where it is not known."""
    name = metric.rsplit("/", 1)[-1]
    return meanings(eval_type).get(metric) or Meaning(name, "", "", False)


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text.endswith((".", "?")) else f"{text}."


def _resolved(about: Mapping[str, Any], definitions: Mapping[str, Any]) -> Any:
    """Return the definition that a field of a schema refers to."""
    reference = about.get("$ref") or next(
        (item["$ref"] for item in about.get("allOf", ()) if "$ref" in item), None
    )
    if reference is None:
        return about
    return definitions[reference.rsplit("/", 1)[-1]]


def _schemas(eval_type: str) -> Iterator[Mapping[str, Any]]:
    """Yield the stored schemas of an evaluation, or that of a user's own."""
    stored = list(_stored().get(eval_type, ()))
    yield from stored
    if not stored and eval_type in RECIPES:
        for output in load_evaluation(eval_type).outputs().values():
            yield TypeAdapter(output).json_schema()


@cache
def _stored() -> Mapping[str, list[Mapping[str, Any]]]:
    """Return the schemas that are stored next to the evaluations, by ``eval_type_id``."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in sorted(_PACKAGE.rglob("eval_output_schema_*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        name = schema["properties"]["eval_type_id"].get("const")
        found.setdefault(name, []).append(schema)
    return found
