"""SAEBench's autointerp with draws by latent and checked negatives."""

from __future__ import annotations

import asyncio
import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from sae_bench.evals.autointerp.main import AutoInterp, Example, Examples
from sae_bench.sae_bench_utils import activation_collection
from sae_bench.sae_bench_utils.indexing_utils import index_with_buffer
from torch import Tensor

from eval_recipes.saebench.autointerp.data import Activations
from eval_recipes.saebench.autointerp.figures import (
    NoScoreError,
    Scored,
    TooFewRepliesError,
    summary_of,
)
from eval_recipes.saebench.upstream import patched

# windows drawn per negative example; a latent active in all of them has none
_TRIES = 64


def latent_seed(seed: int, latent: int) -> int:
    """Return the seed of all draws for one latent."""
    digest = hashlib.sha256(f"{seed}/{latent}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


class SeededAutoInterp(AutoInterp, ABC):
    """
    Upstream's eval of one SAE, latent by latent.

    The examples and prompts of a latent are those of upstream with
    ``override_latents=[latent]`` and ``random_seed=latent_seed(seed, latent)``, except for
    draws of beartype's argument checks. They do not depend on other latents or on the order
    of replies.
    """

    def __init__(
        self,
        *args: Any,
        activations: Activations,
        latents: Sequence[int] | None,
        at_once: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if latents is not None:
            self.latents = list(latents)
            self.n_latents = len(self.latents)
        self.activations = activations
        self.at_once = at_once
        self.scored: dict[int, Scored] = {}
        self.checked: dict[int, list[Example] | None] = {}
        self._states: dict[int, Any] = {}

    async def run(
        self, explanations_override: dict[int, str] | None = None
    ) -> dict[int, dict[str, Any]]:
        """Run upstream and return its results in the order of the latents."""
        results = await super().run(explanations_override or {})
        if len(results) < 2:
            # upstream's standard deviation would be NaN
            scored = list(self.scored.values())
            unanswered = any(one.unanswered is not None for one in scored)
            raise (TooFewRepliesError if unanswered else NoScoreError)(
                f"fewer than two latents have a score ({self.n_latents} chosen; "
                f"{summary_of(scored)})"
            )
        return {latent: results[latent] for latent in self.latents if latent in results}

    def gather_data(self) -> tuple[dict[int, Examples], dict[int, Examples]]:
        """Gather the examples of each latent under its own seed."""
        chosen, generation, scoring = self.latents, {}, {}
        for start in range(0, len(chosen), self.at_once):
            part = chosen[start : start + self.at_once]
            found = self.activations.of(self.sae, part)
            for index, latent in enumerate(part):
                mine = found[..., index : index + 1]
                self.latents = [latent]
                self._seed(latent)
                with patched(
                    activation_collection,
                    "collect_sae_activations",
                    lambda *_, **__: mine,
                ):
                    shown, asked = super().gather_data()
                if latent in asked:
                    generation |= shown
                    scoring |= asked
                    self._states[latent] = random.getstate()
                    self._check(latent, asked[latent], mine[..., 0])
                    self.observe(latent, shown[latent], mine[..., 0])
        self.latents = chosen
        return generation, scoring

    def _seed(self, latent: int) -> None:
        seed = latent_seed(self.cfg.random_seed, latent)
        random.seed(seed)
        torch.manual_seed(seed)

    def _check(self, latent: int, asked: Examples, acts: Tensor) -> None:
        """
        Check that the random examples are inactive; replace active ones.

        Active means above 1 % of the latent's largest activation, as in upstream's marks for
        the explainer.
        """
        size, length = self.tokenized_dataset.shape
        buffer, n = self.cfg.buffer, self.cfg.n_random_ex_for_scoring
        # upstream's first draws
        self._seed(latent)
        where = _places(size, length, buffer, n, None)
        tokens = index_with_buffer(self.tokenized_dataset, where, buffer=buffer)
        threshold = asked[0].act_threshold
        active = index_with_buffer(acts, where, buffer=buffer).amax(1) > threshold
        dirty = {tuple(row) for row in tokens[active].tolist()}
        replaced = [
            max(example.acts) <= 0 and tuple(example.toks) in dirty for example in asked
        ]
        taken = [example.toks for example in asked]
        spare = self._inactive(latent, acts, threshold, sum(replaced), taken)
        self.checked[latent] = None
        if spare is not None:
            rows = iter(spare)
            self.checked[latent] = [
                self._negative(next(rows), threshold) if replace else example
                for example, replace in zip(asked, replaced, strict=True)
            ]
        self.scored[latent] = Scored(
            latent, int(active.sum()), n, checkable=spare is not None
        )

    def _inactive(
        self,
        latent: int,
        acts: Tensor,
        threshold: float,
        n: int,
        taken: list[list[int]],
    ) -> list[list[int]] | None:
        """Return ``n`` different inactive windows; None if there are too few."""
        if n == 0:
            return []
        size, length = self.tokenized_dataset.shape
        buffer = self.cfg.buffer
        generator = torch.Generator().manual_seed(
            latent_seed(self.cfg.random_seed, latent)
        )
        where = _places(size, length, buffer, n * _TRIES, generator)
        inactive = index_with_buffer(acts, where, buffer=buffer).amax(1) <= threshold
        tokens = index_with_buffer(
            self.tokenized_dataset, where[inactive], buffer=buffer
        )
        known = {tuple(row) for row in taken}
        found: list[list[int]] = []
        for row in tokens.tolist():
            if tuple(row) not in known:
                known.add(tuple(row))
                found.append(row)
            if len(found) == n:
                return found
        return None

    def _negative(self, tokens: list[int], threshold: float) -> Example:
        # as in upstream's random examples
        silent = [0.0] * len(tokens)
        return Example(tokens, silent, threshold, self.model)

    def observe(self, latent: int, shown: Examples, acts: Tensor) -> None:
        """
        Look at all activations of a latent; nothing by default.

        Args:
            latent: the latent, whose examples were checked.
            shown: the examples to explain.
            acts: its activations, [contexts, context_size].
        """

    def labels(self, latent: int) -> list[bool] | None:
        """Return whether the latent is active in each of its checked examples."""
        examples = self.checked[latent]
        return None if examples is None else [e.is_active for e in examples]

    def prompts_for(
        self, latent: int, explanation: str, examples: list[Example]
    ) -> list[dict[str, str]]:
        """Return upstream's scoring prompt, drawn from the latent's own random state."""
        kept = random.getstate()
        random.setstate(self._states[latent])
        try:
            return super().get_scoring_prompts(explanation, _as_given(examples))  # pyright: ignore[reportReturnType]
        finally:
            random.setstate(kept)

    @abstractmethod
    async def run_single_feature(
        self,
        executor: ThreadPoolExecutor,
        latent: int,
        generation_examples: Examples,
        scoring_examples: Examples,
        explanation_override: str | None = None,
    ) -> dict[str, Any] | None:
        """Explain and score one latent."""


def _as_given(examples: list[Example]) -> Examples:
    """Return examples in their order; upstream's class would sort them."""
    kept = Examples([])
    kept.examples = examples
    return kept


def _places(
    size: int, length: int, buffer: int, n: int, generator: torch.Generator | None
) -> Tensor:
    """Draw the centres of ``n`` windows as upstream does, shape (n, 2)."""
    rows = torch.randint(0, size, (n,), generator=generator)
    columns = torch.randint(buffer, length - buffer, (n,), generator=generator)
    return torch.stack([rows, columns], dim=-1)


async def in_thread(executor: ThreadPoolExecutor, function: Any, *args: Any) -> Any:
    """Run a function in a thread without blocking other latents."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *args)
