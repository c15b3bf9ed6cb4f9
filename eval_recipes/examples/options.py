"""Settings of the examples evaluation."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from sae_bench.evals.base_eval_output import BaseEvalConfig

from eval_recipes.results.metrics import setting
from eval_recipes.running.options import MOST_AT_ONCE


@dataclass
class ExamplesEvalConfig(BaseEvalConfig):
    """Settings of one run; the same for all its SAEs."""

    random_seed: int = setting(
        0, "Random Seed", "Seed of the tokens drawn for the bands, and of the bootstrap"
    )
    corpus: str = setting("embedded", "Corpus", "Held-out text of the run")
    heldout_tokens: int = setting(
        65_536, "Held-out Tokens", "Tokens that are read, special ones included", ge=1
    )
    top_examples: int = setting(
        10, "Top Examples", "Contexts with the largest activations", ge=1, le=1000
    )
    bands: int = setting(
        4,
        "Bands",
        "Quantile bands of the active tokens that further examples come from; 0 for none",
        ge=0,
        le=100,
    )
    band_examples: int = setting(3, "Examples per Band", "At most", ge=1, le=100)
    tokens_before: int = setting(
        15, "Tokens Before", "Tokens shown before the peak", ge=0, le=4096
    )
    tokens_after: int = setting(
        8, "Tokens After", "Tokens shown after the peak", ge=0, le=4096
    )
    n_logits: int = setting(
        10, "Logits", "Tokens raised most, and lowered most; 0 for none", ge=0, le=1000
    )
    dense_threshold: float = setting(
        0.1,
        "Dense Threshold",
        "A latent that fires on a larger share of the tokens is dense",
        gt=0,
        lt=1,
    )
    n_resamples: int = setting(
        1000, "Bootstrap Resamples", "Resamples behind each interval", ge=1
    )
    contexts_at_once: int = setting(
        16,
        "Contexts at Once",
        "Contexts in one pass of the language model, instead of the run's batch_size_prompts: "
        "its last bits depend on the batch",
        ge=1,
        le=MOST_AT_ONCE,
    )

    @property
    def width(self) -> int:
        """Tokens of an example, the peak included."""
        return self.tokens_before + 1 + self.tokens_after

    @property
    def drawn(self) -> int:
        """Active tokens drawn per latent: three times as many as the bands show."""
        return 3 * self.bands * self.band_examples
