"""Slow, independent versions of the absorption recipe's own figures: plain Python."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from operator import mul


def words_by_token_id(tokenizer, *, step: int) -> list[str]:
    """Alphabetic tokens among every ``step``-th, one at a time, that stay one token."""
    found = []
    for token_id in range(0, len(tokenizer), step):
        text = tokenizer.decode([token_id])
        if not re.fullmatch(r" ?[A-Za-z]+", text):
            continue
        prompt = f"\n{text} has the first letter:"
        tail = tokenizer(" has the first letter:", add_special_tokens=False)
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if ids[-len(tail["input_ids"]) - 1] == token_id and len(ids) == 7:
            found.append(text)
    return found


def mean_and_interval(values: list[float], draws: int = 4000) -> tuple[float, ...]:
    """Mean and 95 % percentile bootstrap, drawing letters one by one."""
    generator = random.Random(5)
    n = len(values)
    means = sorted(
        sum(generator.choice(values) for _ in range(n)) / n for _ in range(draws)
    )
    return sum(values) / n, means[int(0.025 * draws)], means[int(0.975 * draws)]


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(map(mul, a, b))


def absorption_of_word(
    activation: Sequence[float],
    latents: Sequence[float],
    rows: Sequence[Sequence[float]],
    direction: Sequence[float],
    main: Sequence[int],
) -> tuple[float, bool]:
    """
    Absorption fraction and full absorption of one word (arXiv 2503.09532, absorption).

    A latent's share is the projection of what it adds to the reconstruction, so that the
    scale of its row is nobody's business.
    """
    length = math.sqrt(_dot(direction, direction))
    unit = [value / length for value in direction]
    whole = _dot(activation, unit)
    share, cosine = [], []
    for value, row in zip(latents, rows, strict=True):
        along = _dot(row, unit)
        share.append(value * along)
        cosine.append(along / math.sqrt(_dot(row, row)))
    mine = math.fsum(share[j] for j in main)
    others = sorted(
        (
            share[j]
            for j in range(len(rows))
            if j not in main and cosine[j] >= 0.1 and share[j] > 0
        ),
        reverse=True,
    )
    absorbed = math.fsum(others[:3])
    if mine >= whole or absorbed / whole < 0.4:
        fraction = 0.0
    elif mine <= 0:
        fraction = 1.0
    else:
        taken = min(absorbed, whole - mine)
        fraction = min(max(taken / (taken + mine), 0.0), 1.0)
    top = max(range(len(rows)), key=lambda j: share[j])
    full = (
        all(latents[j] < 1e-8 for j in main)
        and cosine[top] >= 0.025
        and whole >= 0
        and share[top] / whole >= 0.4
    )
    return fraction, full


def binary_figures(
    truth: Sequence[bool], scores: Sequence[float]
) -> tuple[float, float, float, float]:
    """F1, precision and recall of scores above zero, and the AUC, by counting pairs."""
    called = [s > 0 for s in scores]
    hits = sum(t and c for t, c in zip(truth, called, strict=True))
    precision = hits / sum(called) if any(called) else 0.0
    recall = hits / sum(truth) if any(truth) else 0.0
    both = precision + recall
    pairs = [
        (a > b) + 0.5 * (a == b)
        for a, t in zip(scores, truth, strict=True)
        if t
        for b, u in zip(scores, truth, strict=True)
        if not u
    ]
    f1 = 2 * precision * recall / both if both else 0.0
    return f1, precision, recall, sum(pairs) / len(pairs)
