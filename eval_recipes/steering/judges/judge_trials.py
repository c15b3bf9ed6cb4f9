"""Verdicts of all judges on all pairs; fluency of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from eval_recipes.chat import JudgeClient
from eval_recipes.steering.generate.language_model import LanguageModel
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.generate.trials import Trial
from eval_recipes.steering.judges.chat import ChatJudge
from eval_recipes.steering.judges.embedding import EmbeddingJudge, SentenceModel
from eval_recipes.steering.judges.log_probability import (
    Fluency,
    LogProbabilityJudge,
    TextScore,
    Written,
    fluency,
)
from eval_recipes.steering.judges.protocol import (
    Judge,
    Pair,
    Status,
    ThresholdJudge,
    Verdict,
)
from eval_recipes.steering.options import JudgeName, SteeringEvalConfig

_FAILED = (Status.UNPARSEABLE, Status.REFUSED)
_UNEXPLAINED = Verdict(Status.NOT_APPLICABLE, reason="the latent has no explanation")


class UnansweredError(RuntimeError):
    """Pairs have no verdict yet; the message gives their number and the reason."""


class NoVerdictError(RuntimeError):
    """A judge has no verdict on any pair; the message says why and what to do."""


@dataclass(frozen=True)
class Judged:
    """Pairs with their verdicts and fluency."""

    trials: list[Trial]
    """All pairs except the calibration's."""
    verdicts: dict[JudgeName, list[Verdict]]
    """Of each judge, one per trial."""
    fluency: list[Fluency]
    """Of each trial."""
    judges: dict[JudgeName, dict[str, Any]]
    """Everything that decides each judge's verdicts, its threshold included."""
    calibration: list[Trial] = field(default_factory=list[Trial])
    """The pairs that thresholds were learned from, each in both orders."""
    calibration_verdicts: dict[JudgeName, list[Verdict]] = field(
        default_factory=dict[JudgeName, list[Verdict]]
    )
    """Of each judge that learned its threshold, one per calibration pair."""


class Judges:
    """Makes the judges of the settings; the sentence model is loaded at most once."""

    def __init__(self, config: SteeringEvalConfig, client: JudgeClient | None) -> None:
        self.config = config
        self.client = client
        self._sentences: SentenceModel | None = None

    @property
    def sentences(self) -> SentenceModel:
        """The sentence embeddings."""
        if self._sentences is None:
            self._sentences = SentenceModel()
        return self._sentences

    def make(self, name: JudgeName, model: LanguageModel) -> Judge:
        """Return a judge; a calibrated judge has yet to learn its threshold."""
        if name == "embedding":
            return EmbeddingJudge(self.sentences)
        if name == "embedding_published":
            return EmbeddingJudge.published(self.sentences)
        if name == "log_probability":
            return LogProbabilityJudge(model.backend, model.tokenizer)
        assert self.client is not None
        return ChatJudge(self.client)


def judge_trials(
    trials: Sequence[Trial],
    concepts: Mapping[int, str],
    prompts: Sequence[Prompt],
    model: LanguageModel,
    judges: Judges,
) -> Judged:
    """
    Let every judge judge every pair; thresholds come from the calibration's pairs.

    ``concepts`` holds the explanations; latents without one get no verdict.

    Raises:
        InputError: if the calibration has too few pairs.
        UnansweredError: if the chat model left pairs without a reply. Replies are kept, so
            the next run asks only for the others.
        NoVerdictError: if the chat model refuses every pair, or never answers as asked.
    """

    def pair(trial: Trial) -> Pair:
        return Pair(
            concepts.get(trial.latent, ""),
            prompts[trial.prompt],
            trial.original,
            trial.other,
        )

    # either text might have been the first, so both orders are used
    calibration = [
        trial
        for one in trials
        if one.arm == "calibration" and one.latent in concepts
        for trial in (one, replace(one, original=one.other, other=one.original))
    ]
    kept = [trial for trial in trials if trial.arm != "calibration"]
    pairs = [pair(trial) for trial in kept]
    explained = [pair(trial) for trial in kept if trial.latent in concepts]
    unsteered = [pair(trial) for trial in calibration]
    verdicts: dict[JudgeName, list[Verdict]] = {}
    learned: dict[JudgeName, list[Verdict]] = {}
    described: dict[JudgeName, dict[str, Any]] = {}
    seen: dict[Written, TextScore] = {}
    for name in judges.config.judges:
        judge = judges.make(name, model)
        if explained and isinstance(judge, ThresholdJudge) and judge.threshold is None:
            scores = judge.scores(unsteered)
            judge.learn(
                scores,
                rate=judges.config.false_positive_rate,
                clusters=[trial.latent for trial in calibration],
            )
            learned[name] = judge.verdicts(unsteered, scores)
        said = judge.judge(explained) if explained else []
        _require_verdicts(name, said)
        left = iter(said)
        verdicts[name] = [
            next(left) if trial.latent in concepts else _UNEXPLAINED for trial in kept
        ]
        described[name] = judge.describe()
        if isinstance(judge, LogProbabilityJudge):
            seen = judge.seen
    return Judged(
        kept,
        verdicts,
        fluency(model.backend, pairs, seen=seen),
        described,
        calibration=calibration if learned else [],
        calibration_verdicts=learned,
    )


def _require_verdicts(name: str, verdicts: Sequence[Verdict]) -> None:
    missing = [one for one in verdicts if one.status is Status.UNANSWERED]
    if missing:
        raise UnansweredError(
            f"{len(missing)} of {len(verdicts)} pairs have no verdict of the judge {name!r}: "
            f"{missing[0].reason}. What it said is kept: the same run goes on from there."
        )
    statuses = [one.status for one in verdicts]
    failed = [one for one in verdicts if one.status in _FAILED]
    # a pair that a judge cannot judge is no failure of the judge
    if failed and Status.JUDGED not in statuses:
        raise NoVerdictError(
            f"The judge {name!r} has no verdict on any of {len(verdicts)} pairs; expected one or "
            f"more. The first: {failed[0].reason}. Ask a model that answers at once with a digit "
            "(judge_model); one that refuses the temperature may answer with "
            "judge_temperature=null, which leaves it to the server."
        )
