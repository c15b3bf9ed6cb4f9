"""What every judge of steering takes and gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from eval_recipes.steering.generate.decoding import Continuation
from eval_recipes.steering.generate.prompts import Prompt


@dataclass(frozen=True)
class Pair:
    """
    Two continuations of one prompt, and the concept the second was steered towards.

    Attributes:
        concept: the latent's explanation.
        prompt: what both continue.
        original: the unsteered text.
        steered: the steered one; in a control another unsteered one.
    """

    concept: str
    prompt: Prompt
    original: Continuation
    steered: Continuation


class Status(Enum):
    """Whether there is a verdict, and if not, why."""

    JUDGED = "judged"
    UNPARSEABLE = "unparseable"
    """The judge's reply is not of the form asked for."""
    REFUSED = "refused"
    """The judge refuses this request for good."""
    UNANSWERED = "unanswered"
    """Budget or patience ran out; the same run goes on from here another time."""
    NOT_APPLICABLE = "not applicable"
    """The pair holds nothing that this judge could look at."""


@dataclass(frozen=True)
class Verdict:
    """
    What a judge says of a pair.

    Attributes:
        status: whether there is a verdict.
        score: on the judge's own scale, larger for more of the concept; None without.
        success: whether the score counts as success; None without.
        reason: why there is no verdict.
    """

    status: Status
    score: float | None = None
    success: bool | None = None
    reason: str = ""


class Judge(Protocol):
    """Says of pairs whether steering did what the explanation says."""

    @property
    def name(self) -> str:
        """Short name for tables."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return everything that decides its verdicts, as plain JSON."""
        ...

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Return a verdict for each pair, in their order."""
        ...
