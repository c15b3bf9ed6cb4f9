"""Result file and table of latents of the mdl evaluation."""

from __future__ import annotations

import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import (
    BaseEvalOutput,
    BaseMetricCategories,
    BaseMetrics,
    BaseResultDetail,
)

from eval_recipes.mdl.latents import LatentBalance
from eval_recipes.mdl.options import MdlEvalConfig
from eval_recipes.mdl.table import BALANCE, EVAL
from eval_recipes.results.metrics import metric, metric_class, value
from eval_recipes.results.subject import Subject

_CONTEXTS = "Contexts behind the figure"
_FIRE = "Latents that fire"


@metric_class
class CodeMetrics(BaseMetrics):
    """Length of the code; intervals: bootstrap over contexts."""

    bits = metric(
        "Bits per Token",
        "sum_j [H_b(p_j) + p_j H(bin | fired)] with quantised activations (arXiv 2410.11179)",
        display=True,
        nullable=False,
        of=_CONTEXTS,
    )
    firing_bits = metric(
        "Bits for Firing", "sum_j H_b(p_j)", nullable=False, of=_CONTEXTS
    )
    value_bits = metric(
        "Bits for Values", "sum_j p_j H(bin | fired)", nullable=False, of=_CONTEXTS
    )
    crossed_bits = metric(
        "Bits by Other Tables",
        "Bits per token where the tables of frequencies come from the other half of the contexts",
        nullable=False,
        of=_CONTEXTS,
    )
    l0 = metric(
        "L0",
        "Latents that are not 0 on a token",
        display=True,
        nullable=False,
        of=_CONTEXTS,
    )
    bound = metric(
        "Bound",
        "L0 (B + log2 d_sae): every active latent by its number and B bits (arXiv 2410.11179)",
        display=True,
        nullable=False,
        of=_CONTEXTS,
    )
    equal_error = metric(
        "Gaussian Code of Equal Error",
        "d_in / 2 log2(variance / MSE): what white Gaussian activations need for this error; null "
        "without explained variance",
        display=True,
        of=_CONTEXTS,
    )
    dense: float = value("Dense Bound", "d_in B: every dimension by B bits")
    dictionary: float = value(
        "Dictionary", "d_sae d_in weight_bits / tokens: bits per token", display=True
    )
    dictionary_fired: float = value(
        "Dictionary of Latents that Fire", "The same without latents that never fire"
    )


@metric_class
class WidthMetrics(BaseMetrics):
    """The bins."""

    relative_width: float = value(
        "Relative Width", "Bin width in the unit of width_unit"
    )
    value_precision: float = value(
        "B", "log2 of the number of bins that the largest activation needs"
    )
    rise = metric(
        "Rise of MSE",
        "By what share of itself quantised codes raise the mean squared error",
        nullable=False,
        of=_CONTEXTS,
    )
    mse = metric(
        "MSE",
        "Squared error per token and dimension, not quantised",
        nullable=False,
        of=_CONTEXTS,
    )
    n_tokens: int = value("Tokens", "Tokens read, special ones left out")


@metric_class
class LatentMetrics(BaseMetrics):
    """Latents that do not pay for their code; intervals: bootstrap over latents."""

    unpaid = metric(
        "Unpaid Latents",
        "Share of the latents that fire whose code costs more bits than their removal would",
        display=True,
        of=_FIRE,
    )
    surely_unpaid = metric(
        "Surely Unpaid Latents",
        "Share of them whose 95 % interval over contexts is below 0",
        of=_FIRE,
    )
    surely_paid = metric(
        "Surely Paid Latents",
        "Share of them whose 95 % interval over contexts is above 0",
        of=_FIRE,
    )
    harmful = metric(
        "Harmful Latents",
        "Share of them whose removal lowers the mean squared error",
        of=_FIRE,
    )
    unpaid_bits = metric(
        "Bits of Unpaid Latents", "Their share of the bits", display=True, of=_FIRE
    )
    unpaid_gain = metric(
        "Gain of Unpaid Latents",
        "Their share of the summed rises of the mean squared error",
        of=_FIRE,
    )
    break_even = metric(
        "Break-even Rate",
        "Median bits per 1 % of the error at which a latent pays; null if most never do",
        of=_FIRE,
    )
    never_fired = metric(
        "Never Fired", "Share of all latents", nullable=False, of="Latents"
    )


@dataclass
class MdlMetricCategories(BaseMetricCategories):
    """Categories of the metrics."""

    code: CodeMetrics = value("Code", "Bits per token")
    width: WidthMetrics = value("Width", "Bins of the activations")
    latents: LatentMetrics = value("Latents", "Cost of latents against their gain")


@dataclass(config=ConfigDict(title="Description Length"))
class MdlEvalOutput(
    BaseEvalOutput[MdlEvalConfig, MdlMetricCategories, BaseResultDetail]
):
    """Bits per token of an SAE's code, and latents that do not pay for theirs."""

    eval_config: MdlEvalConfig
    eval_id: str
    datetime_epoch_millis: int
    eval_result_metrics: MdlMetricCategories
    eval_type_id: str = value(
        "Eval Type ID", "The type of the evaluation", default=EVAL
    )


def latent_table(
    balance: LatentBalance, subject: Subject, options: MdlEvalConfig, n_tokens: int
):
    """Return the ``pyarrow.Table`` with a row per latent."""
    break_even = balance.break_even.numpy()
    columns = {
        "latent": np.arange(len(balance.fires)),
        "fires": balance.fires.numpy(),
        "firing_bits": balance.firing_bits.numpy(),
        "value_bits": balance.value_bits.numpy(),
        "cost": balance.cost.numpy(),
        "gain": balance.gain.numpy(),
        "relative_gain": balance.relative.numpy(),
        "worth": balance.worth.numpy(),
        "net": balance.net.numpy(),
        "net_low": balance.low.numpy(),
        "net_high": balance.high.numpy(),
        "break_even": np.where(np.isfinite(break_even), break_even, np.nan),
        "pays": (balance.alive & ~balance.unpaid).numpy(),
    }
    return BALANCE.of(
        columns,
        subject,
        tokens=n_tokens,
        epsilon=options.epsilon,
        width_unit=options.width_unit,
        exchange_rate=options.exchange_rate,
    )
