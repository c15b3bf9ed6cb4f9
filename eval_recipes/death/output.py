"""Result file of the death evaluation."""

from __future__ import annotations

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)

from eval_recipes.death.options import DeathEvalConfig
from eval_recipes.death.table import EVAL
from eval_recipes.results.metrics import metric, metric_class, value

_CONTEXTS = "Contexts behind the figure"


@metric_class
class CountMetrics(BaseMetrics):
    """Latents by cause."""

    alive = metric("Alive", "Latents that fire on the held-out inputs", of=_CONTEXTS)
    dead = metric(
        "Dead",
        "Latents that fire on no held-out input",
        display=True,
        nullable=False,
        of=_CONTEXTS,
    )
    dead_by_relu = metric(
        "Dead by ReLU",
        "Dead latents whose pre-activation is never positive",
        display=True,
        of=_CONTEXTS,
    )
    dead_by_selection = metric(
        "Dead by Selection",
        "Dead latents with a positive pre-activation that is never selected: below the k-th largest "
        "(TopK), or not above the threshold (JumpReLU)",
        display=True,
        of=_CONTEXTS,
    )
    never_fired = metric(
        "Never Fired",
        "Dead latents that fired in no training step; null if the release does not record it",
        display=True,
        of=_CONTEXTS,
    )
    fired_then_died = metric(
        "Fired, Then Died",
        "Dead latents that fired in a training step; null if the release does not record it",
        display=True,
        of=_CONTEXTS,
    )
    dead_collapsed = metric(
        "Dead and Collapsed",
        "Dead latents whose encoder has shrunk below the collapsed ratio; null without a start",
        display=True,
        of=_CONTEXTS,
    )
    collapsed = metric(
        "Collapsed",
        "All latents whose encoder has shrunk so; of the weights, so that nothing is sampled",
        of="Latents behind the figure",
    )


@metric_class
class ShareMetrics(BaseMetrics):
    """Shares of all latents, and what is predicted."""

    dead_share = metric(
        "Dead Share", "Dead latents over all", display=True, of=_CONTEXTS
    )
    born_dead = metric(
        "Born Dead",
        "Share of latents that fire on no held-out input with the initial weights",
        display=True,
        of=_CONTEXTS,
    )
    born_dead_by_relu = metric(
        "Born Dead by ReLU",
        "Share whose pre-activation is never positive with the initial weights",
        of=_CONTEXTS,
    )
    predicted = metric(
        "Predicted Born Dead",
        "Phi(t_k - C / gamma) of TopK kinds, Phi(-C / gamma) of others (arXiv 2605.31518)",
        display=True,
        of=_CONTEXTS,
    )
    predicted_by_relu = metric(
        "Predicted Born Dead by ReLU",
        "Phi(-C / gamma) (arXiv 2605.31518)",
        of=_CONTEXTS,
    )
    predicted_here = metric(
        "Predicted Born Dead, Here",
        "Phi(t_k sqrt(1 + 1 / gamma^2) - C / gamma) of TopK kinds with N the held-out tokens, which "
        "Born Dead is counted on (ours)",
        display=True,
        of=_CONTEXTS,
    )
    predicted_as_read = metric(
        "Predicted Born Dead, as Read",
        "The same formula with the gamma of what the SAE reads at its start",
        of=_CONTEXTS,
    )
    born_dead_revived = metric(
        "Born Dead, Alive Now",
        "Share of all latents that were born dead and fire at the end",
        of=_CONTEXTS,
    )


@metric_class
class ActivationMetrics(BaseMetrics):
    """Activations that the SAE reads."""

    gamma = metric(
        "Gamma",
        "||mu|| / ||sigma|| of the activations after LayerNorm of each row (arXiv 2605.31518)",
        display=True,
        of=_CONTEXTS,
    )
    gamma_as_read = metric(
        "Gamma as Read",
        "||mu|| / ||sigma|| of the activations less the decoder bias at the start",
        of=_CONTEXTS,
    )
    effective_rank = metric(
        "Effective Rank",
        "exp(entropy of the covariance's eigenvalues) after LayerNorm of each row (arXiv 2605.31518)",
        of=_CONTEXTS,
    )


@dataclass
class DeathMetricCategories(BaseMetricCategories):
    """Categories of metrics; intervals of counts and shares: jackknife over contexts."""

    counts: CountMetrics = value("Counts", "Latents by cause")
    shares: ShareMetrics = value(
        "Shares", "Shares of all latents, measured and predicted"
    )
    activations: ActivationMetrics = value(
        "Activations", "Outlier severity of the activations"
    )


@dataclass(config=ConfigDict(title="Death"))
class DeathEvalOutput(
    BaseEvalOutput[DeathEvalConfig, DeathMetricCategories, BaseResultDetail]
):
    """Latents that never fire, and why; the table next to the result has each latent."""

    eval_config: DeathEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: DeathMetricCategories
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL
    )
