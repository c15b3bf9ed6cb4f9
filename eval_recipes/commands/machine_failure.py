"""Failures of the machine, in one line: memory or disk is full."""

from __future__ import annotations

import errno

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
    """Return what to say of an error that full memory or a full disk caused, or None."""
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
