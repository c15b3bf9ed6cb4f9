"""YAML documents of bounded size, without repeated keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from saereg_plugin.errors import InputError, suggest_path
from saereg_plugin.files import read_regular

MAX_BYTES = 1 << 24
MAX_NODES = 1_000_000
"""Most values in one document, with aliases expanded."""
MAX_DEPTH = 100


class _Loader(yaml.SafeLoader):
    """Reads ``1e-5`` as a number; YAML 1.1 alone reads it as text."""


class _Dumper(yaml.SafeDumper):
    """Writes text such as ``1e-5`` in quotes, so that ``_Loader`` reads it as text."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def dump_yaml(value: Any) -> str:
    """Return a value as YAML, its keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> Any:
    """
    Read a YAML file.

    Raises:
        InputError: if it cannot be read, is no YAML, repeats a key, or is too large.
    """
    remedy = suggest_path(path) or "Give a text file in YAML."
    content = read_regular(path, remedy=remedy, max_bytes=MAX_BYTES)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"File {str(path)!r} is no YAML: it is not UTF-8 text ({error.reason} at byte "
            f"{error.start}). Save it as UTF-8 text."
        ) from error
    return load_yaml(text, source=f"File {str(path)!r}")


def load_yaml(text: str, *, source: str) -> Any:
    """
    Return the value of one YAML document; tags that make objects are refused.

    Args:
        text: the document.
        source: begins messages.

    Raises:
        InputError: if it is no YAML, repeats a key in a mapping, is nested over
            ``MAX_DEPTH`` deep, or has over ``MAX_NODES`` values with aliases expanded.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, source, {}, 0)
        return loader.construct_document(node)
    except RecursionError as error:
        raise InputError(
            f"{source} is nested too deeply; expected at most {MAX_DEPTH} levels. Nest it less."
        ) from error
    # PyYAML does not catch errors of numbers and dates that it cannot convert
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{source} is no YAML: {_one_line(error)}. Correct it there, or restore the file."
        ) from error


def _check(node: yaml.Node, source: str, sizes: dict[int, int], depth: int) -> int:
    """Return the number of values in a node; ``sizes`` has the numbers of earlier nodes."""
    if depth > MAX_DEPTH:
        raise InputError(
            f"{source} is nested too deeply; expected at most {MAX_DEPTH} levels. Nest it less."
        )
    known = sizes.get(id(node))
    if known == 0:
        raise InputError(
            f"{source}, line {_line(node)}: a value contains itself. Write it out."
        )
    if known is not None:
        return known
    sizes[id(node)] = 0
    size = 1 + sum(_check(child, source, sizes, depth + 1) for child in _children(node))
    if size > MAX_NODES:
        raise InputError(
            f"{source} stands for over {MAX_NODES:,} values once its aliases are followed; "
            "expected fewer. Write the values out instead of repeating aliases of aliases."
        )
    if isinstance(node, yaml.MappingNode):
        _refuse_repeated_keys(node, source)
    sizes[id(node)] = size
    return size


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [item for pair in node.value for item in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _refuse_repeated_keys(node: yaml.MappingNode, source: str) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            raise InputError(
                f"{source}, line {_line(key)}: the key {key.value!r} occurs twice; expected each "
                "key once. Remove one of them."
            )
        seen.add((key.tag, key.value))


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
