"""Dated facts the slow way: a whole pass for each token, softmax and means in plain Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tests.oracles.steering_oracle import step_logits


def name_log_probability(
    model: Any,
    hook_name: str,
    prompt: Sequence[int],
    name: Sequence[int],
    added: Tensor,
    first: int,
) -> float:
    """log p(name | prompt), ``added`` to every position from ``first`` on."""
    total = 0.0
    rows = step_logits(model, hook_name, prompt, name, added, first).tolist()
    for logits, token in zip(rows, name, strict=True):
        top = max(logits)
        normaliser = math.fsum(math.exp(logit - top) for logit in logits)
        total += logits[token] - top - math.log(normaliser)
    return total


def shift(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]
) -> float:
    """Mean change of log p(later) - log p(holder); each fact is (holder, later)."""
    changes = []
    for (old_holder, old_later), (holder, later) in zip(before, after, strict=True):
        changes.append((later - holder) - (old_later - old_holder))
    return sum(changes) / len(changes)


def p_value(mine: float, controls: Sequence[float]) -> float:
    """Share of all shifts, the own one counted, at least as large in size."""
    sizes = [abs(mine), *(abs(one) for one in controls)]
    return sum(1 for size in sizes if size >= abs(mine)) / len(sizes)
