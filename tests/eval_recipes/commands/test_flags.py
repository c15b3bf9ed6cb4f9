"""Values of flags: lists by commas and repetition, and what --offline stands for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval_recipes.cli import app as cli
from eval_recipes.commands.console import set_verbosity, working
from eval_recipes.commands.flags import (
    explanations_flag,
    listed,
    listed_numbers,
    offline_sources,
)
from eval_recipes.running.options import read_options
from saereg_plugin.errors import InputError


def test_commas_and_repetition_give_the_same_list() -> None:
    assert listed(["a,b", "c"]) == listed(["a", "b", "c"]) == ["a", "b", "c"]
    assert listed([" a , ", ","]) == ["a"]
    assert listed(None) == []
    assert listed(["seed[0,1],l2-*"]) == ["seed[0,1]", "l2-*"]
    assert listed_numbers("--seed", ["0,1", "2"], int) == [0, 1, 2]
    assert listed_numbers("--coefficient", ["0,5e-3"], float) == [0, 5e-3]


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("0,x", int, "whole numbers"),
        ("1,0.5", int, "whole numbers"),
        ("1e", float, "numbers"),
    ],
)
def test_what_is_no_number_is_refused(text: str, kind: Any, expected: str) -> None:
    with pytest.raises(InputError, match=f"--seed '{text}'; expected {expected}, such"):
        listed_numbers("--seed", [text], kind)


def test_a_file_of_explanations_is_an_option_of_steering() -> None:
    assert explanations_flag(None) == []
    given = explanations_flag(Path('e "1".jsonl'))
    found = read_options(given, ["steering"])
    assert found == {"steering": {"explanations": 'e "1".jsonl'}}


def test_offline_stands_for_three_flags() -> None:
    flags: dict[str, str | None] = {"explainer": None}
    assert offline_sources(["core", "autointerp"], None, None, flags) == (
        "embedded",
        "embedded",
    )
    assert flags == {"explainer": "tokens"}
    flags = {"explainer": None}
    offline_sources(["core"], None, None, flags)
    # core asks no chat model
    assert flags == {"explainer": None}


@pytest.mark.parametrize(
    ("corpus", "data", "explainer", "message"),
    [
        ("owner/name", None, None, "--corpus embedded, and --corpus owner/name"),
        (None, "hub", None, "--data embedded, and --data hub"),
        (None, None, "judge", "--explainer tokens, and --explainer judge"),
    ],
)
def test_offline_refuses_what_needs_a_server(
    corpus: str | None, data: str | None, explainer: str | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        offline_sources(["core"], corpus, data, {"explainer": explainer})


def test_offline_takes_a_text_in_a_folder(tmp_path: Path) -> None:
    found = offline_sources(["core"], str(tmp_path), None, {"explainer": None})
    assert found == (str(tmp_path), "embedded")


@pytest.fixture
def levels() -> Iterator[None]:
    """Levels of logging as they were, afterwards."""
    names = (None, "saereg_plugin", "eval_recipes")
    before = [logging.getLogger(name).level for name in names]
    yield
    for name, level in zip(names, before):
        logging.getLogger(name).setLevel(level)


@pytest.mark.usefixtures("levels")
def test_quiet_drops_what_is_printed_while_working(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")
    with working():
        sys.stdout.write("told ")
    set_verbosity(quiet=True)
    with working():
        sys.stdout.write("not told ")
    sys.stdout.write("table")
    assert capsys.readouterr().out == "told table"


@pytest.mark.usefixtures("levels")
def test_verbose_shows_what_this_package_logs() -> None:
    set_verbosity(verbose=1)
    assert logging.getLogger("saereg_plugin.files").isEnabledFor(logging.INFO)
    assert not logging.getLogger("other").isEnabledFor(logging.INFO)
    set_verbosity(verbose=2)
    assert logging.getLogger("eval_recipes.chat").isEnabledFor(logging.DEBUG)
    with pytest.raises(InputError, match="exclude each other"):
        set_verbosity(verbose=1, quiet=True)


@pytest.mark.parametrize("flag", ["judge_model", "judge_base_url"])
def test_offline_asks_no_chat_model(flag: str) -> None:
    flags = {"explainer": None, flag: "http://127.0.0.1:9/v1"}
    with pytest.raises(InputError, match="--offline asks no chat model, and --judge-"):
        offline_sources(["steering"], None, None, flags)


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize("words", [["-q", "list"], ["list", "-q"], ["list", "--quiet"]])
def test_quiet_is_known_before_and_behind_the_command(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "")
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert logging.getLogger().level == logging.ERROR


@pytest.mark.usefixtures("levels")
def test_verbose_behind_the_command_counts() -> None:
    assert CliRunner().invoke(cli, ["list", "-vv"]).exit_code == 0
    assert logging.getLogger("saereg_plugin").level == logging.DEBUG


@pytest.mark.usefixtures("levels")
@pytest.mark.parametrize(
    "words",
    [["list", "-v", "-q"], ["-v", "list", "-q"], ["-q", "list", "-v"], ["-vq", "list"]],
)
def test_verbose_and_quiet_are_refused_wherever_they_stand(words: list[str]) -> None:
    result = CliRunner().invoke(cli, words)
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == (
        "--quiet and --verbose exclude each other; give one."
    )
