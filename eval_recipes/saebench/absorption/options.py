"""Settings of the absorption evaluation."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass

EVAL = "absorption"


@dataclass(frozen=True)
class AbsorptionOptions:
    """Settings, ``RunContext.options["absorption"]``; upstream's defaults but for two."""

    words_per_letter: int | None = Field(default=100, ge=10)
    """Words of each letter; None takes all, as published: 47,000 for SmolLM2, hours on a CPU."""

    max_k_value: int = Field(default=10, ge=1)
    """Largest number of latents that may detect a letter."""

    f1_jump_threshold: float = Field(default=0.03, ge=0, le=1)
    """Rise in F1 from which a further latent counts as a split."""

    k_sparse_probe_l1_decay: float = Field(default=0.01, ge=0, le=1)
    """L1 penalty of the probe that ranks latents."""

    k_sparse_probe_batch_size: int = Field(default=512, ge=1)
    """Words in a step of that probe; upstream's 4096 leaves too few steps with few words."""

    k_sparse_probe_num_epochs: int = Field(default=50, ge=1)
    """Passes over the words."""

    min_GT_probe_f1: float = Field(default=0.6, ge=0, le=1)
    """A letter counts if its probe on the model's activations is better."""

    # upstream takes a standard deviation over letters
    min_feats_for_eval: int = Field(default=20, ge=2)
    """With fewer such letters there is no result."""
