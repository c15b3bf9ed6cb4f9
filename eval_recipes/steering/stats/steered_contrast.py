"""Effect of steering with latents that separate two sets of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.generate.trials import Arm, Trial
from eval_recipes.steering.judges.probe import Probe, effect
from eval_recipes.steering.select.contrast import Separating


@dataclass(frozen=True)
class AmountEffect:
    """The classifier's mean chance before and after steering at one strength, and its change."""

    amount: float
    before: float
    after: float
    change: Interval


@dataclass(frozen=True)
class ContrastLatent:
    """How well one latent separates the sets, and the effect of steering with it."""

    latent: int
    selected: float
    measured: Interval
    steered: tuple[AmountEffect, ...]
    random: tuple[AmountEffect, ...]
    """Effect of random directions of the same norm, another for each repeat; whole repeats are
    resampled."""


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
    Return the effect of steering with each latent on the classifier's chance of the property.

    Args:
        trials: all arms.
        separating: the latents, best first.
        probe: the classifier.
        n_texts: texts of both sets.
        amounts: strengths, the headline's first.
        seed: of the resamples.
    """

    def effects(arm: Arm, latent: int) -> Iterator[AmountEffect]:
        for amount in amounts:
            pairs = [
                trial
                for trial in trials
                if (trial.arm, trial.latent, trial.amount) == (arm, latent, amount)
            ]
            if pairs:
                # a repeat has one random direction, whatever the prompt
                repeats = [trial.repeat for trial in pairs]
                found = effect(
                    probe,
                    [trial.original.text for trial in pairs],
                    [trial.other.text for trial in pairs],
                    prompts=[trial.prompt for trial in pairs],
                    directions=repeats if arm == "random" else None,
                    seed=seed,
                )
                yield AmountEffect(amount, found.before, found.after, found.change)

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
                steered=tuple(effects("steered", one.latent)),
                random=tuple(effects("random", one.latent)),
            )
            for one in separating
        ),
    )
