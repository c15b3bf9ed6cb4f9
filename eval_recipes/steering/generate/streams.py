"""
Which random numbers and which control direction belong to a text of a latent.

Both follow from the run's seed, the SAE's weights, the latent's id and the number of the text,
hence not from what else is evaluated. The latents of one SAE share no text, nor do those of
different SAEs, so that whatever an interval over latents takes for independent is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Side = Literal["pair", "unsteered", "sampled", "calibration", "calibrated"]
"""
Which text of a latent the numbers are for.

- ``pair``: the original, the steered and the randomly steered text; they share theirs.
- ``unsteered``: the unsteered text in the steered one's place.
- ``sampled``: its original where the others are greedy.
- ``calibration``, ``calibrated``: both sides of a calibration pair.
"""

_BITS = 63


@dataclass(frozen=True)
class Streams:
    """
    The random numbers of one SAE in one run.

    Attributes:
        seed: of the run.
        weights: hash of the SAE (``artifacts.weights_hash``).
    """

    seed: int
    weights: str

    def number(self, latent: int, repeat: int, side: Side) -> int:
        """Return the stream of a text, for ``decoding.Request.sample``."""
        return self._hashed(f"{side}/{latent}/{repeat}")

    def direction(self, latent: int, repeat: int, d_model: int) -> Tensor:
        """Return the control's unit vector [d_model], of uniformly random direction."""
        generator = torch.Generator().manual_seed(
            self._hashed(f"direction/{latent}/{repeat}")
        )
        drawn = torch.randn(d_model, generator=generator)
        return drawn / drawn.norm()

    def _hashed(self, what: str) -> int:
        text = f"{self.seed}/{self.weights}/{what}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> (64 - _BITS)
