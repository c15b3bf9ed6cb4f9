"""Sweeps from flags, alone or on top of a file or preset."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saereg_plugin.config import (
    ComponentConfig,
    MechanicConfig,
    RegularizerConfig,
    config_from,
)
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.presets import PRESETS
from saereg_plugin.registry import MECHANICS, REGULARIZERS, Table, acts
from saereg_plugin.sweeps.config import SweepConfig, group_fields, sweep_from
from saereg_plugin.sweeps.source import source_fields, with_source
from saereg_plugin.yaml_text import read_yaml

PLAIN = "none"
"""Group without regularisers, and how a flag asks for it."""

_RUN = {
    **{name: name for name in ("model", "corpus", "tokens", "batch_size", "lr")},
    **{name: name for name in ("llm_dtype", "autocast", "device", "log_every")},
    "seed": "seeds",
}
"""Fields of SweepConfig by the name of their flag."""
_EXAMPLE = '{"name": "weight_penalty", "coefficient": 0.005}'
_SEVERAL: dict[type[ComponentConfig], str] = {
    RegularizerConfig: "Several values of a field are several groups: repeat --regularizer. ",
    MechanicConfig: "",
}
_LONGEST = 60
"""Longest part of a group's name that is made of a regulariser's fields."""


def sweep_from_flags(
    flags: Mapping[str, Any],
    given: Collection[str],
    *,
    config: Path | None = None,
    preset: str | None = None,
) -> SweepConfig:
    """
    Return the sweep that flags describe; a flag wins over a file's or a preset's field.

    Args:
        flags: values by the flags' names, defaults included; None counts as not given.
            ``architecture``, ``k``, ``seed``, ``coefficient``, ``regularizer`` and
            ``mechanic`` are lists.
        given: names of the flags that the user gave. The others hold only if there is
            neither a file nor a preset.
        config: YAML file with the fields of SweepConfig.
        preset: name of a preset, see ``saereg_plugin.presets``.

    Raises:
        InputError: if flags exclude one another, or a name, value or file cannot be used.
    """
    _require_compatible(given, config, preset)
    source = "the flags"
    if config is not None:
        fields, source = read_yaml(config), str(config)
        if not isinstance(fields, Mapping):
            return sweep_from(fields, source=source)
    elif preset is not None:
        fields, given = _preset_fields(preset, flags, given)
    else:
        fields = {"sae": {"normalize_activations": "expected_average_only_in"}}
        left_out = {"d_sae"} if "expansion" in given else set[str]()
        given = set(flags) - left_out
    # in the order of the flags, which is that of the fields
    used = {n: flags[n] for n in flags if n in given and flags[n] is not None}
    parts = _copied(fields, source)
    _set_run(parts, used)
    parts |= source_fields(used, fields.get("source"))
    _set_sae(parts, used)
    _set_components(parts, used, alone=config is None and preset is None)
    # what neither the file nor a flag has
    left = {name: part for name, part in parts.items() if part != {} or name in fields}
    return sweep_from(left, source=source)


def is_regularized(sweep: SweepConfig) -> bool:
    """Return whether a regulariser acts in any group; what is no list is refused elsewhere."""
    given = [
        fields.get("regularizers") or [] for fields in group_fields(sweep).values()
    ]
    return any(
        not isinstance(each, list | tuple) or any(map(acts, each)) for each in given
    )


def _require_compatible(
    given: Collection[str], config: Path | None, preset: str | None
) -> None:
    if config is not None and preset is not None:
        raise InputError(
            "--config and --preset exclude one another; write the preset's fields into the file."
        )
    if {"d_sae", "expansion"} <= set(given):
        raise InputError(
            "--d-sae and --expansion exclude one another; give the latents, or their number "
            "per dimension of the activations."
        )
    if "norm" in given and "coefficient" not in given:
        raise InputError(
            "--norm is that of the weight penalty, which has no coefficient; add for example "
            "--coefficient 0.005."
        )


def _preset_fields(
    name: str, flags: Mapping[str, Any], given: Collection[str]
) -> tuple[dict[str, Any], set[str]]:
    """Return a preset's fields for the wanted hook and width, and the flags that hold."""
    if name not in PRESETS:
        raise InputError(f"Unknown preset {name!r}. {suggest(name, PRESETS)}")
    preset = PRESETS[name]()
    # a paper without a language model leaves these to the flags' defaults
    stated = dataclasses.asdict(preset.run)
    used = {*given, *(n for n in ("model", "corpus") if stated[n] is None)}
    where = {n: flags[n] for n in ("model", "corpus") if n in used}
    where |= source_fields({n: flags[n] for n in given if flags[n] is not None})
    if stated["hook_name"] is None:
        where.setdefault("hook_name", SweepConfig.hook_name)
    d_in = _width({**stated, **where})
    d_sae = flags["d_sae"] if "d_sae" in given else None
    if "expansion" in given:
        d_sae = flags["expansion"] * d_in
    fields = preset.sweep_fields(d_in=d_in, d_sae=d_sae, groups={name: {}}, **where)
    return fields, used


