"""The examples evaluation: what each latent fires on, and what it promotes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sae_lens import SAE
from torch import Tensor

from eval_recipes.examples.logits import (
    ExtremeLogits,
    extreme_logits,
    folded_unembedding,
    no_logits,
    writes_to_residual,
)
from eval_recipes.examples.options import ExamplesEvalConfig
from eval_recipes.examples.output import (
    ExamplesEvalOutput,
    ExamplesMetricCategories,
    FiringMetrics,
    firing_figures,
)
from eval_recipes.examples.reader import EVAL, TABLE_SUFFIX
from eval_recipes.examples.table import examples_table
from eval_recipes.examples.tally import ExamplesTally, bytes_per_latent
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import read_model
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.heldout_pass import Passed, tally_heldout
from saereg_plugin.sources.models import LanguageModel

Spelling = Callable[[NDArray[np.integer[Any]]], list[str]]


class ExamplesEvaluation(Evaluation[ExamplesEvalConfig]):
    """
    Density, histogram, logits and examples of every latent of every SAE.

    The model runs along the text once for all SAEs on a hook.
    """

    name = EVAL
    summary = "what each latent fires on, how often, and which tokens it promotes"
    Options = ExamplesEvalConfig
    Output = ExamplesEvalOutput
    any_source = True
    reads_text = True
    bytes_per_latent = 200
    side_files = (TABLE_SUFFIX,)
    from_run = {
        "random_seed": "seed",
        "corpus": "corpus",
        "heldout_tokens": "heldout_tokens",
    }
    run_decides = frozenset({"corpus", "heldout_tokens"})
    # the text is in every key by its content
    not_in_key = frozenset({"corpus", "heldout_tokens"})

    @contextmanager
    def opened(
        self, context: RunContext, options: ExamplesEvalConfig
    ) -> Iterator[None]:
        """Keep the folded unembedding of the last model, which most SAEs share."""
        self.unembedding = lru_cache(maxsize=1)(folded_unembedding)
        yield
        self.unembedding.cache_clear()

    def evaluate_all(
        self, context: RunContext, options: ExamplesEvalConfig
    ) -> list[Failure]:
        """Evaluate all SAEs along the text together; write each result at the end of its pass."""
        subjects = {subject.sae_id: subject for subject in context.subjects}
        # the last bits of the model depend on its batch
        fixed = dataclasses.replace(
            context, batch_size_prompts=options.contexts_at_once
        )

        def finish(tally: _NamedTally, passed: Passed) -> None:
            subject = subjects[tally.sae_id]
            output = self._output(fixed, subject, tally, passed)
            self.write(context, subject, output)

        with self.opened(context, options):
            _, causes = tally_heldout(
                fixed,
                context.subjects,
                lambda sae_id, sae: _NamedTally(sae_id, sae, options),
                finish,
                bytes_per_latent=bytes_per_latent(options),
            )
        return [self.failure(subjects[sae_id], causes[sae_id]) for sae_id in causes]

    def _output(
        self,
        context: RunContext,
        subject: Subject,
        tally: _NamedTally,
        passed: Passed,
    ) -> TableOutput:
        sae, options = tally.sae, tally.options
        source, model = read_model(context, sae)
        n_tokens = int(passed.kept.count.sum())
        logits = self._logits(sae, model, options.n_logits)
        table = examples_table(
            tally,
            passed.tokens,
            n_tokens=n_tokens,
            logits=logits,
            spelling=_spelling(model.tokenizer),
            subject=subject,
            kind="text",
            model=source.model_name,
            hook_name=source.hook_name,
            context_size=source.context_size,
            dtype=context.dtype,
            **_told(options),
        )
        density = table["density"].to_numpy()

        def build(stored: StoredTable) -> ExamplesEvalOutput:
            return ExamplesEvalOutput(
                **base_fields(subject, sae),
                eval_config=options,
                eval_result_metrics=ExamplesMetricCategories(
                    firing=FiringMetrics(
                        **flat(firing_figures(density, options)), n_tokens=n_tokens
                    )
                ),
                eval_result_details=[],
                eval_result_unstructured=unstructured(subject, latents=stored.about),
            )

        return TableOutput(TABLE_SUFFIX, table, build)

    def _logits(self, sae: SAE[Any], model: LanguageModel, n: int) -> ExtremeLogits:
        if n == 0 or not writes_to_residual(sae, model):
            return no_logits(int(sae.cfg.d_sae))
        return extreme_logits(_directions(sae), self.unembedding(model), n)


class _NamedTally(ExamplesTally):
    """A tally that knows its SAE's id."""

    def __init__(self, sae_id: str, sae: SAE[Any], options: ExamplesEvalConfig) -> None:
        super().__init__(sae, options)
        self.sae_id = sae_id


def _told(options: ExamplesEvalConfig) -> dict[str, Any]:
    """Return the settings that the table repeats: those that decide what it holds."""
    values = dataclasses.asdict(options)  # pyright: ignore[reportArgumentType]
    left_out = ("n_resamples", "contexts_at_once", "dense_threshold")
    return {name: value for name, value in values.items() if name not in left_out}


def _directions(sae: SAE[Any]) -> Tensor:
    """Return what each latent adds to the output per unit of activation, [d_sae, d_in]."""
    rows = sae.W_dec.detach()
    if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
        # decode divides the activation by the norm of its row
        tiny = float(np.finfo(np.float32).tiny)
        return rows / rows.norm(dim=1, keepdim=True).clamp(min=tiny)
    return rows


def _spelling(tokenizer: Any) -> Spelling:
    """Return a function from ids of tokens to their texts."""

    def spell(ids: NDArray[np.integer[Any]]) -> list[str]:
        numbers = ids.tolist()
        texts: list[str] = tokenizer.batch_decode(
            [[number] for number in numbers], clean_up_tokenization_spaces=False
        )
        pieces = tokenizer.convert_ids_to_tokens(numbers)
        # SentencePiece drops the space before a text's first token
        return [
            f" {text}"
            if str(piece).startswith("\u2581") and not text.startswith(" ")
            else text
            for text, piece in zip(texts, pieces, strict=True)
        ]

    return spell
