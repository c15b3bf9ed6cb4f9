"""The commands of README and docs: each one is parsed, and run unless its page says why not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from eval_recipes.cli import app
from eval_recipes.registry import load_evaluation
from eval_recipes.running.options import read_options
from saereg_plugin.__main__ import _parse_cfg_args
from tests.docs_run.blocks import ROOT, Block, blocks, shell_blocks
from tests.docs_run.conftest import run_words
from tests.docs_run.small import evaluations_of, smaller_file, smaller_words

SHELL = shell_blocks()
RUN = [block for block in SHELL if block.reason is None]


def _cases() -> list[Any]:
    """Return the blocks to run; those that train or evaluate are slow."""
    return [
        pytest.param(
            block,
            id=block.name,
            marks=[pytest.mark.slow]
            if _words_of("run", block) or _words_of("train", block)
            else [],
        )
        for block in RUN
    ]


def _words_of(command: str, block: Block) -> list[list[str]]:
    """Return the calls of one command in a block."""
    return [words for words in block.commands() if words[1:2] == [command]]


def test_there_are_commands_to_parse_and_to_run() -> None:
    assert len(SHELL) > 70
    assert len(RUN) > 35


def _parsed(words: list[str]) -> str:
    """Parse the words as the command line does; return the path of the command."""
    command, context, rest = get_command(app), None, words
    while True:
        name = words[0] if context is None else command.name
        context = command.make_context(name, list(rest), parent=context)
        if not isinstance(command, TyperGroup):
            return context.command_path
        _, command, rest = command.resolve_command(
            context, [*context._protected_args, *context.args]
        )
        assert command is not None


PROGRAMS = (
    *("saereg-bench", "pip", "python", "pytest", "ruff", "mkdocs", "basedpyright"),
    *("export", "pre-commit"),
)
LANGUAGES = {"bash", "diff", "json", "python", "text", "toml", "yaml"}


def test_every_block_says_what_it_is() -> None:
    """A command without a language would be shown, and never run."""
    assert {b.name: b.language for b in blocks() if b.language not in LANGUAGES} == {}
    for block in blocks():
        first = block.text.split()[0]
        assert block.language != "text" or first not in (
            "saereg-bench",
            "pip",
            "python",
        )


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_a_command_has_only_flags_that_exist(block: Block) -> None:
    for words in block.commands():
        if words[0] == "saereg-bench":
            _parsed(words[1:])
        elif words[:3] == ["python", "-m", "saereg_plugin"]:
            _parse_cfg_args([word for word in words[3:] if word != "..."])
        elif words[:2] == ["pip", "install"]:
            _check_extras(words)


def _check_extras(words: list[str]) -> None:
    """Compare the extras of a ``pip install`` of this package with pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) *=", table, flags=re.MULTILINE))
    for word in words:
        if found := re.fullmatch(r"(?:\.|saereg-plugin)\[([\w,-]+)\]", word):
            assert set(found[1].split(",")) <= extras, word


@pytest.mark.parametrize(
    "block",
    [block for block in blocks() if block.reason is not None],
    ids=lambda block: block.name,
)
def test_a_block_that_is_not_run_has_a_reason(block: Block) -> None:
    assert block.reason is not None
    assert len(block.reason.split()) >= 3, block.name
    assert block.language == "python" or block in SHELL, "not a block that is run"


@pytest.mark.parametrize(
    "block",
    [block for block in SHELL if _words_of("run", block)],
    ids=lambda block: block.name,
)
def test_a_run_has_only_options_that_exist(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_files(block.page, tmp_path, tmp_path)
    for words in _words_of("run", block):
        names = evaluations_of(words)
        flags = zip(words, words[1:])
        given = [value for flag, value in flags if flag in ("--option", "--options")]
        # a file before single options, which win
        given.sort(key=lambda value: not value.endswith(".yaml"))
        for name, options in read_options(given, names).items():
            load_evaluation(name).Options(**options)


@pytest.mark.parametrize("block", _cases())
def test_a_command_runs(
    block: Block,
    workplace: Callable[[], Path],
    small_model: Path,
) -> None:
    folder = workplace()
    _write_files(block.page, folder, small_model)
    _remove_trained(block, folder)
    for words in block.commands():
        assert words[0] == "saereg-bench", f"{words[0]}: give a reason not to run it"
        run_words(smaller_words(words, small_model))


def _write_files(page: str, folder: Path, model: Path) -> None:
    """Write the files that the docs show with their names, those of the page last."""
    titled = [block for block in blocks() if block.title is not None]
    for block in sorted(titled, key=lambda block: block.page == page):
        text = smaller_file(block.language, block.text, model)
        (folder / str(block.title)).write_text(text, encoding="utf-8")
    for name, word in (("polite.txt", "please"), ("rude.txt", "now")):
        lines = [f"Send me letter {number} {word}." for number in range(200)]
        (folder / name).write_text("\n".join(lines), encoding="utf-8")


def _remove_trained(block: Block, folder: Path) -> None:
    """Remove what the block trains, so that the training begins anew."""
    for words in _words_of("train", block):
        if "--out" in words:
            shutil.rmtree(folder / words[words.index("--out") + 1], ignore_errors=True)
