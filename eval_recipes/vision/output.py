"""Result file of the vision evaluation."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)

from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.vision.options import EVAL, VisionEvalConfig

TABLE_SUFFIX = "_latents.parquet"

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Latents kept in each row for the curve of the error."""

PROBE_KS = (1, 2, 4, 8, 16, 32)
"""Latents kept in each code for the curve of the probe's accuracy."""

_TESTED = "Images that the probe is tested on"

_IMAGES = "Images behind the figure"
_LATENTS = "Latents behind the figure"


@metric_class
class ReconstructionMetrics(BaseMetrics):
    """Reconstruction of the rows."""

    r2 = metric(
        "R2",
        "1 - sum ||x - x_hat||^2 / sum ||x - mean x||^2, mean x a vector; rows of held-out images",
        display=True,
        of=_IMAGES,
    )
    r2_per_dimension = metric(
        "R2 per Dimension",
        "Mean over the dimensions that vary of each one's own R2",
        of=_IMAGES,
    )
    nmse = metric(
        "NMSE",
        "Mean over rows of ||x - x_hat||^2 / ||x||^2",
        display=True,
        of=_IMAGES,
    )
    l0 = metric("L0", "Latents that are not 0 in a row", display=True, of=_IMAGES)
    dead_fraction = metric(
        "Dead",
        "Share of latents that fire on no held-out image",
        display=True,
        of=_IMAGES,
    )


@metric_class
class ScoreMetrics(BaseMetrics):
    """Monosemanticity, mean over latents that fire on two images or more."""

    own_score = metric(
        "Monosemanticity, Own Input",
        "Score (arXiv 2504.02821) with the SAE's input, mean over an image's rows, as embedding",
        of=_LATENTS,
    )
    own_floor = metric(
        "Floor, Own Input", "Mean cosine of two different images", of=_IMAGES
    )
    own_normalised = metric(
        "Normalised, Own Input", "(score - floor) / (1 - floor)", of=_LATENTS
    )
    own_centred = metric(
        "Centred, Own Input", "Score after subtracting the mean embedding", of=_LATENTS
    )
    judge_score = metric(
        "Monosemanticity, Judges",
        "Score with the embeddings of other encoders, mean over the judges; the details have each",
        display=True,
        of=_LATENTS,
    )
    judge_floor = metric("Floor, Judges", "Mean cosine of two images", of=_IMAGES)
    judge_normalised = metric(
        "Normalised, Judges",
        "(score - floor) / (1 - floor)",
        display=True,
        of=_LATENTS,
    )
    judge_centred = metric(
        "Centred, Judges", "Score after subtracting the mean embedding", of=_LATENTS
    )


@metric_class
class PurityMetrics(BaseMetrics):
    """Class purity (arXiv 2606.27321), mean over latents that fire; null without labels."""

    binary = metric(
        "Purity",
        "Largest share of a latent's images that are of one class c*",
        display=True,
        of=_LATENTS,
    )
    weighted = metric(
        "Weighted Purity", "Share of a latent's activation on c*", of=_LATENTS
    )
    weighted_floor = metric(
        "Weighted Purity Floor", "The same with shuffled labels", of=_LATENTS
    )
    floor = metric("Purity Floor", "Purity with shuffled labels", of=_LATENTS)
    above_floor = metric(
        "Purity above Floor", "Purity minus its floor", display=True, of=_LATENTS
    )
    held_out = metric(
        "Held-out Purity",
        "Purity of a class that half of the images chose, on the other half",
        display=True,
        of="Latents that fire on both halves",
    )
    held_out_floor = metric(
        "Held-out Purity Floor",
        "The same with shuffled labels",
        of="Latents that fire on both halves",
    )
    images_per_latent = metric(
        "Images per Latent", "Median over latents that fire", of=_LATENTS
    )
    fires_once = metric(
        "Fires Once", "Share of them that fire on a single image", of=_LATENTS
    )


@metric_class
class RobustnessMetrics(BaseMetrics):
    """Figures at other k than in training."""

    nmse_at_N = metric(
        "NMSE at k {n}",
        "NMSE with {n} latents in each row: TopK SAEs select as many, others are cut to the largest",
        of=_IMAGES,
        over=KS,
    )
    probe_at_N = metric(
        "Truncated Probe at {n}",
        "Accuracy of the probe on codes cut to their {n} largest",
        of=_TESTED,
        over=PROBE_KS,
    )
    probe_area = metric(
        "Truncated Probe",
        "Area under the accuracy of a linear probe on codes cut to their k' largest, over k' in "
        "[1, 32], divided by 32; fitted on whole codes of half of the images",
        display=True,
        of=_TESTED,
    )
    probe_chance = metric(
        "Truncated Probe, Chance",
        "The same area of answering the most frequent class",
        of=_TESTED,
    )
    probe_accuracy = metric("Probe Accuracy", "With whole codes", of=_TESTED)


@dataclass
class VisionMetricCategories(BaseMetricCategories):
    """Categories of metrics; intervals: jackknife over blocks of images."""

    reconstruction: ReconstructionMetrics = value(
        "Reconstruction", "Reconstruction of held-out activations"
    )
    monosemanticity: ScoreMetrics = value(
        "Monosemanticity", "How alike the images are on which a latent fires"
    )
    purity: PurityMetrics = value("Purity", "Classes of the images of each latent")
    robustness: RobustnessMetrics = value(
        "Robustness to k", "Reconstruction and probe at other k"
    )


@metric_class
class JudgeDetail(BaseResultDetail):
    """Monosemanticity by one encoder."""

    judge: str = value("Judge", "Name of the encoder")
    score = metric("Monosemanticity", "Mean score", of=_LATENTS)
    floor = metric("Floor", "Mean cosine of two images", of=_IMAGES)
    normalised = metric("Normalised", "(score - floor) / (1 - floor)", of=_LATENTS)
    centred = metric("Centred", "Score with centred embeddings", of=_LATENTS)


@dataclass(config=ConfigDict(title="Vision"))
class VisionEvalOutput(
    BaseEvalOutput[VisionEvalConfig, VisionMetricCategories, JudgeDetail]
):
    """Reconstruction, monosemanticity, purity and robustness of an SAE on images."""

    eval_config: VisionEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: VisionMetricCategories
    eval_result_details: list[JudgeDetail]
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL
    )
