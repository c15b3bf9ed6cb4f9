"""
The chat model as judge of steering.

Its prompt is only here: ``_INSTRUCTIONS``, and ``messages``, which puts a pair below them. The
replies that it understands are those of ``parse_score``; ``SUCCESS`` is the threshold. None of
these needs a further change: ``judge_prompt_identity`` is part of the key of results, so
they are evaluated anew.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eval_recipes.chat import (
    BudgetExceeded,
    JudgeClient,
    JudgeUnavailable,
    Message,
    RequestRefused,
)
from eval_recipes.steering.judges.protocol import Pair, Status, Verdict

SUCCESS = 4
"""Lowest score that is a success (arXiv 2603.04198)."""

_INSTRUCTIONS = """\
You compare two continuations of the same opening words. A is how a language model went on by \
itself. B is how it went on while somebody tried to push it towards a concept. Say whether B \
expresses the concept more than A does. Judge the concept alone: not grammar, not taste, not \
truth. If both express it equally, or neither does, nothing has changed.

Answer with one digit and nothing else:
1 - B expresses the concept far less than A
2 - B expresses the concept somewhat less than A
3 - no difference
4 - B expresses the concept somewhat more than A
5 - B expresses the concept far more than A"""

_REPLY = re.compile(
    r"(?:score|answer|rating)?\s*[:=]?\s*([1-5])(?:\s*/\s*5)?\s*\.?", re.I
)
_MOST_TOKENS = 16
"""Room for tokens that some servers count around the digit."""


def messages(pair: Pair) -> list[Message]:
    """Return the chat that asks about a pair."""
    asked = (
        f"Concept: {pair.concept}\n\n"
        f"Opening words: {pair.prompt.text}\n\n"
        f"A: {pair.original.text.strip()}\n\n"
        f"B: {pair.steered.text.strip()}"
    )
    return [
        {"role": "system", "content": _INSTRUCTIONS},
        {"role": "user", "content": asked},
    ]


def judge_prompt_identity() -> str:
    """Return a hash of the prompt and of the rules that turn replies into verdicts."""
    rules = f"{_REPLY.pattern} {_MOST_TOKENS} {SUCCESS}"
    code = inspect.getsource(messages) + inspect.getsource(parse_score)
    return hashlib.sha256((_INSTRUCTIONS + rules + code).encode()).hexdigest()


def parse_score(text: str) -> int | None:
    """
    Return the score in a reply, or None if the reply is not of the form asked for.

    >>> parse_score("4"), parse_score("Score: 5/5."), parse_score("between 3 and 4")
    (4, 5, None)
    """
    match = _REPLY.fullmatch(text.strip().strip("*`\"'").strip())
    return None if match is None else int(match[1])


class ChatJudge:
    """
    Asks a chat model for a score from 1 to 5; 3 is no difference, 4 and 5 are success.

    Replies are cached by the client, so an interrupted run repeats no paid call. The published
    judge has temperature 0.
    """

    name = "chat"

    def __init__(self, client: JudgeClient) -> None:
        self.client = client

    def describe(self) -> dict[str, Any]:
        """Return everything that decides its verdicts."""
        return {
            "judge": self.name,
            "model": self.client.config.model,
            "base_url": self.client.config.url,
            "temperature": self.client.config.temperature,
            "instructions": _INSTRUCTIONS,
            "success_from": SUCCESS,
        }

    def judge(self, pairs: Sequence[Pair]) -> list[Verdict]:
        """Return a verdict for each pair, with a reason where there is no reply."""
        signal = self.client.signal()
        pool = ThreadPoolExecutor(self.client.config.concurrency)
        try:
            return list(pool.map(lambda pair: self._judge(pair, signal), pairs))
        except BaseException:
            # requests that wait for their turn or another attempt would delay the end
            signal.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def _judge(self, pair: Pair, signal: threading.Event) -> Verdict:
        try:
            reply = self.client.ask(
                messages(pair), max_tokens=_MOST_TOKENS, signal=signal
            )
        except RequestRefused as error:
            return Verdict(Status.REFUSED, reason=str(error))
        except (BudgetExceeded, JudgeUnavailable) as error:
            return Verdict(Status.UNANSWERED, reason=str(error))
        if not reply.text:
            return Verdict(
                Status.UNPARSEABLE,
                reason=f"the judge's reply is empty: it spent {reply.completion_tokens} of at "
                f"most {_MOST_TOKENS} tokens before any text, as models do that reason first",
            )
        score = parse_score(reply.text)
        if score is None:
            return Verdict(
                Status.UNPARSEABLE,
                reason=f"the judge said {reply.text[:200]!r}; expected a digit from 1 to 5",
            )
        return Verdict(Status.JUDGED, float(score), score >= SUCCESS)
