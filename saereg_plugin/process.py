"""The end of a command, without waiting for threads that read ahead."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from typing import NoReturn, TextIO

INTERRUPTED = 130
"""Exit status of a process that Ctrl-C ended, as shells give it."""


def end_process(error: BaseException | None) -> NoReturn:
    """
    End the process with the exit status and message that ``error`` gives, or with 0.

    A streamed dataset that was not read to its end leaves threads (pyarrow's) that read ahead
    through Python files. If the interpreter is taken down meanwhile, they abort the process or
    wait for ever. So what is to be done at an end is done (errors, functions of ``atexit``,
    flushing), and the process ends without taking the interpreter down.
    """
    status = _report(error)
    atexit._run_exitfuncs()
    logging.shutdown()
    streams: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            # whoever read it has left (`saereg-bench ... | head`), or its disk is full
            status = status or 1
    os._exit(status)


def _report(error: BaseException | None) -> int:
    """Say what the interpreter would say of the error; return the exit status."""
    if error is None:
        return 0
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        sys.stderr.write(f"{error.code}\n")
        return 1
    sys.excepthook(type(error), error, error.__traceback__)
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1
