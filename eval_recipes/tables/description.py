"""Description of one architecture, regulariser, mechanic, preset or evaluation."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

from pydantic_core import PydanticUndefined

from eval_recipes.registry import RECIPES, UNAVAILABLE, load_evaluation
from eval_recipes.tables.listing import Description, listing_text
from saereg_plugin.errors import InputError, brief, suggest
from saereg_plugin.machine import require_extra
from saereg_plugin.presets import PRESETS
from saereg_plugin.registry import ARCHITECTURES, MECHANICS, REGULARIZERS

_ARXIV = re.compile(r"arXiv[ :]*(\d{4}\.\d{4,5})")
_PLACES = re.compile(r"\b[a-z_]\w*\.(?=\w)")
"""Modules in a type, such as "saereg_plugin.config."."""
_LITERAL = re.compile(r"Literal\[([^\]]*)\]")


def describe(name: str) -> list[Description]:
    """
    Return a description for each kind of thing that has the name.

    Raises:
        InputError: if nothing has it; names the nearest.
    """
    kinds: dict[str, tuple[Any, Callable[[str], Description]]] = {
        "Architecture": (ARCHITECTURES, _architecture),
        "Regulariser": (REGULARIZERS, _regularizer),
        "Training mechanic": (MECHANICS, _mechanic),
        "Preset": (PRESETS, _preset),
        "Evaluation": (RECIPES, _evaluation),
    }
    found = [
        dataclasses.replace(make(name), title=f"{kind} {name}")
        for kind, (table, make) in kinds.items()
        if name in table
    ]
    if found:
        return found
    if name in UNAVAILABLE:
        raise InputError(f"Evaluation {name!r} is unavailable: {UNAVAILABLE[name]}.")
    for table in (REGULARIZERS, MECHANICS, ARCHITECTURES):
        if table.left_out(name):
            raise InputError(f"{name!r} cannot be loaded. {table.suggest(name)}")
    known = [known for table, _ in kinds.values() for known in table]
    raise InputError(
        f"Nothing is called {name!r}. {suggest(name, known)} 'saereg-bench list' names everything."
    )


def descriptions_text() -> str:
    """Return the content of ``listing.DESCRIPTIONS``, from the classes."""
    listed = json.loads(listing_text())
    titles = ("Regularisers", "Training mechanics", "Presets", "Evaluations")
    names = [name for title in titles for name, _ in listed[title]]
    found = {
        name: [dataclasses.asdict(one) for one in describe(name)] for name in names
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _architecture(name: str) -> Description:
    sae, cfg = ARCHITECTURES[name]
    return _described(sae, tuple(_fields(cfg)), leave_out=("metadata",))


def _regularizer(name: str) -> Description:
    cls = REGULARIZERS[name]
    return _described(cls, tuple(_fields(cls)))


def _mechanic(name: str) -> Description:
    cls = MECHANICS[name]
    return _described(cls, tuple(_fields(cls)))


def _preset(name: str) -> Description:
    preset = PRESETS[name]()
    fields = tuple(
        (
            field,
            "",
            brief(value),
            "stated in the paper"
            if field in preset.stated
            else preset.chosen.get(field, ""),
        )
        for field, value in preset.settings().items()
    )
    found = _described(PRESETS[name], fields)
    return dataclasses.replace(found, sources=_addresses(f"arXiv {preset.paper}"))


def _evaluation(name: str) -> Description:
    require_extra("bench", f"`saereg-bench list {name}`")
    evaluation = load_evaluation(name)
    found = _described(type(evaluation), tuple(_fields(evaluation.Options)))
    return dataclasses.replace(found, text=f"{evaluation.summary}\n\n{found.text}")


def _described(
    item: Any,
    fields: tuple[tuple[str, str, str, str], ...],
    *,
    leave_out: tuple[str, ...] = (),
) -> Description:
    text = inspect.getdoc(item) or ""
    module = sys.modules[item.__module__]
    return Description(
        title="",
        text=text,
        sources=_addresses(f"{inspect.getdoc(module)} {text}"),
        file=_file(str(module.__file__)),
        fields=tuple(field for field in fields if field[0] not in leave_out),
    )


def _addresses(text: str) -> tuple[str, ...]:
    """Return the addresses of the papers that a text names by their arXiv ids."""
    return tuple(
        f"https://arxiv.org/abs/{paper}"
        for paper in dict.fromkeys(_ARXIV.findall(text))
    )


def _file(path: str) -> str:
    """Return a module's path from its package on."""
    parts = Path(path).parts
    for package in ("saereg_plugin", "eval_recipes"):
        if package in parts:
            last = len(parts) - 1 - parts[::-1].index(package)
            return "/".join(parts[last:])
    return path


def _fields(cls: Any) -> Iterator[tuple[str, str, str, str]]:
    """
    Yield name, type, default and meaning of each field of a dataclass.

    A field that is a dataclass itself gives a row for each of its own, ``schedule.anneal``.
    """
    hints = get_type_hints(cls)
    meanings = _meanings(cls)
    checked = getattr(cls, "__pydantic_fields__", {})
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _inner_fields(field, hints[field.name])
            continue
        info = checked.get(field.name)
        kind = _type_text(hints[field.name])
        told = (info and info.description) or meanings.get(field.name, "")
        yield field.name, kind, _default(field, info), " ".join(told.split())


def _inner_fields(
    field: dataclasses.Field[Any], cls: Any
) -> Iterator[tuple[str, str, str, str]]:
    """Yield the rows of a field's own fields, with the defaults that it gives them."""
    made: Any = field.default
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
    for name, kind, default, told in _fields(cls):
        given = brief(getattr(made, name)) if isinstance(made, cls) else default
        yield f"{field.name}.{name}", kind, given, told


def _type_text(hint: Any) -> str:
    """
    Return a type in few words; allowed values as they are.

    >>> from typing import Literal
    >>> _type_text(tuple[Literal["l1", "l2"], ...])
    "tuple['l1' | 'l2', ...]"
    """
    text = _PLACES.sub("", inspect.formatannotation(hint))
    return _LITERAL.sub(lambda values: values[1].replace(", ", " | "), text)


def _default(field: dataclasses.Field[Any], info: Any) -> str:
    """Return the default of a field as text; "required" where there is none."""
    if info is not None:
        value = info.get_default(call_default_factory=True)
        return "required" if value is PydanticUndefined else brief(value)
    if field.default_factory is not dataclasses.MISSING:
        return brief(field.default_factory())
    missing = field.default is dataclasses.MISSING
    return "required" if missing else brief(field.default)


def _meanings(cls: Any) -> dict[str, str]:
    """Return the docstrings below the fields of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__ == "builtins":
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for field, below in zip(body, body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = getattr(below.value, "value", None)
                if isinstance(text, str):
                    found[ast.unparse(field.target)] = text
    return found
