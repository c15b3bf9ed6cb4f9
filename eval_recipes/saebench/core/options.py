"""Settings of the core evaluation."""

from __future__ import annotations

from pydantic import Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True)
class CoreOptions:
    """
    Settings of upstream's part, ``RunContext.options["core"]``.

    Upstream's defaults (10 and 1; published runs 200 and 2000) are meant for a GPU: on a CPU
    a reconstruction batch is three passes of the whole model.
    """

    n_eval_reconstruction_batches: int = Field(default=1, ge=1)
    """Batches for cross entropy and KL divergence."""

    n_eval_sparsity_variance_batches: int = Field(default=4, ge=1)
    """Batches for upstream's L0, variance and latent densities."""

    eval_batch_size_prompts: int = Field(default=8, ge=1)
    """Contexts in one batch."""