def _copied(fields: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the fields with ``sae``, ``groups`` and ``grid`` as new dictionaries."""
    copied = dict(fields)
    for name in ("sae", "groups", "grid"):
        part = fields.get(name, {})
        if not isinstance(part, Mapping):
            # which raises with what is wrong
            sweep_from(fields, source=source)
        copied[name] = dict(part)
    for name, group in copied["groups"].items():
        copied["groups"][name] = dict(group) if isinstance(group, Mapping) else group
    return copied


def _set_run(fields: dict[str, Any], used: Mapping[str, Any]) -> None:
    fields |= {_RUN[name]: value for name, value in used.items() if name in _RUN}


def _set_sae(fields: dict[str, Any], used: Mapping[str, Any]) -> None:
    """Set the SAE's fields; several values of a field are a dimension of the grid."""
    values = {name: used[name] for name in ("architecture", "k") if name in used}
    if "d_sae" in used:
        values["d_sae"] = [used["d_sae"]]
    if "expansion" in used:
        values["d_sae"] = [used["expansion"] * _width(fields)]
    if "unit_norm" in used:
        values["decoder_constraint"] = ["unit_norm" if used["unit_norm"] else "none"]
    for name, several in values.items():
        _clear(fields, name)
        place = "grid" if len(several) > 1 else "sae"
        fields[place][name] = several if len(several) > 1 else several[0]


def _width(fields: Mapping[str, Any]) -> int:
    """Return d_in at the hooks that fields of SweepConfig name; refuse several widths."""
    names = ("model", "hook_name", "corpus", "source", "context_size")
    known = {n: fields[n] for n in names if fields.get(n) is not None}
    _, facts = with_source(sweep_from({**known, "sae": {}}, source="the flags"))
    first, *others = dict.fromkeys(facts.points.values())
    if others:
        raise InputError(
            f"--expansion multiplies the width of the activations, which is {first} at one hook and "
            f"{others[0]} at another. Give --d-sae, or train them one after the other."
        )
    return first


def _clear(fields: dict[str, Any], name: str) -> None:
    """Remove a field of the SAE from wherever it is set."""
    for place in (fields["sae"], fields["grid"], *fields["groups"].values()):
        if isinstance(place, dict):
            place.pop(name, None)


def _set_components(
    fields: dict[str, Any], used: Mapping[str, Any], *, alone: bool
) -> None:
    """Set the groups by their regularisers, and the mechanics of all groups."""
    groups: dict[str, Any] = {}
    chosen = [
        *_weight_penalties(used.get("norm", "l2"), used.get("coefficient") or []),
        *(
            components_from(text, RegularizerConfig, REGULARIZERS)
            for text in used.get("regularizer") or []
        ),
    ]
    for regularizers in chosen:
        name = _group_name(regularizers)
        if name in groups:
            raise InputError(
                f"The group {name!r} is asked for twice; expected different values of "
                "--coefficient and --regularizer."
            )
        groups[name] = {"regularizers": regularizers}
    if chosen or alone:
        fields["sae"].pop("regularizers", None)
        fields["groups"] = groups or {PLAIN: {"regularizers": []}}
    if "mechanic" in used:
        _clear(fields, "mechanics")
        fields["sae"]["mechanics"] = [
            mechanic
            for text in used["mechanic"]
            for mechanic in components_from(text, MechanicConfig, MECHANICS)
        ]


def _weight_penalties(
    norm: str, coefficients: Sequence[float]
) -> Iterable[list[dict[str, Any]]]:
    for value in coefficients:
        penalty = {"name": "weight_penalty", "norm": norm, "coefficient": value}
        yield [penalty] if value else []


def components_from(
    text: str, base: type[ComponentConfig], known: Table[Any]
) -> list[dict[str, Any]]:
    """
    Return the fields of the regularisers, or mechanics, that a text names.

    Args:
        text: ``name=value,field=value,...``, where the first value is that of the first field
            (a regulariser's coefficient) and may be left out, and "." leads to a field inside
            a field. "+" joins several. Or JSON: an object with ``name``, or a list of
            objects. ``none`` is no regulariser.
        base: ``RegularizerConfig`` or ``MechanicConfig``.
        known: its table.

    Raises:
        InputError: for an unknown name, field or value, or a regulariser without any weight.

    >>> components_from("off_support_l1=0.01", RegularizerConfig, REGULARIZERS)
    [{'name': 'off_support_l1', 'coefficient': 0.01}]
    """
    text = text.strip()
    if text == PLAIN:
        return []
    if text.startswith(("{", "[")):
        found = _from_json(text, base)
    else:
        # no "+" of a number such as 1e+5
        parts = re.split(r"\+(?=[A-Za-z_])", text)
        found = [_from_short(part, base, known) for part in parts]
    for each in found:
        made = config_from(each, base, known)
        if isinstance(made, RegularizerConfig):
            _require_weight(each, made)
    return found


def _from_json(text: str, base: type[ComponentConfig]) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] | dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise InputError(
            f"The {_noun(base)} {text!r} is no JSON ({error}); expected for example '{_EXAMPLE}'."
        ) from error
    return found if isinstance(found, list) else [found]


