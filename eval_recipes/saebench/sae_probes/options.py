"""Settings of sparse probing on the sets of sae-probes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

EVAL = "sae_probes"

DEFAULT_DATASETS = (
    "5_hist_fig_ismale",
    "22_headline_isobama",
    "87_glue_cola",
    "92_glue_sst2",
    "96_spam_is",
    "105_click_bait",
    "119_us_state_TX",
    "125_world_country_Italy",
    "126_art_type_book",
    "155_athlete_sport_basketball",
)
"""Ten sets of short texts on unlike subjects, 232,000 SmolLM2 tokens; all 113 have 33 million."""


@dataclass(frozen=True)
class SaeProbesOptions:
    """Settings, ``RunContext.options["sae_probes"]``."""

    datasets: str | tuple[str, ...] = Field(default=DEFAULT_DATASETS, min_length=1)
    """Names of sets, or "all" for the 113 of published runs (hours on a CPU)."""

    ks: tuple[Literal[1, 2, 5, 10, 20, 50, 100], ...] = Field(
        default=(1, 2, 5), min_length=1
    )
    """Numbers of latents a probe may use; SAEBench's output has fields for these."""

    reg_type: Literal["l1", "l2"] = "l1"
    """Penalty of the probes on latents; upstream's default is "l1"."""
