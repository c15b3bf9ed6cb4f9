"""The report page as a browser reads it: elements, tables, embedded data."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    parent: Element | None
    children: list[Element] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def all(self, tag: str) -> list[Element]:
        found = [self] if self.tag == tag else []
        return found + [one for child in self.children for one in child.all(tag)]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.here = Element("root", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Element(tag, {k: v or "" for k, v in attrs}, self.here)
        self.here.children.append(made)
        if tag not in VOID:
            self.here = made

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, (self.here.tag, tag)
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        one: Element | None = self.here
        while one is not None:
            one.parts.append(data)
            one = one.parent


class Page:
    def __init__(self, path: Path) -> None:
        parser = _Parser()
        parser.feed(path.read_text(encoding="utf-8"))
        assert parser.here is parser.root, "an element is not closed"
        self.root = parser.root

    def id(self, name: str) -> Element:
        (found,) = (e for e in self.every() if e.attributes.get("id") == name)
        return found

    def every(self) -> list[Element]:
        todo, found = [self.root], []
        while todo:
            one = todo.pop()
            found.append(one)
            todo += one.children
        return found

    def rows(self, name: str) -> list[dict[str, Element]]:
        """Cells of a table without spanned cells, by the head of their column."""
        table = self.id(name)
        heads = [head.text.strip() for head in table.all("thead")[0].all("th")]
        return [
            dict(zip(heads, row.children, strict=True))
            for row in table.all("tbody")[0].all("tr")
        ]

    @property
    def facts(self) -> dict[str, Any]:
        return json.loads(self.id("facts").text)

    @property
    def alerts(self) -> list[str]:
        return [
            " ".join(one.text.split())
            for one in self.root.all("li")
            if "alert" in one.attributes.get("class", "")
        ]


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))
