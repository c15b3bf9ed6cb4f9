"""Whisper's greedy transcripts of encoded clips, and their words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DynamicCache,
    EncoderDecoderCache,
    WhisperForConditionalGeneration,
)
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from saereg_plugin.errors import InputError


@dataclass(frozen=True)
class Decoding:
    """
    What Whisper's usual generation configuration says of decoding.

    Attributes:
        prompt: tokens that every transcript begins with.
        end: id of the token that ends a text.
        silence: id of the token whose probability says that nobody speaks.
        suppressed: ids that are never chosen.
        first: ids that are also never chosen as the first token, ``end`` among them.
    """

    prompt: tuple[int, ...]
    end: int
    silence: int
    suppressed: tuple[int, ...]
    first: tuple[int, ...]

    @classmethod
    def of(cls, model: WhisperForConditionalGeneration) -> Decoding:
        """
        Read a model's generation configuration.

        Raises:
            InputError: if it lacks the token that turns time stamps off.
        """
        config: Any = model.generation_config
        whole: Any = model.config
        no_stamps = getattr(config, "no_timestamps_token_id", None)
        if no_stamps is None:
            raise InputError(
                "The model's generation configuration names no no_timestamps_token_id; expected "
                "the one that is published with Whisper (generation_config.json)."
            )
        prompt = [int(config.decoder_start_token_id)]
        if getattr(config, "is_multilingual", False):
            prompt += [config.lang_to_id["<|en|>"], config.task_to_id["transcribe"]]
        end = int(whole.eos_token_id)
        first = list(config.begin_suppress_tokens or [])
        return cls(
            prompt=(*prompt, no_stamps),
            end=end,
            silence=no_stamps - 1,
            suppressed=tuple(config.suppress_tokens or []),
            first=tuple(dict.fromkeys([*first, end])),
        )


@dataclass(frozen=True)
class Transcript:
    """
    A clip's greedy transcript where the end is forbidden as the first token.

    Attributes:
        tokens: new tokens, without the end.
        ends_first: whether the end is the likeliest first token where it is allowed; under
            that rule the text is then empty, and else it is the same.
        silence: probability that nobody speaks, from the first position.
        log_probability: mean over the tokens, the end included.
    """

    tokens: tuple[int, ...]
    ends_first: bool
    silence: float
    log_probability: float


@torch.no_grad()
def transcribe(
    model: WhisperForConditionalGeneration,
    encoded: Tensor,
    decoding: Decoding,
    *,
    most_tokens: int,
) -> list[Transcript]:
    """
    Return the transcripts of encoded clips (clips, frames, d_in).

    Clips leave the batch as they end. ``most_tokens`` 0 reads the first position alone.
    """
    n = len(encoded)
    state = EncoderDecoderCache(DynamicCache(), DynamicCache())
    fed = torch.tensor([decoding.prompt] * n, device=encoded.device)
    logits = _logits(model, encoded, fed, state)
    silence = logits[:, 0].softmax(-1)[:, decoding.silence]
    step = _without(logits[:, -1], decoding.suppressed)
    others = [token for token in decoding.first if token != decoding.end]
    ends_first = _without(step, others).argmax(-1) == decoding.end
    step = _without(step, decoding.first)
    tokens: list[list[int]] = [[] for _ in range(n)]
    scores = torch.zeros(n, device=encoded.device)
    counts = torch.zeros(n, device=encoded.device)
    live = torch.arange(n, device=encoded.device)
    for number in range(most_tokens):
        chosen = step.argmax(-1)
        scores[live] += step.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        counts[live] += 1
        going = (chosen != decoding.end).nonzero()[:, 0]
        if len(going) < len(live):
            live, chosen = live[going], chosen[going]
            state.batch_select_indices(going)
        for row, token in zip(live.tolist(), chosen.tolist(), strict=True):
            tokens[row].append(token)
        if not len(live) or number + 1 == most_tokens:
            break
        # the state has keys and values of the clips: of their frames the shape alone is read
        logits = _logits(model, encoded[: len(live)], chosen[:, None], state)
        step = _without(logits[:, -1], decoding.suppressed)
    means = (scores / counts.clamp(min=1)).tolist()
    return [
        Transcript(tuple(found), bool(first), float(quiet), float(mean))
        for found, first, quiet, mean in zip(
            tokens, ends_first.tolist(), silence.tolist(), means, strict=True
        )
    ]


def _logits(
    model: WhisperForConditionalGeneration,
    encoded: Tensor,
    tokens: Tensor,
    state: EncoderDecoderCache,
) -> Tensor:
    """Return logits (clips, tokens, vocabulary) in float32; the state grows."""
    output: Any = model(
        encoder_outputs=(encoded,),
        decoder_input_ids=tokens,
        past_key_values=state,
        use_cache=True,
    )
    return output.logits.float()


def _without(logits: Tensor, tokens: Any) -> Tensor:
    """Return logits in which some tokens are impossible."""
    found = logits.clone()
    found[:, list(tokens)] = -torch.inf
    return found


class Words:
    """
    Texts of a model's tokens, and their words as Whisper's error rates count them.

    British spellings are kept: the normaliser's table of them is no part of the embedded model.
    """

    def __init__(self, folder: str) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._normalise = EnglishTextNormalizer({})

    def text(self, tokens: tuple[int, ...]) -> str:
        """Return the text of tokens, without special ones."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True).strip()

    def words(self, text: str) -> list[str]:
        """Return a text's words: lower case, no punctuation, numbers as digits."""
        return self._normalise(text).split()

    def errors(self, reference: str, text: str) -> tuple[int, int]:
        """Return wrong, missing and added words of a text together, and the reference's words."""
        from jiwer import process_words

        wanted, found = self.words(reference), self.words(text)
        if not found:
            return len(wanted), len(wanted)
        counted = process_words(" ".join(wanted), " ".join(found))
        wrong = counted.substitutions + counted.deletions + counted.insertions
        return wrong, len(wanted)
