"""Metrics of one SAE's code with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval_recipes.mdl.bins import Width, bin_numbers, coarsest_width, width_units
from eval_recipes.mdl.code import code_length, crossed_bits, number_of_bins
from eval_recipes.mdl.latents import LatentBalance, latent_balance
from eval_recipes.mdl.options import MdlEvalConfig
from eval_recipes.mdl.tally import HeldOutCodes
from eval_recipes.statistics.interval import (
    NO_VARIATION,
    Array,
    ContextSums,
    Interval,
    Statistic,
    bootstrap_together,
    explained_variance,
    percentile_interval,
)
from eval_recipes.statistics.seeds import bootstrap_mean_interval

Figures = dict[str, Interval | None]


@dataclass(frozen=True)
class Measured:
    """Metrics with intervals and plain values by category, and every latent's balance."""

    figures: dict[str, Figures]
    values: dict[str, dict[str, Any]]
    balance: LatentBalance


def measure(held: HeldOutCodes, sums: ContextSums, options: MdlEvalConfig) -> Measured:
    """
    Return all figures of an SAE from its codes and the sums of the activations.

    Raises:
        ValueError: if the activations do not vary, or no bin width keeps the error.
    """
    spread = _spread(sums)
    if spread <= 0:
        raise ValueError("the activations do not vary, so that no width is relative")
    units = width_units(held, spread, options.width_unit)
    width = coarsest_width(held, units, epsilon=options.epsilon)
    codes = held.codes
    numbers = bin_numbers(codes.values, width.of_latents[codes.latents])
    precision = math.log2(number_of_bins(numbers))
    length = code_length(codes, numbers)
    balance = latent_balance(held, length, exchange_rate=options.exchange_rate)
    of_contexts = bootstrap_together(
        _statistics(held, sums, numbers, width, precision),
        held.n_contexts,
        resamples=options.n_resamples,
        seed=options.random_seed,
    )
    found: Figures = {name: _with_spread(each) for name, each in of_contexts.items()}
    if math.isnan(of_contexts["equal_error"].value):
        found["equal_error"] = None
    of_width = ("rise", "mse")
    tokens = options.dictionary_tokens or len(codes)
    row_bits = held.d_in * options.weight_bits / tokens
    return Measured(
        figures={
            "code": {k: v for k, v in found.items() if k not in of_width},
            "width": {k: found[k] for k in of_width},
            "latents": latent_figures(balance, options),
        },
        values={
            "code": {
                "dense": held.d_in * precision,
                "dictionary": codes.d_sae * row_bits,
                "dictionary_fired": int(balance.alive.sum()) * row_bits,
            },
            "width": {
                "relative_width": width.relative,
                "value_precision": precision,
                "n_tokens": len(codes),
            },
            "latents": {},
        },
        balance=balance,
    )


def _spread(sums: ContextSums) -> float:
    """Return the root of the mean ``||x - mean x||^2``."""
    n = sums.count.sum()
    mean = sums.total.sum(0) / n
    return math.sqrt(max(float(sums.square.sum() / n - np.square(mean).sum()), 0.0))


def _statistics(
    held: HeldOutCodes,
    sums: ContextSums,
    numbers: Tensor,
    width: Width,
    precision: float,
) -> dict[str, Statistic]:
    """
    Return the figures over contexts, as functions of how often each context counts.

    The tables of the code are those of all contexts: a resample is other text in the same code.
    """
    codes, contexts, n = held.codes, held.contexts, held.n_contexts
    length = code_length(codes, numbers)
    firing, value = (each.numpy() for each in length.per_context(codes, contexts, n))
    crossed = crossed_bits(codes, numbers, contexts, n).numpy()
    active = _of_contexts(codes.selected.row_offsets.diff().double(), held)
    residual = _of_contexts(held.residual, held)
    coded = _of_contexts(width.residual, held)
    rows = sums.count
    each = precision + math.log2(codes.d_sae)

    def equal_error(weights: Array) -> Array:
        left = 1 - explained_variance(sums, coded, weights)
        bits = np.full(left.shape, np.nan)
        np.log2(left, out=bits, where=(left > 0) & (left < 1))
        return -held.d_in / 2 * bits

    return {
        "bits": lambda w: (w @ (firing + value)) / (w @ rows),
        "firing_bits": lambda w: (w @ firing) / (w @ rows),
        "value_bits": lambda w: (w @ value) / (w @ rows),
        "crossed_bits": lambda w: (w @ crossed) / (w @ rows),
        "l0": lambda w: (w @ active) / (w @ rows),
        "bound": lambda w: (w @ active) / (w @ rows) * each,
        "equal_error": equal_error,
        "rise": lambda w: (w @ coded) / (w @ residual) - 1,
        "mse": lambda w: (w @ residual) / (w @ rows) / held.d_in,
    }


