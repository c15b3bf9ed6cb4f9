"""JSON schemas of result files, strict about our own fields."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

# What the SAE's configuration and the unstructured part hold is not ours to list.
_FREE = frozenset({"sae_cfg_dict", "eval_result_unstructured"})


def schema_text(cls: type[Any]) -> str:
    """
    Return the text of an output class's schema file.

    Upstream's classes take any further key and any ``eval_type_id``; here a key that no
    class declares, or another evaluation's id, is an error.
    """
    schema = TypeAdapter(cls).json_schema()
    _close(schema)
    for definition in schema.get("$defs", {}).values():
        _close(definition)
    eval_type = schema["properties"]["eval_type_id"]
    eval_type["const"] = eval_type["default"]
    return json.dumps(schema, indent=2) + "\n"


def _close(definition: dict[str, Any]) -> None:
    """Allow no key in an object but those it declares."""
    if "properties" not in definition:
        return
    definition["additionalProperties"] = False
    for name in _FREE & set(definition["properties"]):
        definition["properties"][name].pop("additionalProperties", None)
