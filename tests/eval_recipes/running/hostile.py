"""A pickle that runs code when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Hostile:
    """Pickled, it creates a file wherever it is unpickled."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.witness,)
