"""Autointerp without a language model: the token explainer in the judge's place."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from sae_bench.evals.autointerp.main import Examples
from torch import Tensor

from eval_recipes.saebench.autointerp import token_explainer
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp
from eval_recipes.saebench.autointerp.token_explainer import Marked


class TokenAutoInterp(SeededAutoInterp):
    """Upstream's examples, explained and scored by ``token_explainer``."""

    def __init__(
        self, *args: Any, background: Mapping[str, float], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.background = background

    async def run_single_feature(
        self,
        executor: ThreadPoolExecutor,
        latent: int,
        generation_examples: Examples,
        scoring_examples: Examples,
        explanation_override: str | None = None,
    ) -> dict[str, Any] | None:
        """Explain and score one latent on its checked examples."""
        scored, examples = self.scored[latent], self.checked[latent]
        marked = [
            Marked([str(token) for token in example.str_toks], example.acts)
            for example in generation_examples
        ]
        scored.explanation = token_explainer.explain(marked, self.background)
        if examples is None:
            return None
        scored.active = self.labels(latent)
        scored.predictions = token_explainer.predict(
            scored.explanation,
            [[str(token) for token in example.str_toks] for example in examples],
        )
        # Upstream's format of one latent; its figure of the SAE is replaced, see the output.
        return {"latent": latent, "explanation": scored.explanation, "score": 0.0}


def background_of(tokens: Tensor, tokenizer: Any) -> dict[str, float]:
    """Return the share of each normalised token in the text."""
    ids, counts = torch.unique(tokens, return_counts=True)
    texts = tokenizer.batch_decode(ids[:, None], clean_up_tokenization_spaces=False)
    merged: dict[str, int] = {}
    for text, count in zip(texts, counts.tolist(), strict=True):
        merged[text] = merged.get(text, 0) + count
    return token_explainer.background_shares(merged)
