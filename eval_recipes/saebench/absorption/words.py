"""The words of the absorption eval: which tokens of a vocabulary stand for words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from sae_bench.evals.absorption.prompting import (
    VERBOSE_FIRST_LETTER_TEMPLATE,
    VERBOSE_FIRST_LETTER_TOKEN_POS,
)
from sae_bench.evals.absorption.vocab import LETTERS, get_alpha_tokens

from saereg_plugin.errors import InputError

TEMPLATE = VERBOSE_FIRST_LETTER_TEMPLATE
POSITION = VERBOSE_FIRST_LETTER_TOKEN_POS
"""Where upstream reads a prompt: the word's token, counted from the prompt's end."""

# A fifth of the words is tested on; with fewer, letters without any test word are common.
_LEAST_WORDS = 10

# Strings given to the tokenizer at once.
_CHUNK = 4096


def first_letter(word: str) -> str:
    """Return the lower-case first letter of a word that may start with a space."""
    return word.strip()[0].lower()


def word_tokens(tokenizer: Any) -> list[str]:
    """
    Return the alphabetic tokens that upstream can read, in the order of their ids.

    Upstream takes them in the order of a hash map, which differs from process to
    process, and reads every prompt at one fixed position: a word that its own
    prompt splits into several tokens would be read in its middle, silently.
    """
    words = get_alpha_tokens(tokenizer)
    found: list[tuple[int, str]] = []
    (head,) = tokenizer(["\n"], add_special_tokens=False)["input_ids"]
    for start in range(0, len(words), _CHUNK):
        chunk = words[start : start + _CHUNK]
        prompts = ["\n" + TEMPLATE.format(word=word) for word in chunk]
        rows = tokenizer(
            prompts, add_special_tokens=False, return_attention_mask=False
        )["input_ids"]
        for word, ids in zip(chunk, rows, strict=True):
            whole = len(ids) == len(head) - POSITION
            if whole and tokenizer.decode([ids[POSITION]]).strip() == word.strip():
                found.append((ids[POSITION], word))
    return [word for _, word in sorted(found)]


def sample_words(
    words: Sequence[str], *, words_per_letter: int | None, seed: int
) -> list[str]:
    """
    Return up to ``words_per_letter`` words of each letter, None for all, in order.

    Raises:
        InputError: if a letter has too few words to train and test a probe.
    """
    by_letter: dict[str, list[int]] = {letter: [] for letter in LETTERS}
    for index, word in enumerate(words):
        by_letter[first_letter(word)].append(index)
    short = [name for name, found in by_letter.items() if len(found) < _LEAST_WORDS]
    if short:
        raise InputError(
            "absorption needs a vocabulary whose tokens are words: this tokenizer has fewer than "
            f"{_LEAST_WORDS} that start with {', '.join(short)}."
        )
    if words_per_letter is None:
        return list(words)
    generator = random.Random(seed)
    chosen = [
        index
        for found in by_letter.values()
        for index in generator.sample(found, min(words_per_letter, len(found)))
    ]
    return [words[index] for index in sorted(chosen)]
