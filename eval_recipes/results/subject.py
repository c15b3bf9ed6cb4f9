"""An SAE under evaluation, and the failure to evaluate it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sae_lens import SAE


@dataclass(frozen=True)
class Subject:
    """
    One SAE under evaluation.

    ``group`` names its configuration: SAEs of one group differ only in ``seed``.
    """

    release: str
    sae_id: str
    group: str
    seed: int | None

    def load(self, device: str = "cpu") -> SAE[Any]:
        """Load the SAE through SAELens; the caller owns the object."""
        return SAE.from_pretrained(self.release, self.sae_id, device=device)


@dataclass(frozen=True)
class Failure:
    """One evaluation of one SAE that gave no result, and why."""

    eval: str
    sae_id: str
    cause: str
