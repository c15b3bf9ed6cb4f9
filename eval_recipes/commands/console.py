"""Consoles of the commands, literal text, and messages about the machine."""

from __future__ import annotations

import errno
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from inspect import Parameter, Signature, signature
from types import FrameType
from typing import Annotated, Any, get_type_hints

from rich.console import Console
from rich.markup import escape
from typer import Context, Option


def open_console(*, stderr: bool = False, soft_wrap: bool = True) -> Console:
    """
    Return a console that prints ":name:" literally.

    ``soft_wrap`` leaves lines, and so paths, whole; otherwise tables fit into the terminal, or
    into 160 columns of a file or pipe (or as many as the variable COLUMNS says).
    """
    console = Console(stderr=stderr, soft_wrap=soft_wrap, emoji=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = 160
    return console


def shown(value: object) -> str:
    """Return a value of a user or a file as literal text; no "[" may follow it."""
    from saereg_plugin.errors import printable

    # escape doubles a backslash at the end, in case markup follows
    return escape(f"{printable(str(value))}.")[:-1]


def set_verbosity(*, verbose: int = 0, quiet: bool = False) -> None:
    """
    Set how much is told besides tables and errors.

    ``verbose`` 1 shows what this package logs, 2 also its details and other packages'.
    ``quiet`` leaves out warnings, progress bars and what is printed inside ``working``.

    Raises:
        InputError: if both are asked for.
    """
    if quiet and verbose:
        from saereg_plugin.errors import InputError

        raise InputError("--quiet and --verbose exclude each other; give one.")
    if quiet:
        logging.getLogger().setLevel(logging.ERROR)
        # read when these packages are imported
        os.environ |= {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if verbose:
        level = logging.INFO if verbose == 1 else logging.DEBUG
        for package in ("saereg_plugin", "eval_recipes"):
            logging.getLogger(package).setLevel(level)
    if verbose > 1:
        logging.getLogger().setLevel(logging.INFO)


def _with_earlier(name: str) -> Callable[[Context, int], int]:
    """Return a callback that adds a flag's count before the command to that behind it."""

    def add(context: Context, count: int) -> int:
        context.meta[name] = context.meta.get(name, 0) + count
        return context.meta[name]

    return add


Verbose = Annotated[
    int,
    Option(
        "-v",
        "--verbose",
        count=True,
        callback=_with_earlier("verbose"),
        show_default=False,
        help="Show what is done meanwhile; -vv shows details.",
    ),
]
Quiet = Annotated[
    bool,
    Option(
        "-q",
        "--quiet",
        callback=_with_earlier("quiet"),
        help="Print errors, the final table and paths only.",
    ),
]


def with_verbosity(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes ``-v`` and ``-q`` behind its name, too."""
    hints = get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def run(*, verbose: Verbose = 0, quiet: Quiet = False, **given: Any) -> None:
        if verbose or quiet:
            set_verbosity(verbose=verbose, quiet=quiet)
        command(**given)

    own = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in signature(command).parameters.items()
    ]
    added = [
        Parameter("verbose", Parameter.KEYWORD_ONLY, default=0, annotation=Verbose),
        Parameter("quiet", Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
    ]
    run.__annotations__ = {**hints, "verbose": Verbose, "quiet": Quiet}
    setattr(run, "__signature__", Signature([*own, *added]))
    return run


@contextmanager
def working() -> Iterator[None]:
    """Print what is printed in this block, except under ``--quiet``."""
    if logging.getLogger().level < logging.ERROR:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as sink, redirect_stdout(sink):
        yield


def interrupt_on_signals() -> None:
    """Let SIGTERM, SIGQUIT and SIGHUP interrupt as Ctrl-C does, except under ``nohup``."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for name in ("SIGTERM", "SIGQUIT", "SIGHUP"):
        # Windows lacks two of them
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)


def keep_printing() -> None:
    """
    Print in every encoding of the terminal, and without closed streams.

    Characters that the encoding lacks are printed as escapes. Output to a stream that was
    closed before the start (``>&-``) is dropped.
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


def require_bench(command: str) -> None:
    """
    Refuse a command of ``saereg-bench`` that needs the extra ``bench``, if it is missing.

    Raises:
        InputError: with what is missing and how to install it.
    """
    from saereg_plugin.machine import require_extra

    require_extra("bench", f"`saereg-bench {command}`")


FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


_DISK = {
    errno.ENOSPC: "No space is left on the disk",
    errno.EDQUOT: "The disk quota is used up",
    errno.EFBIG: "The file would be larger than the system allows (ulimit -f)",
    errno.EROFS: "The disk can only be read",
    errno.EIO: "The disk reports an error",
}
_MEMORY_WORDS = ("can't allocate memory", "out of memory")
REPEAT = "run the command again"


def machine_failure(error: BaseException) -> str | None:
    """Return a message if full memory or a full disk caused an error, or None."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        said = _disk(current) or _memory(current)
        if said is not None:
            return said
        current = current.__cause__ or current.__context__
    return None


def _disk(error: BaseException) -> str | None:
    from saereg_plugin.files import disk_errno

    number = disk_errno(error)
    if number is None:
        return None
    name = getattr(error, "filename", None)
    where = f" while {str(name)!r} was written" if name is not None else ""
    return f"{_DISK[number]}{where}. Free space and {REPEAT}."


def _memory(error: BaseException) -> str | None:
    ours = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in str(error) for words in _MEMORY_WORDS)
    )
    if not ours:
        return None
    first = str(error).strip().split("\n")[0]
    return (
        f"Memory is full{f' ({first})' if first else ''}. Use fewer or smaller SAEs or batches, or "
        f"end other programs, and {REPEAT}."
    )


def print_outcome(outcome: Any, console: Console) -> bool:
    """Print the tables and the failures; return whether there were failures."""
    from eval_recipes.tables.run_table import print_table

    print_table(outcome.frame, console, outcome.differences)
    console.print(f"\nAll figures: {shown(outcome.summary)}")
    if outcome.kept:
        console.print(
            f"Kept from earlier runs, since they are current: {_results(outcome.kept)}."
        )
    if outcome.outdated:
        console.print(
            "Outdated, in the folder but not in these tables, as what should have replaced them "
            f"failed: {_results(len(outcome.outdated))}."
        )
    for line in failure_lines(outcome.failures):
        console.print(f"[red]failed[/] {shown(line)}", soft_wrap=True)
    return bool(outcome.failures)


def failure_lines(failures: Sequence[Any]) -> list[str]:
    """Return a line for each cause of failures, with the SAEs of an evaluation it stopped."""
    saes: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        # a cause names its SAE
        cause = failure.cause.replace(failure.sae_id, "SAE")
        saes.setdefault((failure.eval, cause), []).append(failure.sae_id)
    lines: list[str] = []
    for failure in failures:
        cause = failure.cause.replace(failure.sae_id, "SAE")
        alike = saes.pop((failure.eval, cause), None)
        if alike:
            more = f", and alike of {', '.join(alike[1:])}" if alike[1:] else ""
            lines.append(f"{failure.eval} of {alike[0]}: {failure.cause}{more}")
    return lines


def _results(count: int) -> str:
    return f"{count} result" if count == 1 else f"{count} results"
