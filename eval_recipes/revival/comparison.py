"""Gains of dead latents that were given back, next to a control's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.results.subject import Subject
from eval_recipes.revival.residuals import ResidualTally, spread
from eval_recipes.revival.verdict import LEAST_GAIN, verdict
from eval_recipes.running.activation_source import Source, place_of, read_model
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import Passed, tally_heldout
from eval_recipes.statistics.interval import (
    Array,
    Interval,
    Statistic,
    bootstrap_together,
    wilson,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json
from saereg_plugin.revival.training import (
    CONTINUED,
    REVIVED,
    WIDENED,
    Revival,
    RevivalPlan,
)
from saereg_plugin.sweeps.config import sae_id

COLUMNS = ("group", "seed", "figure", "value", "low", "high", "n")


@dataclass(frozen=True)
class _Measured:
    """Sums of one SAE over held-out contexts."""

    residual: Array
    """||x - x_hat||^2, [contexts]."""
    fired: Tensor
    """Latents that fire, bool [d_sae]."""
    passed: Passed
    loss: Array | None = None
    """Cross-entropy summed over the predicted tokens, [contexts of the loss]."""
    predicted: Array | None = None
    """Number of these tokens."""


@dataclass(frozen=True)
class Comparison:
    """
    Gains of every group.

    Attributes:
        frame: columns ``COLUMNS``; a row per figure, group and seed, and one for the mean
            over seeds, whose seed is None.
        verdicts: a sentence per group.
    """

    frame: pd.DataFrame
    verdicts: Mapping[str, str]

    def write(self, path: Path, **about: Any) -> Path:
        """Write rows and verdicts as JSON."""
        rows = self.frame.astype(object).where(self.frame.notna(), None)
        content = {
            **about,
            "verdicts": dict(self.verdicts),
            "rows": rows.to_dict("records"),
        }
        write_json(path, content)
        return path


def compare(
    plan: RevivalPlan,
    context: RunContext,
    *,
    loss_contexts: int = 64,
    least_gain: float = LEAST_GAIN,
) -> Comparison:
    """
    Measure what each arm gained over the arm that was trained on as it was.

    Explained variance and, on a language model, cross-entropy with the SAE's output in place
    of the activations (special tokens keep theirs). Arms are paired over contexts.

    Args:
        plan: the plan of the training.
        context: a run whose subjects are the trained arms.
        loss_contexts: contexts for the cross-entropy; 0 leaves it out.
        least_gain: smallest difference of the explained variance that a verdict counts.

    Raises:
        InputError: if an arm cannot be measured, or was taken out of training.
    """
    measured = _measure(context, loss_contexts)
    rows: list[dict[str, Any]] = []
    verdicts: dict[str, str] = {}
    for one in plan.revivals:
        found = _gains(plan, one, measured, seed=context.seed)
        rows += found
        verdicts[one.group] = verdict(one, found, least_gain=least_gain)
    return Comparison(pd.DataFrame(rows, columns=pd.Index(COLUMNS)), verdicts)


def _measure(context: RunContext, loss_contexts: int) -> dict[str, _Measured]:
    found, failures = tally_heldout(
        context,
        context.subjects,
        lambda _, sae: ResidualTally(sae),
        lambda tally, passed: _Measured(tally.by_context, tally.fired, passed),
    )
    for name, cause in failures.items():
        raise InputError(f"SAE {name!r} has no held-out figures: {cause}.")
    if loss_contexts == 0:
        return found
    return {
        subject.sae_id: _with_loss(
            context, subject, found[subject.sae_id], loss_contexts
        )
        for subject in tqdm(context.subjects, desc="model with SAEs in place")
    }


def _with_loss(
    context: RunContext, subject: Subject, measured: _Measured, contexts: int
) -> _Measured:
    """Return the sums with the cross-entropy; without, for an SAE on no language model."""
    sae = subject.load_flat(context.device)
    if not isinstance(place_of(context, sae).source, Source):
        return measured
    tokens = measured.passed.tokens[:contexts].long()
    losses = patched_losses(context, sae, tokens)
    counts = np.full(len(losses), float(tokens.shape[1] - 1))
    return _Measured(measured.residual, measured.fired, measured.passed, losses, counts)


@torch.no_grad()
def patched_losses(context: RunContext, sae: SAE[Any], tokens: Tensor) -> Array:
    """
    Return the summed cross-entropy of each context with an SAE's output in the model.

    Args:
        context: the run.
        sae: the SAE, which reads heads joined to one vector (``Subject.load_flat``).
        tokens: ids, int64 [contexts, tokens].

    Raises:
        InputError: for an SAE on a single head.
    """
    source, model = read_model(context, sae)
    if source.hook_head_index is not None:
        raise InputError("An SAE on a single head cannot be put into the model.")
    special = torch.tensor(model.tokenizer.all_special_ids)  # pyright: ignore[reportOptionalMemberAccess]
    losses: list[NDArray[np.float64]] = []
    for batch in tokens.split(context.batch_size_prompts):
        kept = ~torch.isin(batch, special)

        def patch(activations: Tensor, hook: Any, kept: Tensor = kept) -> Tensor:  # noqa: ARG001
            flat = activations.flatten(2) if activations.ndim == 4 else activations
            made = sae.decode(sae.encode(flat.to(sae.dtype))).to(flat.dtype)
            whole = torch.where(kept.to(flat.device)[..., None], made, flat)
            return whole.view_as(activations)

        loss = model.run_with_hooks(
            batch.to(context.device),
            return_type="loss",
            loss_per_token=True,
            fwd_hooks=[(source.hook_name, patch)],
        )
        losses.append(loss.double().sum(1).cpu().numpy())
    return np.concatenate(losses)


def _gains(
    plan: RevivalPlan, one: Revival, measured: Mapping[str, _Measured], *, seed: int
) -> list[dict[str, Any]]:
    """Return the rows of a group: its gains by seed, and their mean."""
    pairs = {"revived": (one.arm(REVIVED), one.arm(CONTINUED))}
    if one.control is not None:
        pairs["control"] = (one.control_arm(WIDENED), one.control_arm(CONTINUED))
    seeds = list(plan.sweep.seeds)
    for arms in pairs.values():
        for arm in arms:
            for number in seeds:
                if sae_id(arm, number) not in measured:
                    raise InputError(
                        f"SAE {sae_id(arm, number)!r} was taken out of training, so that its group has "
                        "no comparison. Lower the learning rate, or leave the group out."
                    )
    rows: list[dict[str, Any]] = []
    single = [(number, [number]) for number in seeds]
    for of, wanted in [*single, (None, seeds)]:
        figures = _variance(pairs, wanted, measured, seed=seed)
        figures |= _loss(pairs, wanted, measured, seed=seed)
        figures |= _per_latent(figures, one.latents)
        figures["latents"] = Interval(float(one.latents), None, None, len(wanted))
        figures["fire_again"] = _fire_again(one, wanted, measured)
        for name, f in figures.items():
            values: tuple[Any, ...] = (of, name, f.value, f.low, f.high, f.n)
            rows.append(dict(zip(COLUMNS, (one.group, *values), strict=True)))
    return rows


Pairs = Mapping[str, tuple[str, str]]


def _variance(
    pairs: Pairs, seeds: Sequence[int], measured: Mapping[str, _Measured], *, seed: int
) -> dict[str, Interval]:
    """Return the gains in explained variance, mean over seeds, and their difference."""
    first = measured[sae_id(next(iter(pairs.values()))[0], seeds[0])]
    sums = first.passed.kept
    saved = {
        name: np.mean(
            [
                measured[sae_id(base, s)].residual - measured[sae_id(arm, s)].residual
                for s in seeds
            ],
            axis=0,
        )
        for name, (arm, base) in pairs.items()
    }

    def gain(less: Array) -> Statistic:
        return lambda weights: (weights @ less) / spread(sums, weights)

    statistics = {f"{name}_variance_gain": gain(less) for name, less in saved.items()}
    if "control" in saved:
        statistics["variance_gain_over_control"] = gain(
            saved["revived"] - saved["control"]
        )
    return bootstrap_together(statistics, len(sums.count), seed=seed)


def _per_latent(figures: Mapping[str, Interval], n: int) -> dict[str, Interval]:
    """Return the gains in explained variance over n, which differs between groups."""
    return {
        f"{name}_per_latent": found._replace(
            value=found.value / n,
            low=None if found.low is None else found.low / n,
            high=None if found.high is None else found.high / n,
        )
        for name, found in figures.items()
        if "variance_gain" in name
    }


def _loss(
    pairs: Pairs, seeds: Sequence[int], measured: Mapping[str, _Measured], *, seed: int
) -> dict[str, Interval]:
    """Return the gains in cross-entropy, nats a token, mean over seeds; none without a model."""
    less: dict[str, Array] = {}
    count: Array | None = None
    for name, (arm, base) in pairs.items():
        parts: list[Array] = []
        for s in seeds:
            better, worse = measured[sae_id(arm, s)], measured[sae_id(base, s)]
            if better.loss is None or worse.loss is None:
                return {}
            count = better.predicted
            parts.append(worse.loss - better.loss)
        less[name] = np.mean(parts, axis=0)
    assert count is not None
    tokens = count

    def gain(values: Array) -> Statistic:
        return lambda weights: (weights @ values) / (weights @ tokens)

    statistics = {f"{name}_loss_gain": gain(values) for name, values in less.items()}
    if "control" in less:
        statistics["loss_gain_over_control"] = gain(less["revived"] - less["control"])
    return bootstrap_together(statistics, len(tokens), seed=seed)


def _fire_again(
    one: Revival, seeds: Sequence[int], measured: Mapping[str, _Measured]
) -> Interval:
    """Return the share of the latents given back that fire on the held-out contexts."""
    again = [
        measured[sae_id(one.arm(REVIVED), s)].fired[
            one.dead[sae_id(one.group, s)][: one.latents]
        ]
        for s in seeds
    ]
    return wilson(int(torch.cat(again).sum()), one.latents * len(seeds))
