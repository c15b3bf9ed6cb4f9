"""The result file of the steering evaluation."""

from __future__ import annotations

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)

from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.steering.facts.figures import FactsMetrics
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.texts import EVAL

_UNSTEERED = "Unsteered Control"
_RANDOM = "Random-direction Control"
_SLOPE = "Slope, Interp Score"
_DISTINCT = "Different pairs of texts among them"
_WITHOUT = "Pairs without: refused, not of the form asked for, or nothing to judge by"


@metric_class
class SuccessMetrics(BaseMetrics):
    """Success at the headline's strength; intervals: bootstrap over latents, n latents."""

    success = metric(
        "Success",
        "Share of steered texts that the judge finds nearer to the explanation than the unsteered ones; null if this judge was not asked",
        display=True,
    )
    success_fluent = metric(
        "Fluent Success",
        "Share that succeeds at no more than the largest perplexity ratio",
        display=True,
    )
    unsteered = metric(
        _UNSTEERED,
        "The same share for unsteered texts with independent random numbers in the steered ones' place",
        display=True,
    )
    random = metric(
        _RANDOM,
        "The same share for a random direction of the same norm, judged by the latent's explanation",
        display=True,
    )
    over_unsteered = metric(
        "Success over Unsteered",
        "Success less the unsteered control, paired by latent, prompt and repeat",
    )
    over_random = metric(
        "Success over Random",
        "Success less the random-direction control, paired by latent, prompt and repeat",
    )
    pairs: int = value("Pairs", "Steered texts with a verdict")
    pairs_distinct: int = value("Distinct Pairs", _DISTINCT)
    pairs_without_verdict: int = value("Pairs without Verdict", _WITHOUT)
    unsteered_pairs: int = value(
        f"{_UNSTEERED}, Pairs", "Pairs of unsteered texts with a verdict"
    )
    unsteered_pairs_distinct: int = value(f"{_UNSTEERED}, Distinct Pairs", _DISTINCT)
    unsteered_pairs_without_verdict: int = value(
        f"{_UNSTEERED}, Pairs without Verdict", _WITHOUT
    )
    random_pairs: int = value(
        f"{_RANDOM}, Pairs", "Texts of random directions with a verdict"
    )
    random_pairs_distinct: int = value(f"{_RANDOM}, Distinct Pairs", _DISTINCT)
    random_pairs_without_verdict: int = value(
        f"{_RANDOM}, Pairs without Verdict", _WITHOUT
    )
    threshold: float | None = value(
        "Threshold",
        "Score above which this judge sees a success; null for a chat model, or if not asked",
    )


@metric_class
class LinkMetrics(BaseMetrics):
    """What success goes with; null where there is none, the reason in the unstructured part."""

    spearman = metric(
        "Spearman, Interp Score", "Of interp score and success rate, over latents"
    )
    point_biserial = metric(
        "Point-biserial, Interp Score",
        "Of interp score and success, over texts; interval over latents",
    )
    slope = metric(
        _SLOPE,
        "Log odds of success for one unit of interp score; interval from errors robust within latents",
    )
    slope_se: float | None = value(
        f"{_SLOPE} (Standard Error)", "As if all texts were independent, as published"
    )
    slope_se_clustered: float | None = value(
        f"{_SLOPE} (Clustered Standard Error)", "Robust within latents"
    )
    stability_slope = metric(
        "Slope, Stability",
        "Log odds of success for stability 1 against 0; interval from errors robust within latents",
    )
    stability_slope_adjusted = metric(
        "Slope, Stability, Adjusted", "The same in a fit on stability and interp score"
    )


@dataclass(kw_only=True)
class JudgeMetrics(LinkMetrics, SuccessMetrics):
    """Everything in the eyes of one judge."""


_LOSS = "Fluency Loss"
_CHANGE = "Change of the Target Property"


@metric_class
class LatentMetrics(BaseMetrics):
    """Which latents were steered with."""

    candidates: int = value("Candidates", "Latents that were chosen")
    pool: int = value("Pool", "Latents that there were to choose from")
    without_explanation: int = value(
        "Without Explanation",
        "Candidates without a valid explanation; left out, but with select=contrast",
    )
    without_strength: int = value(
        "Without Strength",
        "Latents whose target pre-activation cannot be reached, at the headline's strength",
    )
    steered: int = value(
        "Steered", "Latents that were steered with at the headline's strength"
    )
    interp_score = metric("Interp Score", "Mean of the steered latents that have one")


