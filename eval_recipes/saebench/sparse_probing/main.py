"""SAEBench's sparse probing on its own sets or on embedded ones."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.sparse_probing import main as upstream_main
from sae_bench.evals.sparse_probing.eval_config import SparseProbingEvalConfig
from sae_bench.evals.sparse_probing.eval_output import (
    SparseProbingEvalOutput,
    SparseProbingResultDetail,
)
from sae_bench.sae_bench_utils import general_utils
from sae_lens import SAE

from eval_recipes.labelled.probing import check_sizes
from eval_recipes.labelled.source import LAYOUT
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.activation_source import Source, read_model
from eval_recipes.running.artifacts import artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.saebench.sae_probes.measure import quiet_sklearn
from eval_recipes.saebench.sparse_probing import cache
from eval_recipes.saebench.sparse_probing.options import (
    EVAL,
    SIZES,
    SparseProbingOptions,
    held_gib,
    known_sets,
)
from eval_recipes.saebench.sparse_probing.output import (
    ClassAccuracy,
    CorrectedProbingCategories,
    CorrectedProbingDetail,
    CorrectedProbingMetrics,
    CorrectedProbingOutput,
)
from eval_recipes.saebench.sparse_probing.paired import macro_accuracy
from eval_recipes.saebench.sparse_probing.score import SetScores, scorer
from eval_recipes.saebench.upstream import (
    patched,
    read_upstream,
    require_dataset,
    upstream,
    upstream_model_name,
    without_bar,
)
from eval_recipes.statistics.interval import Interval, wilson
from saereg_plugin.errors import InputError, suggest


class SparseProbingEvaluation(Evaluation[SparseProbingOptions]):
    """SAEBench's sparse probing on its own sets or on embedded ones."""

    name = EVAL
    summary = "how well labelled concepts can be read off few latents"
    Options = SparseProbingOptions
    Output = CorrectedProbingOutput
    keeps_artifacts = True
    context_option = "context_length"
    serves = r".*\d", "a hook of one layer without heads"

    def resolve(
        self, context: RunContext, options: SparseProbingOptions
    ) -> SparseProbingOptions:
        """
        Return the settings with nothing left open, each set and each k once.

        Raises:
            InputError: for an unknown set.
        """
        n_train, n_test = SIZES[context.data]
        known = known_sets(context.data)
        for name in options.dataset_names:
            if name not in known:
                raise InputError(
                    f"Unknown data set {name!r} for {EVAL} with data {context.data!r}. "
                    f"{suggest(name, known)}"
                )
        return dataclasses.replace(
            options,
            dataset_names=tuple(dict.fromkeys(options.dataset_names)) or known,
            k_values=tuple(dict.fromkeys(options.k_values)),
            probe_train_set_size=options.probe_train_set_size or n_train,
            probe_test_set_size=options.probe_test_set_size or n_test,
        )

    def check(self, context: RunContext, options: SparseProbingOptions) -> None:
        """Refuse SAEs or sizes that cannot be served, and hub sets that cannot be had."""
        super().check(context, options)
        n_train, n_test = options.probe_train_set_size, options.probe_test_set_size
        for name in options.dataset_names:
            if context.data == "embedded":
                check_sizes(name, n_train or 0, n_test or 0)
            else:
                require_dataset(name.split("_class_set")[0].split("_sentiment")[0])

    def check_subject(
        self, context: RunContext, facts: SubjectFacts, options: SparseProbingOptions
    ) -> None:
        """Refuse an SAE with too few latents, or too large for the memory."""
        super().check_subject(context, facts, options)
        facts.require_latents(max(options.k_values), eval=EVAL, option="k_values")
        needed = held_gib(options, context, facts.d_in)
        if needed > context.memory_gib:
            raise InputError(
                f"{EVAL} holds {needed:.1f} GiB of activations of one data set for SAE "
                f"{facts.sae_id!r}, more than the {context.memory_gib:g} GiB allowed. Allow "
                "more memory, or choose a smaller 'probe_train_set_size' or 'context_length'."
            )

    def evaluate(
        self, context: RunContext, subject: Subject, options: SparseProbingOptions
    ) -> CorrectedProbingOutput:
        """
        Evaluate one SAE.

        Raises:
            InputError: if the SAE's metadata or hook are unusable.
            UpstreamError: if upstream failed or left no result.
        """
        sae = subject.load(context.device)
        source, model = read_model(context, sae, context_size=options.context_length)
        config = _config(context, source, options, d_sae=int(sae.cfg.d_sae))
        folders = {
            name: artifact_folder(
                context.artifacts,
                self.name,
                _determinants(context, source, config, name),
            )
            for name in options.dataset_names
        }
        for name, folder in folders.items():
            # One block a set: the random numbers of one do not depend on the others.
            with (
                upstream(self.name, subject, sae, model, seed=context.seed),
                cache.repaired(),
                quiet_sklearn(),
            ):
                _, copied, _ = general_utils.load_and_format_sae("", "", context.device)  # pyright: ignore[reportGeneralTypeIssues]
                cache.ensure(folder, name, config, copied, model, context)
        results: dict[str, SetScores] = {}
        score_set = scorer(folders, results, random_baseline=options.random_baseline)
        with tempfile.TemporaryDirectory() as folder:
            with (
                upstream(self.name, subject, sae, model, seed=context.seed),
                cache.repaired(),
                quiet_sklearn(),
                patched(upstream_main, "run_eval_single_dataset", score_set),
                # Only the batch that is encoded is in memory.
                patched(torch, "load", partial(torch.load, mmap=True)),
                # Its progress bar counts to one for every SAE.
                patched(upstream_main, "tqdm", without_bar),
            ):
                upstream_main.run_eval(
                    config,
                    [(subject.release, subject.sae_id)],
                    context.device,
                    output_path=str(Path(folder, "out")),
                    # Each data set's folder is given above; this one stays empty.
                    artifacts_path=str(Path(folder, "artifacts")),
                )
            measured = read_upstream(
                Path(folder), SparseProbingEvalOutput, eval=self.name, subject=subject
            )
        return corrected(measured, results, context, subject, sae)


