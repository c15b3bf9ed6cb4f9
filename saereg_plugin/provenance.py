"""Versions, hardware and command behind a number."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import psutil
import torch

from saereg_plugin.errors import printable

_PACKAGES = (
    "saereg-plugin",
    "sae-lens",
    "sae-bench",
    "transformer-lens",
    "transformers",
    "torch",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
    }


def hardware() -> dict[str, Any]:
    """Return the facts of this machine that decide speed."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else None,
    }


def command() -> str:
    """
    Return the command line of this process, without the interpreter's path.

    What is no UTF-8 in it is written as escapes, so that it can be stored.
    """
    return printable(" ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def peak_memory_gib() -> float:
    """Return the most resident memory this process has had, in GiB."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except FileNotFoundError:
        # not Linux
        pass
    return platform.processor() or platform.machine()
