"""Output of commands: literal text, and printing that never ends a command."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eval_recipes.commands.console import (
    failure_lines,
    interrupt_on_signals,
    open_console,
    shown,
)
from eval_recipes.results.subject import Failure

PRINT = """
from eval_recipes.commands.console import keep_printing, open_console
keep_printing()
open_console().print(f"Release {text} \\udcff \\xe4")
open_console(stderr=True).print("\\xe4")
"""
IN_THE_OTHER_PROCESS = """
from eval_recipes.commands.console import shown
text = f"{shown(chr(0x1D11E))} is in {shown('x[b]y')}"
"""
ASCII = {
    **os.environ,
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "",
}


@pytest.mark.parametrize(
    "text", ["x[/red]y", "x[b]y", "x:bug:y", "a\\[b]", "[link=x]y", "\\"]
)
def test_text_is_shown_as_it_is(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console = open_console()
    console.print(f"in {shown(text)}.")
    assert console.file.getvalue() == f"in {text}.\n"  # pyright: ignore


def test_control_characters_and_long_paths_are_shown_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    console = open_console()
    console.print(shown(Path("a\x1b[2J") / ("long " * 60)))
    assert console.file.getvalue() == "a\\x1b[2J/" + "long " * 60 + "\n"  # pyright: ignore


def test_failures_of_one_cause_are_one_line() -> None:
    failures = [
        Failure("core", "a-seed0", "figure of SAE 'a-seed0' is not finite"),
        Failure("core", "a-seed1", "figure of SAE 'a-seed1' is not finite"),
        Failure("core", "b", "no memory"),
        Failure("cross_seed", "a-seed1", "no memory"),
    ]
    assert failure_lines(failures) == [
        "core of a-seed0: figure of SAE 'a-seed0' is not finite, and alike of a-seed1",
        "core of b: no memory",
        "cross_seed of a-seed1: no memory",
    ]


@pytest.mark.parametrize("redirection", ["", ">&-", "2>&-", ">&- 2>&-"])
def test_printing_never_raises(redirection: str) -> None:
    text = f"{shown(chr(0x1D11E))} is in {shown('x[b]y')}"
    # `shown` imports the library, which takes seconds: there only where nothing is open
    made = IN_THE_OTHER_PROCESS if redirection == ">&- 2>&-" else f"text = {text!a}"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'exec "$0" -c "$1" {redirection}',
            sys.executable,
            made + PRINT,
        ],
        capture_output=True,
        env=ASCII,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if not redirection:
        assert done.stdout == b"Release \\U0001d11e is in x[b]y \\udcff \\xe4\n"
        assert done.stderr == b"\\xe4\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGQUIT", "SIGHUP"])
def test_other_signals_interrupt_as_ctrl_c_does(name: str) -> None:
    number = getattr(signal, name)
    names = (signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
    before = {each: signal.signal(each, signal.SIG_DFL) for each in names}
    try:
        interrupt_on_signals()
        with pytest.raises(KeyboardInterrupt, match=name):
            signal.raise_signal(number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        interrupt_on_signals()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