@metric_class
class StrengthMetrics(BaseMetrics):
    """How strong the headline's steering is."""

    strength: float | None = value(
        "Strength", "What a unit direction is multiplied by, median over latents"
    )
    norm = metric(
        "Median Residual Norm",
        "Of residual vectors at the hook on held-out text, special tokens left out",
        of="Tokens behind it",
        nullable=False,
    )
    ratio: float | None = value(
        "Strength over Norm", "Strength over the median residual norm", display=True
    )


@metric_class
class FluencyMetrics(BaseMetrics):
    """ln(perplexity / unsteered perplexity) under the unsteered model, at the headline's strength."""

    loss = metric(_LOSS, "Mean over steered texts, in nats a token", display=True)
    loss_random = metric(
        "Fluency Loss, Random Direction",
        "The same for random directions of the same norm",
    )


@metric_class
class ContrastMetrics(BaseMetrics):
    """Contrastive selection; null without. All latents stand in the unstructured part."""

    auroc = metric(
        "AUROC of the Best Latent",
        "How well the latent ranked first tells the two sets apart, on texts that did not rank it (DeLong)",
        of="Texts behind the figure",
    )
    probe_accuracy = metric(
        "Probe Accuracy",
        "Of the classifier of the target property, on texts it did not learn from",
        of="Texts behind the figure",
    )
    change = metric(
        _CHANGE,
        "Mean change of the classifier's chance from unsteered to steered text, latent ranked first, headline's strength; interval over pairs of texts, within prompts",
        of="Pairs of texts behind the figure",
    )
    change_random = metric(
        f"{_CHANGE}, Random Direction",
        "The same for random directions of the same norm; interval over directions, one a repeat",
        of="Directions behind the figure",
    )


@dataclass
class SteeringMetricCategories(BaseMetricCategories):
    """Categories of the metrics; a judge that was not asked has nulls."""

    embedding: JudgeMetrics = Field(
        title="Sentence Embeddings",
        description="Judge: gain of the cosine to the explanation, threshold calibrated on unsteered pairs",
    )
    embedding_published: JudgeMetrics = Field(
        title="Sentence Embeddings, Published",
        description="Judge: cosine of steered text and explanation above .45, as arXiv 2603.04198",
    )
    log_probability: JudgeMetrics = Field(
        title="Log-probability",
        description="Judge: gain of the explanation's tokens under the model, threshold calibrated on unsteered pairs",
    )
    chat: JudgeMetrics = Field(
        title="Chat Model", description="Judge: a chat model's score of 4 or 5 of 5"
    )
    latents: LatentMetrics = Field(
        title="Latents", description="Which latents were steered with"
    )
    strength: StrengthMetrics = Field(
        title="Strength", description="How strong the headline's steering is"
    )
    fluency: FluencyMetrics = Field(
        title="Fluency", description="What steering costs the text"
    )
    contrast: ContrastMetrics = Field(
        title="Contrast", description="Latents that separate two sets of texts"
    )
    facts: FactsMetrics = Field(
        title="Dated Facts",
        description="Whether steering moves the model from the holder at a date to a later one",
    )


@metric_class
class SteeringPoint(SuccessMetrics, BaseResultDetail):
    """One strength in the eyes of one judge: a point of the success-against-fluency curve."""

    judge: str = value("Judge", "Whose verdicts")
    amount: float = value("Amount", "Strength in the units of the mode")
    strength: float | None = value("Strength", "Median over latents")
    ratio: float | None = value("Ratio", "Strength over the median residual norm")
    loss = metric(_LOSS, "Nats a token, mean over steered texts")


@dataclass(config=ConfigDict(title="Steering"))
class SteeringEvalOutput(
    BaseEvalOutput[SteeringEvalConfig, SteeringMetricCategories, SteeringPoint]
):
    """
    Whether adding a latent's direction does what its explanation says (arXiv 2603.04198), with controls and fluency.
    """

    eval_config: SteeringEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: SteeringMetricCategories
    eval_result_details: list[SteeringPoint] = Field(
        default_factory=list,
        title="Strengths",
        description="One object for each judge and strength",
    )
    eval_type_id: str = Field(
        default=EVAL,
        title="Eval Type ID",
        description="The type of the evaluation",
    )
