"""The examples evaluation: what each latent fires on, and what it promotes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sae_lens import SAE

from eval_recipes.examples.inputs import (
    MOST_VALUES,
    ROWS,
    InputTally,
    bytes_per_latent,
)
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
from eval_recipes.examples.pictures import inputs_table, kind_of_inputs, thumbnail
from eval_recipes.examples.reader import (
    EVAL,
    INPUTS,
    INPUTS_SUFFIX,
    TABLE_SUFFIX,
    TEXT,
)
from eval_recipes.examples.table import (
    chosen_examples,
    examples_table,
    input_examples,
    text_examples,
)
from eval_recipes.examples.tally import ExamplesTally
from eval_recipes.examples.tally import bytes_per_latent as text_bytes
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat
from eval_recipes.results.sidecar import SideTable, StoredTable
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import (
    other_rows,
    place_of,
    read_model,
    reads_other,
)
from eval_recipes.running.check import metadata_of, read_config
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.heldout_pass import tally_heldout
from eval_recipes.running.passes import Passed
from saereg_plugin.metrics import latent_directions
from saereg_plugin.sources.models import LanguageModel

Spelling = Callable[[NDArray[np.integer[Any]]], list[str]]


class ExamplesEvaluation(Evaluation[ExamplesEvalConfig]):
    """
    Density, histogram, logits and examples of every latent of every SAE.

    The model runs along the text once for all SAEs on a hook, and along other inputs once for
    all SAEs on its points.
    """

    name = EVAL
    summary = "what each latent fires on, how often, and which tokens it promotes"
    Options = ExamplesEvalConfig
    Output = ExamplesEvalOutput
    any_source = True
    reads_text = True
    bytes_per_latent = 200
    side_files = (TABLE_SUFFIX, INPUTS_SUFFIX)
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
        """Keep the folded unembedding of the last model, and thumbnails, which SAEs share."""
        self.unembedding = lru_cache(maxsize=1)(folded_unembedding)
        # a source is freed with its model when its SAEs are done
        self.pictures: WeakKeyDictionary[Any, dict[tuple[str, int], bytes]] = (
            WeakKeyDictionary()
        )
        yield
        self.unembedding.cache_clear()
        self.pictures.clear()

    def evaluate_all(
        self, context: RunContext, options: ExamplesEvalConfig
    ) -> list[Failure]:
        """Evaluate all SAEs along the text together; write each result at the end of its pass."""
        subjects = {subject.sae_id: subject for subject in context.subjects}
        # the last bits of the model depend on its batch
        fixed = dataclasses.replace(
            context, batch_size_prompts=options.contexts_at_once
        )

        def start(sae_id: str, sae: SAE[Any]) -> ExamplesTally:
            other = reads_other(context, _metadata(sae))
            tally = (InputTally if other else ExamplesTally)(sae, options)
            tally.sae_id = sae_id
            return tally

        def finish(tally: ExamplesTally, passed: Passed) -> None:
            subject = subjects[tally.sae_id]
            make = self._of_text if passed.inputs is None else self._of_inputs
            self.write(context, subject, make(fixed, subject, tally, passed))

        per_latent = _bytes_per_latent(context, options)
        with self.opened(context, options):
            _, causes = tally_heldout(
                fixed,
                context.subjects,
                start,
                finish,
                extra_bytes=lambda sae: per_latent * int(sae.cfg.d_sae),
            )
        return [self.failure(subjects[sae_id], causes[sae_id]) for sae_id in causes]

    def _of_text(
        self,
        context: RunContext,
        subject: Subject,
        tally: ExamplesTally,
        passed: Passed,
    ) -> TableOutput:
        sae, options = tally.sae, tally.options
        source, model = read_model(context, sae)
        chosen, spelling = chosen_examples(tally), _spelling(model.tokenizer)
        n_tokens = int(passed.kept.count.sum())
        table = examples_table(
            tally,
            chosen,
            text_examples(tally, chosen, passed.tokens, spelling),
            n_tokens=n_tokens,
            logits=self._logits(sae, model, options.n_logits),
            spelling=spelling,
            subject=subject,
            kind=TEXT,
            model=source.model_name,
            hook_name=source.hook_name,
            context_size=source.context_size,
            dtype=context.dtype,
            **_told(options),
        )
        return _result(subject, tally, table, n_tokens)

    def _of_inputs(
        self,
        context: RunContext,
        subject: Subject,
        tally: ExamplesTally,
        passed: Passed,
    ) -> TableOutput:
        inputs, options = passed.inputs, tally.options
        assert inputs is not None and isinstance(tally, InputTally)
        point = place_of(context, tally.sae).point
        named = inputs.source.metadata(point)
        chosen, n_rows = chosen_examples(tally), int(passed.kept.count.sum())
        table = examples_table(
            tally,
            chosen,
            input_examples(tally, chosen, inputs),
            n_tokens=n_rows,
            logits=no_logits(len(tally.sums)),
            spelling=_no_texts,
            subject=subject,
            kind=kind_of_inputs(inputs.source),
            model=named.get("model_name"),
            hook_name=point,
            context_size=passed.context_size,
            dtype=context.dtype,
            grid=tally.shape,
            **{**_told(options), "corpus": named.get("dataset_path")},
        )
        shown = inputs_table(
            inputs,
            np.unique(chosen.found.token // ROWS),
            point=point,
            picture=partial(self._picture, inputs.source, point),
            subject=subject,
        )
        return _result(subject, tally, table, n_rows, {INPUTS: shown})

    def _picture(self, source: Any, point: str, number: int) -> bytes:
        """Return the thumbnail of an input, made once for all SAEs."""
        known = self.pictures.setdefault(source, {})
        if (point, number) not in known:
            known[point, number] = thumbnail(source, point, number)
        return known[point, number]

    def _logits(self, sae: SAE[Any], model: LanguageModel, n: int) -> ExtremeLogits:
        if n == 0 or not writes_to_residual(sae, model):
            return no_logits(int(sae.cfg.d_sae))
        return extreme_logits(latent_directions(sae), self.unembedding(model), n)


def _result(
    subject: Subject,
    tally: ExamplesTally,
    table: Any,
    n_rows: int,
    further: Mapping[SideTable, Any] = MappingProxyType({}),
) -> TableOutput:
    """Return the result of one SAE with its table, and ``further`` tables next to it."""
    options, density = tally.options, table["density"].to_numpy()

    def build(stored: StoredTable) -> ExamplesEvalOutput:
        tables = {side.field: stored.further[side.ending] for side in further}
        return ExamplesEvalOutput(
            **base_fields(subject, tally.sae),
            eval_config=options,
            eval_result_metrics=ExamplesMetricCategories(
                firing=FiringMetrics(
                    **flat(firing_figures(density, options)), n_tokens=n_rows
                )
            ),
            eval_result_details=[],
            eval_result_unstructured=unstructured(
                subject, latents=stored.about, **tables
            ),
        )

    more = {side.ending: one for side, one in further.items()}
    return TableOutput(TABLE_SUFFIX, table, build, more)


def _bytes_per_latent(context: RunContext, options: ExamplesEvalConfig) -> int:
    """Return the memory that a tally takes for each latent, of SAEs that differ the most."""
    sizes = [text_bytes(options)]
    for subject in context.subjects:
        config = read_config(subject)
        if reads_other(context, metadata_of(config)):
            rows = other_rows(context, metadata_of(config), d_in=int(config["d_in"]))
            sizes.append(bytes_per_latent(options, rows or MOST_VALUES))
    return max(sizes)


def _metadata(sae: SAE[Any]) -> Any:
    return sae.cfg.metadata


def _told(options: ExamplesEvalConfig) -> dict[str, Any]:
    """Return the settings that the table repeats: those that decide what it holds."""
    values = dataclasses.asdict(options)  # pyright: ignore[reportArgumentType]
    left_out = ("n_resamples", "contexts_at_once", "dense_threshold")
    return {name: value for name, value in values.items() if name not in left_out}


def _no_texts(ids: NDArray[np.integer[Any]]) -> list[str]:
    return [""] * len(ids)


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