def _of_contexts(values: Tensor, held: HeldOutCodes) -> Array:
    """Return the sums over the rows of each context."""
    total = torch.zeros(held.n_contexts, dtype=torch.float64)
    return total.index_add_(0, held.contexts, values).numpy()


def _with_spread(found: Interval) -> Interval:
    """Drop an interval of no width, such as that of a TopK SAE's L0."""
    if found.low is None or found.high is None:
        return found
    if found.high - found.low > 1e-12 * max(1.0, abs(found.value)):
        return found
    return Interval(found.value, None, None, found.n, NO_VARIATION)


def latent_figures(balance: LatentBalance, options: MdlEvalConfig) -> Figures:
    """Return the figures over latents; None of those that fire if none does."""
    alive = balance.alive
    found: Figures = {"never_fired": _share(~alive, options)}
    if not bool(alive.any()):
        names = ("unpaid", "surely_unpaid", "surely_paid", "harmful")
        more = ("unpaid_bits", "unpaid_gain", "break_even")
        return found | dict.fromkeys((*names, *more))
    unpaid = balance.unpaid[alive]
    known = balance.error.isfinite().all()
    found["unpaid"] = _share(unpaid, options)
    found["surely_unpaid"] = _share(balance.high[alive] < 0, options) if known else None
    found["surely_paid"] = _share(balance.low[alive] > 0, options) if known else None
    found["harmful"] = _share(balance.relative[alive] < 0, options)
    found["unpaid_bits"] = _part(balance.cost[alive], unpaid, options)
    found["unpaid_gain"] = _part(balance.relative[alive], unpaid, options)
    found["break_even"] = _median(balance.break_even[alive].numpy(), options)
    return found


def _share(which: Tensor, options: MdlEvalConfig) -> Interval:
    return bootstrap_mean_interval(
        [which.numpy()],
        caps=[1.0],
        n_resamples=options.n_resamples,
        seed=options.random_seed,
    )


def _part(values: Tensor, which: Tensor, options: MdlEvalConfig) -> Interval | None:
    """Return the share of a sum that some latents have; None if there is no positive sum."""
    numbers, chosen = values.numpy(), which.numpy()
    if numbers.sum() <= 0:
        return None

    def ratio(weights: Array) -> Array:
        whole = weights @ numbers
        share = np.full(whole.shape, np.nan)
        np.divide(weights @ (numbers * chosen), whole, out=share, where=whole > 0)
        return share

    found = bootstrap_together(
        {"": ratio},
        len(numbers),
        resamples=options.n_resamples,
        seed=options.random_seed,
    )[""]
    return _with_spread(found)


def _median(values: Array, options: MdlEvalConfig) -> Interval | None:
    """Return a median with its bootstrap interval; None where it is infinite."""
    value, n = float(np.median(values)), len(values)
    if not math.isfinite(value):
        return None
    if values.min() == values.max():
        return Interval(value, None, None, n, NO_VARIATION)
    generator = np.random.default_rng(options.random_seed)
    draws = [np.median(generator.choice(values, n)) for _ in range(options.n_resamples)]
    found = np.array(draws)
    found[~np.isfinite(found)] = np.nan
    return percentile_interval(value, found, n)
