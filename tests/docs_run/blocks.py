"""Fenced blocks of README and docs, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    path.relative_to(ROOT).as_posix()
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]
)

_FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\s*$")
_REASON = re.compile(r"^ *<!-- not run: *(.*?) *-->$")
_COMMENT = re.compile(r"^ *<!-- .* -->$")
_ASSIGNMENT = re.compile(r"^[A-Z_]+=")


@dataclass(frozen=True)
class Block:
    """
    A fenced block of a page.

    Attributes:
        page: path from the root of the repository.
        line: of its opening fence.
        language: what stands after the fence; "bash" is run.
        title: file name that the page gives it, or None.
        reason: why it is not run, or None.
        text: without the fences and their indentation.
    """

    page: str
    line: int
    language: str
    title: str | None
    reason: str | None
    text: str

    @property
    def name(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Return the words of each command; none if the block is no shell block."""
        if self.language != "bash":
            return []
        return [words for line in self._lines() for words in _split(line)]

    def _lines(self) -> list[str]:
        return self.text.replace("\\\n", " ").splitlines()


def _split(line: str) -> list[list[str]]:
    """Return the commands of a line, without comments, assignments and redirections."""
    found: list[list[str]] = []
    for part in line.split("&&"):
        words = shlex.split(part, comments=True)
        while words and _ASSIGNMENT.match(words[0]):
            words.pop(0)
        if ">" in words:
            words = words[: words.index(">")]
        found += [words] if words else []
    return found


@lru_cache(maxsize=1)
def blocks() -> tuple[Block, ...]:
    """Return every fenced block of README, CONTRIBUTING and docs, in order."""
    return tuple(block for page in PAGES for block in _blocks(page))


def _blocks(page: str) -> list[Block]:
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    start: tuple[int, re.Match[str]] | None = None
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if start is None:
            start = (number, fence) if fence else None
        elif line.strip() == "```":
            first, opening = start
            text = textwrap.dedent("\n".join(lines[first + 1 : number]))
            found.append(
                Block(
                    page,
                    first + 1,
                    opening[2],
                    opening[3],
                    _reason(lines[:first]),
                    text,
                )
            )
            start = None
    assert start is None, f"{page}: a block is not closed"
    return found


def _reason(before: list[str]) -> str | None:
    """Return the reason in the comments directly before a block."""
    for line in reversed(before):
        if line.strip() and not _COMMENT.match(line):
            return None
        if found := _REASON.match(line):
            return found[1]
    return None


def shell_blocks() -> list[Block]:
    """Return the blocks that are commands."""
    return [block for block in blocks() if block.commands()]


def python_pages() -> list[str]:
    """Return the pages with a Python block that is run."""
    return sorted(
        {b.page for b in blocks() if b.language == "python" and b.reason is None}
    )
