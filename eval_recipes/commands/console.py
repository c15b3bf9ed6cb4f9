"""Consoles of the commands, and text that is shown as it is."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from rich.console import Console
from rich.markup import escape


def open_console(*, stderr: bool = False, soft_wrap: bool = True) -> Console:
    """
    Return a console that turns no ":name:" into a picture.

    Args:
        stderr: print to stderr.
        soft_wrap: leave lines, and so paths, whole; False fits tables into the terminal.
    """
    return Console(stderr=stderr, soft_wrap=soft_wrap, emoji=False)


def shown(value: object) -> str:
    """Return what a user or a file gave as text that is shown literally; no "[" may follow."""
    from saereg_plugin.errors import printable

    # escape would double a backslash at the end, for the sake of markup that follows
    return escape(f"{printable(str(value))}.")[:-1]


def interrupt_on_signals() -> None:
    """Let SIGTERM, SIGQUIT and SIGHUP interrupt as Ctrl-C does; ``nohup`` stays in force."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for name in ("SIGTERM", "SIGQUIT", "SIGHUP"):
        # Windows lacks two of them
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def keep_printing() -> None:
    """
    Let no character and no closed stream stop a command.

    Characters that the terminal's encoding lacks are printed as escapes; what is printed
    to a stream that was closed before the start (``>&-``) is dropped.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # also so that no other file gets the number of the closed one
            devnull = os.open(os.devnull, os.O_WRONLY)
            dropped = os.fdopen(devnull, "w", errors="backslashreplace")
            setattr(sys, name, dropped)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
