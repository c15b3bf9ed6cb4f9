"""Explainer and scorer without a language model's words, from minimal token sequences."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from sae_bench.evals.autointerp.main import Examples
from torch import Tensor
from typing_extensions import override

from eval_recipes.saebench.autointerp.data import hook_layer
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp
from eval_recipes.saebench.autointerp.figures import TokenCounts
from eval_recipes.saebench.autointerp.ngram_trie import (
    Example,
    Trie,
    described,
    find_patterns,
)

PADDING = " _"
"""Text of the token that stands for no token, as in the public code."""
_AT_ONCE = 256
"""Sequences in one pass of the model."""


def count_tokens(
    trie: Trie, tokens: Tensor, fired: Tensor, counted: Tensor
) -> TokenCounts:
    """
    Return the counts over tokens.

    Args:
        trie: the explanation.
        tokens: contexts without their BOS, [contexts, size].
        fired: whether the latent fires on them.
        counted: which tokens count.
    """
    last = trie.last_tokens
    places = counted
    if last is not None:
        ends = torch.tensor(sorted(last), dtype=tokens.dtype)
        places = counted & torch.isin(tokens, ends)
    n_predicted = n_both = 0
    rows, columns = places.nonzero(as_tuple=True)
    texts = tokens.tolist()
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        if trie.predict(texts[row], column) > 0:
            n_predicted += 1
            n_both += bool(fired[row, column])
    return TokenCounts(
        int(counted.sum()), int((fired & counted).sum()), n_predicted, n_both
    )


def holding(tokens: Tensor, windows: Sequence[Sequence[int]]) -> Tensor:
    """Return which contexts [contexts, size] hold one of the windows, bool [contexts]."""
    found = torch.zeros(len(tokens), dtype=torch.bool)
    for window in windows:
        wanted = torch.tensor(list(window), dtype=tokens.dtype)
        found |= (tokens.unfold(1, len(window), 1) == wanted).all(-1).any(-1)
    return found


class N2GAutoInterp(SeededAutoInterp):
    """Upstream's examples, explained and scored by ``ngram_trie``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tries: dict[int, Trie] = {}
        tokenizer: Any = self.model.tokenizer
        self._bos = int(self.tokenized_dataset[0, 0])
        self._padding = int(tokenizer.encode(PADDING, add_special_tokens=False)[-1])

    @override
    def observe(self, latent: int, shown: Examples, acts: Tensor) -> None:
        examples: list[Example] = []
        for one in shown:
            tokens, _ = self._text(one.toks)
            examples.append(Example(tokens, one.acts[-len(tokens) :]))
        patterns = find_patterns(
            examples, lambda given: self._activate(latent, given), padding=self._padding
        )
        trie = self._tries[latent] = Trie(patterns)
        scored = self.scored[latent]
        scored.explanation = described(patterns, self._text_of)
        own = ~holding(self.tokenized_dataset, [one.toks for one in shown])
        scored.counts = count_tokens(
            trie,
            self.tokenized_dataset[own, 1:],
            acts[own, 1:] > 0,
            self.activations.keep[own, 1:],
        )

    @override
    async def run_single_feature(
        self,
        executor: ThreadPoolExecutor,
        latent: int,
        generation_examples: Examples,
        scoring_examples: Examples,
        explanation_override: str | None = None,
    ) -> dict[str, Any] | None:
        """Score one latent on its checked examples."""
        scored, examples = self.scored[latent], self.checked[latent]
        if examples is None:
            return None
        scored.active = self.labels(latent)
        scored.predictions = [
            number
            for number, example in enumerate(examples, start=1)
            if self._fires(latent, example.toks)
        ]
        # Upstream's format of one latent; its figure of the SAE is replaced, see the output.
        return {"latent": latent, "explanation": scored.explanation, "score": 0.0}

    def _fires(self, latent: int, window: Sequence[int]) -> bool:
        tokens, starts_text = self._text(window)
        trie = self._tries[latent]
        return any(
            trie.predict(tokens, place, starts_text=starts_text) > 0
            for place in range(len(tokens))
        )

    def _text(self, window: Sequence[int]) -> tuple[list[int], bool]:
        """Return a window without the BOS of its context, and whether it had that."""
        starts_text = window[0] == self._bos
        return list(window[1:] if starts_text else window), starts_text

    def _text_of(self, token: int) -> str:
        tokenizer: Any = self.model.tokenizer
        return tokenizer.decode([token], clean_up_tokenization_spaces=False)

    @torch.no_grad()
    def _activate(self, latent: int, sequences: Sequence[Sequence[int]]) -> list[float]:
        """Return the activation on the last token of each sequence, BOS put before it."""
        hook = str(self.sae.cfg.metadata.hook_name)
        found: list[float] = []
        for start in range(0, len(sequences), _AT_ONCE):
            part = sequences[start : start + _AT_ONCE]
            # a causal model does not see what stands after the last token
            longest = max(map(len, part))
            rows = [
                [self._bos, *one, *[self._padding] * (longest - len(one))]
                for one in part
            ]
            _, cache = self.model.run_with_cache(
                torch.tensor(rows, device=self.device),
                stop_at_layer=hook_layer(hook) + 1,
                names_filter=hook,
            )
            # hooks inside the attention have one row per head
            residuals = cache[hook].flatten(2)
            ends = torch.tensor([len(one) for one in part], device=residuals.device)
            last = residuals[torch.arange(len(part), device=residuals.device), ends]
            acts = self.sae.encode(last.to(self.sae.device))[:, latent]
            found += acts.float().tolist()
        return found
