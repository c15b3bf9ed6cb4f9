"""The vocabulary evaluation: decoder rows against token embeddings, weights only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

from torch import Tensor

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.vocabulary.options import EVAL, VocabularyEvalConfig
from eval_recipes.vocabulary.output import (
    LAYERS_FILE,
    AlignmentMetrics,
    VocabularyEvalOutput,
    VocabularyMetricCategories,
    VocabularyMetrics,
    alignment_figures,
    mean_of,
    random_alignment,
    share_difference,
    write_layer_table,
)
from saereg_plugin.files import sha256
from saereg_plugin.metrics import alive_mask, unit_rows
from saereg_plugin.metrics.similarity import aligned_mask, nearest_token
from saereg_plugin.owned_folder import folder_lock
from saereg_plugin.sources.embeddings import (
    alignment_table,
    embedding_shape,
    find_embeddings,
    read_vocabulary,
    token_texts,
)

TABLE_SUFFIX = "_vocabulary.parquet"


class Tokens(NamedTuple):
    """A model's vocabulary as the evaluation uses it."""

    unit: Tensor
    """[tokens, d] embeddings as unit rows."""
    texts: list[str] | None
    """How they are spelled; None for embeddings from a file."""


class Baseline(NamedTuple):
    """The random dictionary's figures."""

    metrics: AlignmentMetrics
    aligned: Tensor
    """[d_sae] which of its rows are aligned."""


class VocabularyEvaluation(Evaluation[VocabularyEvalConfig]):
    """
    Decoder rows against token embeddings; weights only.

    Keeps the last vocabulary and random dictionary, which most SAEs share.
    """

    name = EVAL
    summary = (
        "how near decoder rows lie to the model's token embeddings, next to random rows"
    )
    Options = VocabularyEvalConfig
    Output = VocabularyEvalOutput
    reads_model = False
    bytes_per_latent = 10
    side_files = (TABLE_SUFFIX,)
    folder_files = (LAYERS_FILE,)
    from_run = {"random_seed": "seed"}
    run_decides = frozenset({"random_seed"})

    def check(
        self,
        context: RunContext,
        options: VocabularyEvalConfig,
    ) -> None:
        """Refuse a file of embeddings that cannot be read."""
        if options.embeddings is not None:
            embedding_shape(find_embeddings(None, options.embeddings))

    def key(self, context: RunContext, options: VocabularyEvalConfig) -> dict[str, Any]:
        """Return the settings, with the content of a file of embeddings."""
        chosen = super().key(context, options)
        if options.embeddings is None:
            return chosen
        file = find_embeddings(None, options.embeddings)
        return {**chosen, "embeddings": [file.tensor, sha256(file.path)]}

    @contextmanager
    def opened(
        self,
        context: RunContext,
        options: VocabularyEvalConfig,
    ) -> Iterator[None]:
        """Keep the vocabulary and the random dictionaries of the last SAEs."""
        self.tokens = lru_cache(maxsize=1)(partial(_read_tokens, options))
        self.baseline = lru_cache(maxsize=4)(self._baseline)
        self.chosen = options
        yield

    def evaluate_all(
        self, context: RunContext, options: VocabularyEvalConfig
    ) -> list[Failure]:
        """Evaluate every SAE and write its result and the per-layer table."""
        failures = super().evaluate_all(context, options)
        folder = context.out / EVAL
        folder.mkdir(parents=True, exist_ok=True)
        # other runs may write it as well
        with folder_lock(context.out):
            write_layer_table(folder)
        return failures

    def evaluate(
        self,
        context: RunContext,
        subject: Subject,
        options: VocabularyEvalConfig,
    ) -> TableOutput:
        """
        Evaluate one SAE.

        Raises:
            InputError: if the embeddings cannot be had or have another width.
            ValueError: if the weights are not finite.
        """
        sae = subject.load()
        rows = sae.W_dec.detach()
        if not bool(rows.isfinite().all()):
            raise ValueError("W_dec holds NaN or infinity")
        model = sae.cfg.metadata.model_name
        d_sae, d_in = rows.shape
        tokens = self.tokens(model, d_in)
        alignment = nearest_token(unit_rows(rows), tokens.unit, unit=True)
        alive = alive_mask(
            sae.W_enc.detach().T, rows, threshold=options.alive_threshold
        )
        figures = alignment_figures(alignment, len(tokens.unit), options)
        aligned = aligned_mask(alignment, threshold=options.aligned_threshold)
        figures["aligned_fraction_alive"] = (
            mean_of(aligned[alive], options) if bool(alive.any()) else None
        )
        random = self.baseline(model, d_sae, d_in)
        figures["above_random"] = share_difference(aligned, random.aligned, options)
        own = flat(figures)
        saved = alignment_table(
            subject.sae_id,
            alignment,
            tokens.texts,
            threshold=options.aligned_threshold,
        ).append_column("alive", [alive.numpy()])

        def build(table: StoredTable) -> VocabularyEvalOutput:
            return VocabularyEvalOutput(
                **base_fields(subject, sae),
                eval_config=options,
                eval_result_metrics=VocabularyMetricCategories(
                    vocabulary=VocabularyMetrics(**own), baseline=random.metrics
                ),
                eval_result_details=[],
                eval_result_unstructured=unstructured(subject, latents=table.about),
            )

        return TableOutput(TABLE_SUFFIX, saved, build)

    def _baseline(self, model: str | None, d_sae: int, d_in: int) -> Baseline:
        tokens = self.tokens(model, d_in).unit
        return _random_baseline(self.chosen, tokens, (d_sae, d_in))


def _read_tokens(options: VocabularyEvalConfig, model: str | None, d_in: int) -> Tokens:
    file = find_embeddings(model, options.embeddings)
    rows = read_vocabulary(file, d_in).rows
    own = options.embeddings is None
    texts = token_texts(str(model), len(rows)) if own else None
    return Tokens(unit_rows(rows), texts)


def _random_baseline(
    options: VocabularyEvalConfig, tokens: Tensor, shape: tuple[int, int]
) -> Baseline:
    alignment = random_alignment(shape, tokens, seed=options.random_seed)
    figures = alignment_figures(alignment, len(tokens), options)
    return Baseline(
        AlignmentMetrics(**flat(figures)),
        aligned_mask(alignment, threshold=options.aligned_threshold),
    )
