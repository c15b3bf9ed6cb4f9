"""Random numbers that belong to a text and not to the batch it is made in."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, prompt: str, sample: int, length: int) -> NDArray[np.float64]:
    """
    Return the uniform numbers in [0, 1) of one text, one for each new token.

    Number ``i`` depends on seed, prompt, sample and ``i`` alone (Philox is counter-based), so
    steered and unsteered texts of one prompt and sample share theirs, whatever else is in
    their batches, and different samples are independent.

    Args:
        seed: seed of the run.
        prompt: text of the prompt.
        sample: number of the sample of this prompt.
        length: how many numbers.
    """
    digest = hashlib.blake2b(f"{seed}/{sample}/{prompt}".encode(), digest_size=16)
    key = int.from_bytes(digest.digest(), "little")
    return np.random.Generator(np.random.Philox(key=key)).random(length)
