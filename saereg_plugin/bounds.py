"""Bounds on counts, seeds and memory, checked before anything is allocated."""

from __future__ import annotations

import torch

from saereg_plugin.errors import InputError
from saereg_plugin.machine import memory_bytes

MAX_SEED = 2**32 - 1
"""Largest seed that torch, numpy and scikit-learn all take."""


def require_count(name: str, value: int, *, least: int = 1, most: int) -> int:
    """
    Return a count that lies between ``least`` and ``most``.

    Raises:
        InputError: if it does not.
    """
    if not least <= value <= most:
        raise InputError(f"{name} is {value}; expected {least:,} to {most:,}.")
    return value


def require_seed(seed: int) -> int:
    """
    Return a seed that every random generator takes.

    Raises:
        InputError: if it is negative or above ``MAX_SEED``.
    """
    return require_count("Seed", seed, least=0, most=MAX_SEED)


def require_memory(what: str, needed: int, device: str = "cpu") -> None:
    """
    Refuse what cannot fit into a device's memory, however much of it is free.

    Args:
        what: begins the message, such as "d_sae=1000".
        needed: bytes that it needs at least.
        device: torch device.

    Raises:
        InputError: with what is needed and what there is, in GiB.
    """
    found = memory_bytes(torch.device(device))
    if needed > found:
        raise InputError(
            f"{what} needs at least {needed / 2**30:,.1f} GiB of memory; {device} has "
            f"{found / 2**30:,.1f}. Choose a smaller size."
        )
