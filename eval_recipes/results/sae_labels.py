"""Architecture and penalty of an SAE, read from its configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from saereg_plugin.registry import REGULARIZERS, acts

_PREFIX = "regularized_"
# Spellings of SAEBench's and dictionary_learning's files, and SAELens' own.
_SAME = {
    "batch_topk": "batchtopk",
    "batchtopktrainer": "batchtopk",
    "batchtopksae": "batchtopk",
    "matryoshka_batch_topk": "matryoshka_batchtopk",
    "matryoshkabatchtopktrainer": "matryoshka_batchtopk",
    "standardtrainer": "standard",
    "standardtraineraprilupdate": "standard",
    "standard_april_update": "standard",
    "trainertopk": "topk",
    "topktrainer": "topk",
    "jumprelutrainer": "jumprelu",
    "gatedsaetrainer": "gated",
    "panneal": "p_anneal",
    "pannealtrainer": "p_anneal",
}
_NOT_SHOWN = {"name", "label", "coefficient", "norm"}


def architecture(cfg: Any) -> str | None:
    """
    Return the architecture an SAE was trained as, or None if its configuration does not say.

    A BatchTopK SAE is saved as a JumpReLU SAE: its metadata name the trained architecture.
    Files of older versions name it elsewhere.

    >>> architecture({"architecture": "jumprelu",
    ...               "metadata": {"training_architecture": "regularized_batchtopk"}})
    'batchtopk'
    """
    if not isinstance(cfg, Mapping):
        return None
    candidates = (
        _mapping(cfg, "metadata").get("training_architecture"),
        cfg.get("architecture_str"),
        cfg.get("architecture"),
        _mapping(cfg, "trainer").get("trainer_class"),
        cfg.get("trainer_class"),
        cfg.get("activation_fn_str"),
    )
    for name in candidates:
        # upstream writes a method as "<bound method ...>"
        if isinstance(name, str) and name and not name.startswith("<"):
            name = name.removeprefix(_PREFIX)
            return _SAME.get(name.lower(), name)
    return None


def penalty(cfg: Any) -> str | None:
    """
    Return an SAE's regularisers in few words, "none" if it had none, None if unknown.

    Values at their defaults are left out.

    >>> penalty({"metadata": {"training_architecture_details": {"regularizers": [
    ...     {"name": "weight_penalty", "norm": "l2", "coefficient": 0.006, "target": "both"}]}}})
    'l2 0.006'
    """
    if not isinstance(cfg, Mapping):
        return None
    metadata = _mapping(cfg, "metadata")
    details = metadata.get("training_architecture_details")
    given = details.get("regularizers") if isinstance(details, Mapping) else None
    if given is None:
        given = cfg.get("regularizers")
    if given is None:
        return "none" if metadata.get("training_architecture") else None
    if not isinstance(given, (list, tuple)) or not all(map(_is_regularizer, given)):
        return None
    parts = [_regularizer(item) for item in given if acts(item)]
    return " + ".join(parts) or "none"


def _is_regularizer(item: Any) -> bool:
    """Return whether a configuration's entry can be read as a regulariser."""
    if not isinstance(item, Mapping):
        # it is no penalty, and says so to ``acts``
        return True
    coefficient = item.get("coefficient")
    return coefficient is None or (
        isinstance(coefficient, (int, float)) and abs(coefficient) < 1e300
    )


def _mapping(cfg: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a nested mapping; an empty one if there is none."""
    found = cfg.get(name)
    return found if isinstance(found, Mapping) else {}


def _regularizer(item: Mapping[str, Any]) -> str:
    name = str(item.get("norm") or item.get("name"))
    words = [name, f"{float(item.get('coefficient') or 0):g}"]
    cls = REGULARIZERS.get(str(item.get("name")))
    defaults = _defaults(cls) if cls is not None else {}
    for key, value in item.items():
        if key not in _NOT_SHOWN and key in defaults and value != defaults[key]:
            # a schedule is a table of its own; that there is one must suffice here
            words.append(key if isinstance(value, Mapping) else f"{key}={value}")
    return " ".join(words)


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Return the defaults of a regulariser's fields as a saved configuration has them."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if value is not dataclasses.MISSING:
            nested = getattr(value, "__dataclass_fields__", None) is not None
            found[field.name] = dataclasses.asdict(value) if nested else value
    return found
