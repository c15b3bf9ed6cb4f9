"""Runs the vocabulary evaluation: decoder rows against token embeddings, weights only."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from eval_recipes.results.files import (
    base_fields,
    check_unique_paths,
    result_path,
    unstructured,
)
from eval_recipes.results.metrics import flat
from eval_recipes.results.sidecar import StoredTable, write_with_table
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import each_subject
from eval_recipes.running.options import eval_config
from eval_recipes.vocabulary.layers import LAYERS_FILE, write_layer_table
from eval_recipes.vocabulary.options import EVAL, VocabularyEvalConfig
from eval_recipes.vocabulary.output import (
    AlignmentMetrics,
    VocabularyEvalOutput,
    VocabularyMetricCategories,
    VocabularyMetrics,
    alignment_figures,
    mean_of,
    random_alignment,
    share_difference,
)
from saereg_plugin.files import sha256
from saereg_plugin.metrics import alive_mask, unit_rows
from saereg_plugin.metrics.similarity import aligned_mask, nearest_token
from saereg_plugin.owned_folder import folder_lock
from saereg_plugin.sources.embeddings import (
    embedding_shape,
    find_embeddings,
    read_vocabulary,
)
from saereg_plugin.sources.vocabulary_table import alignment_table, token_texts

TABLE_SUFFIX = "_vocabulary.parquet"
SIDE_FILES = (TABLE_SUFFIX,)
"""Endings of what is written next to each result."""
FOLDER_FILES = (LAYERS_FILE,)
"""What is written over all results of the folder."""


def config_of(context: RunContext) -> VocabularyEvalConfig:
    """Return the settings of a run; raises InputError for a wrong option."""
    return eval_config(
        EVAL,
        VocabularyEvalConfig,
        context.options.get(EVAL, {}),
        shared={"random_seed": context.seed},
        fixed={"random_seed"},
    )


def check(context: RunContext) -> None:
    """
    Check the options; loads no SAE and no weights.

    Raises:
        InputError: for an option that cannot be used, an embeddings file that cannot be read,
            or result names that collide.
    """
    config = config_of(context)
    if config.embeddings is not None:
        embedding_shape(find_embeddings(None, config.embeddings))
    check_unique_paths(context.subjects)


def determinants(context: RunContext) -> Any:
    """Return what decides the results besides the SAE, its model and what all evaluations share."""
    config = config_of(context)
    chosen = dataclasses.asdict(config)  # pyright: ignore[reportArgumentType]
    if config.embeddings is None:
        return chosen
    file = find_embeddings(None, config.embeddings)
    return {**chosen, "embeddings": [file.tensor, sha256(file.path)]}


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject, write its result and the per-layer table; return those that failed.

    Raises:
        InputError: see ``check``.
    """
    check(context)
    evaluation = Evaluation(context)
    failures = each_subject(EVAL, context, evaluation.of)
    folder = context.out / EVAL
    folder.mkdir(parents=True, exist_ok=True)
    # other runs may write it too
    with folder_lock(context.out):
        write_layer_table(folder)
    return failures


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


class Evaluation:
    """One run; keeps the last vocabulary and random dictionary, which SAEs mostly share."""

    def __init__(self, context: RunContext):
        self.context = context
        self.config = config_of(context)
        self.tokens = lru_cache(maxsize=1)(self._tokens)
        self.baseline = lru_cache(maxsize=4)(self._baseline)

    def of(self, subject: Subject) -> Path:
        """
        Evaluate one SAE and return the path of its result; its table is beside it.

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
            sae.W_enc.detach().T, rows, threshold=self.config.alive_threshold
        )
        figures = alignment_figures(alignment, len(tokens.unit), self.config)
        aligned = aligned_mask(alignment, threshold=self.config.aligned_threshold)
        figures["aligned_fraction_alive"] = (
            mean_of(aligned[alive], self.config) if bool(alive.any()) else None
        )
        random = self.baseline(model, d_sae, d_in)
        figures["above_random"] = share_difference(aligned, random.aligned, self.config)
        own = flat(figures)
        saved = alignment_table(
            subject.sae_id,
            alignment,
            tokens.texts,
            threshold=self.config.aligned_threshold,
        ).append_column("alive", [alive.numpy()])

        def build(table: StoredTable) -> VocabularyEvalOutput:
            return VocabularyEvalOutput(
                **base_fields(subject, sae),
                eval_config=self.config,
                eval_result_metrics=VocabularyMetricCategories(
                    vocabulary=VocabularyMetrics(**own), baseline=random.metrics
                ),
                eval_result_details=[],
                eval_result_unstructured=unstructured(subject, latents=table.about),
            )

        path = result_path(self.context.out, EVAL, subject.release, subject.sae_id)
        return write_with_table(path, TABLE_SUFFIX, saved, build)

    def _tokens(self, model: str | None, d_in: int) -> Tokens:
        file = find_embeddings(model, self.config.embeddings)
        rows = read_vocabulary(file, d_in).rows
        own = self.config.embeddings is None
        texts = token_texts(str(model), len(rows)) if own else None
        return Tokens(unit_rows(rows), texts)

    def _baseline(self, model: str | None, d_sae: int, d_in: int) -> Baseline:
        tokens = self.tokens(model, d_in).unit
        alignment = random_alignment(
            (d_sae, d_in), tokens, seed=self.config.random_seed
        )
        figures = alignment_figures(alignment, len(tokens), self.config)
        return Baseline(
            AlignmentMetrics(**flat(figures)),
            aligned_mask(alignment, threshold=self.config.aligned_threshold),
        )
