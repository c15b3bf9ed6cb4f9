"""Steering with latents that separate two sets of texts: what it does to the property."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.generate.trials import Arm, Trial
from eval_recipes.steering.judges.probe import Probe, effect
from eval_recipes.steering.select.contrast import Separating


@dataclass(frozen=True)
class AmountEffect:
    """The effect at one strength: the classifier's mean chance before, after, and its change."""

    amount: float
    before: float
    after: float
    change: Interval


@dataclass(frozen=True)
class ContrastLatent:
    """One latent: how well it separates the sets, and what steering with it does."""

    latent: int
    selected: float
    measured: Interval
    steered: tuple[AmountEffect, ...]
    random: tuple[AmountEffect, ...]
    """Random directions of the same norm in its place, another for each repeat; whole repeats
    are drawn."""


@dataclass(frozen=True)
class ContrastReport:
    """Contrastive selection of one SAE."""

    texts_a: int
    texts_b: int
    probe: str
    probe_accuracy: Interval
    probe_auroc: Interval
    latents: tuple[ContrastLatent, ...]


def contrast_report(
    trials: Sequence[Trial],
    separating: Sequence[Separating],
    probe: Probe,
    n_texts: tuple[int, int],
    amounts: Sequence[float],
    *,
    seed: int,
) -> ContrastReport:
    """
    Return what steering with each latent does to the classifier's chance of the property.

    Args:
        trials: all arms.
        separating: the latents, best first.
        probe: the classifier.
        n_texts: texts of both sets.
        amounts: strengths, the headline's first.
        seed: of the resamples.
    """

    def effects(arm: Arm, latent: int) -> tuple[AmountEffect, ...]:
        found: list[AmountEffect] = []
        for amount in amounts:
            pairs = [
                trial
                for trial in trials
                if (trial.arm, trial.latent, trial.amount) == (arm, latent, amount)
            ]
            if pairs:
                measured = effect(
                    probe,
                    [trial.original.text for trial in pairs],
                    [trial.other.text for trial in pairs],
                    prompts=[trial.prompt for trial in pairs],
                    # a repeat has one random direction, whatever the prompt
                    directions=[trial.repeat for trial in pairs]
                    if arm == "random"
                    else None,
                    seed=seed,
                )
                found.append(
                    AmountEffect(
                        amount, measured.before, measured.after, measured.change
                    )
                )
        return tuple(found)

    return ContrastReport(
        texts_a=n_texts[0],
        texts_b=n_texts[1],
        probe="logistic regression (C = 1, balanced) on sentence embeddings",
        probe_accuracy=probe.accuracy,
        probe_auroc=probe.auroc,
        latents=tuple(
            ContrastLatent(
                latent=one.latent,
                selected=one.selected,
                measured=one.measured,
                steered=effects("steered", one.latent),
                random=effects("random", one.latent),
            )
            for one in separating
        ),
    )
