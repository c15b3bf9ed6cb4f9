"""Slow, independent versions of the absorption recipe's own figures: plain Python."""

from __future__ import annotations

import random
import re


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
