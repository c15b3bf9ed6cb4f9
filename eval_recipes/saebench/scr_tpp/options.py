"""Settings of SCR and TPP."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from eval_recipes.saebench.scr_tpp.output import PUBLISHED_N

SIZES = {"hub": (4000, 1000), "embedded": (480, 180)}
"""Train and test sizes: as published, and what every embedded set and a CPU can serve."""

DEFAULT_HUB = (
    "LabHC/bias_in_bios_class_set1",
    "canrager/amazon_reviews_mcauley_1and5",
)
"""SAEBench's two data sets."""


@dataclass(frozen=True)
class ScrAndTppOptions:
    """Settings, ``RunContext.options["scr"]`` and ``["tpp"]``."""

    dataset_names: tuple[str, ...] = ()
    """Data sets; none for SAEBench's two, or with embedded data the evaluation's two."""

    train_set_size: int | None = Field(default=None, ge=1)
    """Texts a probe is trained on; None: 4000 as published, embedded 480."""

    test_set_size: int | None = Field(default=None, ge=1)
    """Texts a probe is tested on; None: 1000 as published, embedded 180."""

    n_values: tuple[Literal[2, 5, 10, 20, 50, 100, 500], ...] = Field(
        default=PUBLISHED_N, min_length=1
    )
    """How many latents are ablated; SAEBench's format has fields for these."""

    context_length: int = Field(default=128, ge=1)
    """Tokens of a text that the model reads; the rest is cut off."""

    probe_epochs: int = Field(default=20, ge=1)
    """Epochs of a probe's training, of which the best on the test texts is kept."""

    sae_batch_size: int = Field(default=125, ge=1)
    """Texts an SAE encodes at a time at most; fewer where memory asks for it."""

    fast_ablation: bool = True
    """
    Whether texts are encoded once per SAE instead of once per class and number of latents;
    only where the model runs in float32, else upstream's own loop is run.
    """

    n_resamples: int = Field(default=1000, ge=1)
    """Bootstrap resamples of the test texts."""