def _config(
    context: RunContext, source: Source, options: SparseProbingOptions, *, d_sae: int
) -> SparseProbingEvalConfig:
    # Upstream holds about four tensors of (texts, tokens, latents) while it encodes.
    batch = int(context.memory_gib * 2**30 / 4 / (16 * options.context_length * d_sae))
    return SparseProbingEvalConfig(
        random_seed=context.seed,
        dataset_names=list(options.dataset_names),
        probe_train_set_size=options.probe_train_set_size or 0,
        probe_test_set_size=options.probe_test_set_size or 0,
        context_length=options.context_length,
        sae_batch_size=max(1, min(options.sae_batch_size, batch)),
        llm_batch_size=options.llm_batch_size,
        llm_dtype=context.dtype,
        model_name=upstream_model_name(source.model_name),
        k_values=list(options.k_values),
    )


def _determinants(
    context: RunContext,
    source: Source,
    config: SparseProbingEvalConfig,
    dataset_name: str,
) -> dict[str, Any]:
    """Return all that decides the activations of a data set and the model's own probes."""
    settings = dataclasses.asdict(config)  # pyright: ignore[reportArgumentType]
    # The other sets, and how an SAE is read, do not.
    del settings["dataset_names"], settings["sae_batch_size"]
    return {
        **settings,
        "dataset_name": dataset_name,
        "data": {"from": context.data, "layout": LAYOUT},
        "model_identity": context.models.identity(source.model_name),
        "hook_name": source.hook_name,
        "model_kwargs": source.model_kwargs,
        "device": context.device,
    }


def corrected(
    measured: SparseProbingEvalOutput,
    results: Mapping[str, SetScores],
    context: RunContext,
    subject: Subject,
    sae: SAE[Any],
) -> CorrectedProbingOutput:
    """Return upstream's output under the SAE's true ids, with the corrected figures."""
    metrics = measured.eval_result_metrics
    extra: Any = measured.eval_result_unstructured
    figures = corrected_figures(list(results.values()), seed=context.seed)
    return CorrectedProbingOutput(
        **base_fields(subject, sae),
        eval_config=measured.eval_config,
        eval_result_metrics=CorrectedProbingCategories(
            llm=metrics.llm,
            sae=metrics.sae,
            corrected=CorrectedProbingMetrics(**flat(figures)),
        ),
        eval_result_details=[
            detail(figures, results[name])
            for name, figures in zip(
                measured.eval_config.dataset_names,
                measured.eval_result_details,
                strict=True,
            )
        ],
        eval_result_unstructured=unstructured(
            subject,
            data=context.data,
            without_interval=without_interval({"corrected": figures}),
            **extra,
        ),
    )


def corrected_figures(
    results: Sequence[SetScores], *, seed: int
) -> dict[str, Interval]:
    """Return the macro averages over data sets and their differences, by metric."""
    sets = [result.scored for result in results]
    readers = list(sets[0].correct)
    figures = {
        f"{reader}_accuracy": macro_accuracy(sets, reader, seed=seed)
        for reader in readers
    }
    for reader in readers:
        source, _, k = reader.partition("_top_")
        if k and source != "sae":
            figures[f"sae_above_{reader}"] = macro_accuracy(
                sets, f"sae_top_{k}", minus=reader, seed=seed
            )
    return figures


def detail(
    figures: SparseProbingResultDetail, result: SetScores
) -> CorrectedProbingDetail:
    """Return upstream's figures of one data set with those of every class next to them."""
    classes: list[ClassAccuracy] = []
    for reader, by_class in result.scored.correct.items():
        for name, right in by_class.items():
            interval = wilson(int(right.sum()), len(right))
            assert interval.low is not None
            assert interval.high is not None
            classes.append(
                ClassAccuracy(
                    class_name=name,
                    reader=reader,
                    accuracy=interval.value,
                    ci_low=interval.low,
                    ci_high=interval.high,
                    n=interval.n,
                )
            )
    return CorrectedProbingDetail(
        **dataclasses.asdict(figures),  # pyright: ignore[reportArgumentType]
        n_left_out=result.scored.left_out,
        random_l0=result.random_l0,
        classes=classes,
    )
