"""Settings of the vision evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting

EVAL = "vision"

Part = Literal["all", "validation", "test"]


def _judges() -> list[str]:
    return ["dinov2-small", "squeezenet"]


@dataclass
class VisionEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(0, "Random Seed", "Seed of the shuffled labels")
    judges: list[str] = Field(
        default_factory=_judges,
        title="Judges",
        description="Encoders by name, whose embeddings say how alike images are; the SAE's own model "
        "is left out, as its own activations judge already",
    )
    judge_image_size: int | None = setting(
        None, "Judge Image Size", "Height and width; null takes each judge's own", ge=1
    )
    pool: Literal["max", "mean"] = setting(
        "max", "Pool", "How the rows of an image become one code"
    )
    part: Part = setting(
        "all",
        "Part",
        "Part of the held-out images: all, or one of two halves that share no variants of a picture",
    )
    n_images: int | None = setting(
        None, "Images", "At most, evenly spaced; null takes all", ge=2
    )
    n_blocks: int = setting(
        20, "Blocks", "Blocks of neighbouring images of the jackknife", ge=2, le=1000
    )
    n_shuffles: int = setting(
        5, "Shuffles", "Random orders of the labels behind the purity floor", ge=1
    )
    probe: bool = setting(True, "Probe", "Whether to fit the linear probe")
    probe_iterations: int = setting(
        200, "Probe Iterations", "At most, of the probe's solver", ge=1
    )
