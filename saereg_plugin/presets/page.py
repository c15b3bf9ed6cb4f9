"""Parts of docs/presets.md that are generated from the presets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from saereg_plugin.errors import InputError
from saereg_plugin.presets import PRESETS
from saereg_plugin.presets.base import Preset


def write_page(path: Path) -> None:
    """Update the generated parts of the page at ``path``."""
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")


def updated(text: str) -> str:
    """
    Return the page's ``text`` with its generated parts as the code gives them now.

    Raises:
        InputError: if the lines that enclose a generated part are missing.
    """
    presets = [make() for make in PRESETS.values()]
    for name, lines in (
        ("overview", _overview(presets)),
        ("choices", _choices(presets)),
    ):
        begin, end = f"<!-- generated: {name} -->", f"<!-- end: {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise InputError(
                f"The page of presets lacks a generated part; expected the lines {begin!r} and "
                f"{end!r}. Put them where it belongs."
            )
        text = before + "\n".join([begin, "", *lines, "", end]) + after
    return text


def _overview(presets: Iterable[Preset]) -> Iterator[str]:
    """Yield the table of presets."""
    yield "| preset | paper | architecture | d_in, d_sae | model and hook | samples |"
    yield "|---|---|---|---|---|---|"
    for preset in presets:
        paper = f"arXiv {preset.paper}" if preset.paper[0].isdigit() else preset.paper
        run = preset.run
        model = f"{run.model}, `{run.hook_name}`" if run.model else "none"
        yield (
            f"| `{preset.name}` | {paper} | {preset.architecture} "
            f"| {preset.d_in:,}, {preset.d_sae:,} | {model} | {run.tokens:,} |"
        )


def _choices(presets: Iterable[Preset]) -> Iterator[str]:
    """Yield a section per preset: the stated fields, and the chosen ones by reason."""
    for preset in presets:
        yield from (f"### {preset.name}", "")
        values = preset.settings()
        yield f"- Stated: {_listed(preset.stated, values)}."
        by_reason: dict[str, list[str]] = {}
        for field, reason in preset.chosen.items():
            by_reason.setdefault(reason, []).append(field)
        for reason, fields in by_reason.items():
            yield f"- {_listed(fields, values)}: {reason}."
        yield ""


def _listed(fields: Iterable[str], values: Mapping[str, Any]) -> str:
    """Return fields with their values, but for values that are lists or mappings."""
    shown: list[str] = []
    for field in fields:
        value = values[field]
        if isinstance(value, float):
            value = f"{value:.6g}"
        several = isinstance(value, list | tuple | dict)
        shown.append(f"`{field}`" if several else f"`{field}={value}`")
    return ", ".join(shown)
