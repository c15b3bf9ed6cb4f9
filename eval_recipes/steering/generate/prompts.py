"""Prompts as tokens, and continuations as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saereg_plugin.errors import InputError

PUBLISHED_PROMPTS = (
    "The most important thing is",
    "A common example of",
    "Many people believe that",
)
"""The prompts of arXiv 2603.04198."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its tokens, BOS included if there is one."""

    text: str
    tokens: tuple[int, ...]


def encode_prompts(
    tokenizer: Any, texts: Sequence[str], *, prepend_bos: bool
) -> list[Prompt]:
    """
    Tokenise prompts.

    Args:
        tokenizer: a transformers tokenizer.
        texts: the prompts.
        prepend_bos: whether the SAE was trained with BOS in front. A tokenizer without BOS
            gives its EOS instead, as TransformerLens does.

    Raises:
        InputError: if a prompt has no token, or the tokenizer neither BOS nor EOS.
    """
    if not texts:
        raise InputError("No prompt was given; expected one or more.")
    front = [_first_token(tokenizer)] if prepend_bos else []
    prompts: list[Prompt] = []
    for text in texts:
        tokens = [*front, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        if not tokens:
            raise InputError(
                f"Prompt {text!r} has no tokens; expected one or more. Give it some text, or "
                "a BOS token."
            )
        prompts.append(Prompt(text, tuple(tokens)))
    return prompts


def _first_token(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    raise InputError(
        "The SAE was trained with BOS in front, but this tokenizer has neither a BOS nor an "
        "EOS token; expected one. Use prepend_bos=False."
    )


def decode_continuation(tokenizer: Any, prompt: Prompt, tokens: Sequence[int]) -> str:
    """
    Return the text of tokens that follow a prompt, special tokens left out.

    Decoded together with the prompt, because some tokenizers drop a leading space.
    """
    whole = tokenizer.decode([*prompt.tokens, *tokens], skip_special_tokens=True)
    head = tokenizer.decode(list(prompt.tokens), skip_special_tokens=True)
    if whole.startswith(head):
        return whole[len(head) :]
    # The prompt ends inside a character, which the continuation completes.
    return tokenizer.decode(list(tokens), skip_special_tokens=True)
