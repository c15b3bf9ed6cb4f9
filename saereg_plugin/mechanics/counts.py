"""Counters that survive SAELens' cast of every loaded tensor to the SAE's data type."""

from __future__ import annotations

import torch


def encode_count(count: int) -> torch.Tensor:
    """
    Return a non-negative integer as 8 bytes, uint8 [8].

    Bytes are exact in every floating type, bfloat16 included; an integer above
    256 is not.
    """
    return torch.tensor(list(count.to_bytes(8, "little")), dtype=torch.uint8)


def decode_count(encoded: torch.Tensor) -> int:
    """Return the integer that ``encode_count`` wrote."""
    return int.from_bytes(bytes(int(byte) for byte in encoded.tolist()), "little")