def _from_short(
    text: str, base: type[ComponentConfig], known: Table[Any]
) -> dict[str, Any]:
    """Return the fields of one regulariser or mechanic in its short form."""
    # "name:field=value" is the same as "name,field=value"
    head, *parts = re.sub(r"^([^:=,]+):", r"\1,", text).split(",")
    name, equals, value = (part.strip() for part in head.partition("="))
    if name not in known:
        raise InputError(f"Unknown {_noun(base)} {name!r}. {known.suggest(name)}")
    fields: dict[str, Any] = {"name": name}
    if equals:
        names = [field.name for field in dataclasses.fields(known[name])]
        if not names:
            raise InputError(f"{name!r} has no field; leave out '={value}'.")
        fields[names[0]] = _value(value)
    for part in parts:
        key, equals, value = (each.strip() for each in part.partition("="))
        if not equals or not key:
            raise InputError(
                f"The {_noun(base)} {text!r} has {part!r}; expected field=value. {_SEVERAL[base]}"
                f"Lists and mappings are written as JSON, for example '{_EXAMPLE}'."
            )
        _set(fields, key.split("."), _value(value))
    return fields


def _noun(base: type[ComponentConfig]) -> str:
    return "regulariser" if base is RegularizerConfig else "mechanic"


def _set(fields: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a field, or a field inside a field."""
    for name in path[:-1]:
        inner = fields.setdefault(name, {})
        fields = inner if isinstance(inner, dict) else {}
    fields[path[-1]] = value


def _value(text: str) -> Any:
    """Return a number, switch or null as JSON has it, or else the text."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        # numbers such as .5
        return float(text)
    except ValueError:
        return text


def _require_weight(fields: Mapping[str, Any], made: RegularizerConfig) -> None:
    """Refuse a regulariser that was named without any weight, which would do nothing."""
    if "coefficient" not in fields and not acts(made.to_dict()):
        raise InputError(
            f"Regulariser {made.name!r} has no coefficient and would do nothing; write for "
            f"example {made.name}=0.01, or {made.name}=0 to log its loss only."
        )


def _group_name(regularizers: Sequence[Mapping[str, Any]]) -> str:
    """Return the name of a group, from its regularisers' names and fields."""
    if not regularizers:
        return PLAIN
    name = "+".join(map(_component_name, regularizers))
    # what may be part of a file's name
    name = re.sub(r"[^\w.+-]+", "_", name)
    if len(name) <= _LONGEST:
        return name
    digest = hashlib.sha256(json.dumps(regularizers).encode()).hexdigest()
    return f"{name[:_LONGEST]}-{digest[:8]}"


def _component_name(fields: Mapping[str, Any]) -> str:
    others = {key: v for key, v in fields.items() if key not in ("name", "coefficient")}
    parts = [str(fields["name"])]
    if parts == ["weight_penalty"] and list(others) == ["norm"]:
        parts, others = [str(fields["norm"])], {}
    if "coefficient" in fields:
        parts.append(_shortest(fields["coefficient"]))
    return "-".join([*parts, *(f"{key}{value}" for key, value in others.items())])


def _shortest(value: Any) -> str:
    """
    Return a number in six digits, or in as many as tell it from others.

    >>> _shortest(5e-3), _shortest(0.0012345678)
    ('0.005', '0.0012345678')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
