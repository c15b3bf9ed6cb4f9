"""Memory and disk of this machine."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from saereg_plugin.errors import InputError

_GROUPS = Path("/sys/fs/cgroup")


def memory_bytes(device: torch.device) -> int:
    """
    Return the most memory that this process can have on a device, in bytes.

    On the CPU that is the machine's memory with its swap, or what its control group
    (a container's limit) or ``ulimit -v`` leaves of it.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    return min([memory, *_limits()])


def require_memory(
    what: str,
    needed: int,
    device: torch.device,
    *,
    parts: str = "",
    remedy: str = "Choose a smaller size.",
) -> None:
    """
    Refuse what cannot fit into a device's memory, however much of it is free.

    Args:
        what: begins the message, such as "d_sae=1000".
        needed: bytes that it needs at least.
        device: where.
        parts: what takes how much.
        remedy: what to do.

    Raises:
        InputError: with what is needed and what there is, in GiB.
    """
    found = memory_bytes(device)
    if needed > found:
        told = f": {parts}" if parts else ""
        raise InputError(
            f"{what} needs at least {gib(needed)} of memory{told}; {device} has {gib(found)}. "
            f"{remedy}"
        )


def gib(count: int) -> str:
    """Return a number of bytes for people."""
    return f"{count / 2**30:,.1f} GiB"


def free_disk_bytes(folder: Path) -> int:
    """Return the free space where ``folder`` is, or will be made."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def _limits() -> Iterator[int]:
    """Yield the limits on this process's memory, as far as the system tells them."""
    if sys.platform == "win32":
        return
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
    for path in _group_files():
        text = path.read_text(encoding="ascii").strip()
        # "max" is no limit
        if text.isdigit():
            yield int(text)


def _group_files() -> list[Path]:
    """Return the files with the limits of this process's control groups, versions 1 and 2."""
    own = Path("/proc/self/cgroup")
    if not own.is_file():
        return []
    found = {_GROUPS / "memory.max", _GROUPS / "memory" / "memory.limit_in_bytes"}
    for line in own.read_text(encoding="utf-8", errors="replace").splitlines():
        _, kinds, path = line.split(":", 2)
        for part in (Path(path), *Path(path).parents):
            inside = str(part).lstrip("/")
            if not kinds:
                found.add(_GROUPS / inside / "memory.max")
            elif "memory" in kinds.split(","):
                found.add(_GROUPS / "memory" / inside / "memory.limit_in_bytes")
    return sorted(path for path in found if path.is_file())
