"""Recipe ``absorption``: SAEBench's first-letter absorption (arXiv 2409.14507)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_lens import SAE

from eval_recipes.results.files import (
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import source_of
from eval_recipes.running.artifacts import artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.running.each_subject import each_subject
from eval_recipes.saebench.absorption.options import (
    EVAL,
    HOOK,
    AbsorptionOptions,
    check,
    options,
)
from eval_recipes.saebench.absorption.output import (
    CorrectedAbsorptionCategories,
    CorrectedAbsorptionOutput,
    corrected_metrics,
    detail,
)
from eval_recipes.saebench.absorption.probes import (
    POSITION,
    TEMPLATE,
    Memory,
    ensure_probes,
    sample_words,
    word_tokens,
)
from eval_recipes.saebench.absorption.upstream_run import (
    Given,
    UnitDecoder,
    is_unit,
    norm_deviation,
    refuse_non_finite,
    score,
)
from eval_recipes.saebench.upstream import folded_copy

__all__ = ["EVAL", "AbsorptionOptions", "Shared", "check", "evaluate", "run"]


@dataclass(frozen=True)
class Shared:
    """What no SAE changes, kept for the length of a run."""

    words: dict[str, list[str]] = field(default_factory=dict)
    """Words of each model's vocabulary."""

    prompts: dict[Path, Memory] = field(default_factory=dict)
    """Activations on upstream's prompts, by folder of the probes."""


def determinants(context: RunContext) -> dict[str, Any]:
    """Return the resolved options, which decide a result: naming a default changes nothing."""
    return dataclasses.asdict(options(context))


def run(context: RunContext, shared: Shared | None = None) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    Args:
        shared: what an earlier run computed and this one may use and add to.

    Raises:
        InputError: for options nothing could run with, or a hook it cannot serve.
    """
    check(context)
    chosen = options(context)
    kept = Shared() if shared is None else shared
    return each_subject(
        EVAL, context, lambda subject: evaluate(context, subject, chosen, kept)
    )


def evaluate(
    context: RunContext, subject: Subject, chosen: AbsorptionOptions, shared: Shared
) -> Path:
    """
    Evaluate one SAE and return the path of its result.

    Raises:
        InputError: if the tokenizer's vocabulary does not hold words of every letter.
        UpstreamError: if upstream failed or left no result, or the SAE's latents are NaN.
        NonFiniteError: if a metric is NaN or infinite.
    """
    sae = subject.load(context.device)
    given = _given(context, sae, chosen, shared)
    folded = folded_copy(sae)
    refuse_non_finite(given, subject, folded)
    measured = score(given, subject, sae)
    exact = measured
    if not is_unit(folded):
        # Upstream's projections take the norms as 1, and its probes depend on the scale.
        exact = score(given, subject, cast("SAE[Any]", UnitDecoder(folded)))
    metrics = corrected_metrics(
        exact.output.eval_result_details,
        exact.probe_f1,
        norm_deviation=norm_deviation(folded),
        n_vocabulary=len(given.words),
        seed=context.seed,
    )
    output = CorrectedAbsorptionOutput(
        **base_fields(subject, sae),
        eval_config=measured.output.eval_config,
        eval_result_metrics=CorrectedAbsorptionCategories(
            mean=measured.output.eval_result_metrics.mean, corrected=metrics
        ),
        eval_result_details=[
            detail(theirs, ours, exact.probe_f1)
            for theirs, ours in zip(
                measured.output.eval_result_details,
                exact.output.eval_result_details,
                strict=True,
            )
        ],
        # The words are the tokenizer's own, whatever `data` says.
        eval_result_unstructured=unstructured(subject, data="vocabulary"),
    )
    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    return write_result(path, output)


def _given(
    context: RunContext, sae: SAE[Any], chosen: AbsorptionOptions, shared: Shared
) -> Given:
    """Prepare what upstream is given besides the SAE; train the probes if there are none."""
    source = source_of(sae, context_size=context.context_size)
    match = HOOK.fullmatch(source.hook_name)
    assert match is not None, "check() lets no other hook through"
    layer = int(match[1])
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    if source.model_name not in shared.words:
        shared.words[source.model_name] = word_tokens(model.tokenizer)
    words = sample_words(
        shared.words[source.model_name],
        words_per_letter=chosen.words_per_letter,
        seed=context.seed,
    )
    determinants = {
        "model": source.model_name,
        "model_identity": context.models.identity(source.model_name),
        "model_kwargs": source.model_kwargs,
        "layer": layer,
        "dtype": context.dtype,
        "device": context.device,
        "seed": context.seed,
        "template": TEMPLATE,
        "position": POSITION,
        "words": words,
    }
    # Absolute, since upstream runs in another working folder.
    probes = artifact_folder(context.artifacts.absolute(), EVAL, determinants)
    ensure_probes(
        probes, model, words, layer=layer, device=context.device, seed=context.seed
    )
    settings = dataclasses.asdict(chosen)
    del settings["words_per_letter"]
    config = AbsorptionEvalConfig(
        model_name=source.model_name,
        random_seed=context.seed,
        prompt_template=TEMPLATE,
        prompt_token_pos=POSITION,
        llm_dtype=context.dtype,
        # Upstream encodes all words anew for each of up to 260 probes otherwise.
        precalc_k_sparse_probe_sae_acts=_fits(len(words), sae, context.memory_gib),
        **settings,
    )
    memory = shared.prompts.setdefault(probes.path, {})
    return Given(config, model, layer, context.device, words, probes, memory)


def _fits(n_words: int, sae: SAE[Any], memory_gib: float) -> bool:
    """Whether the latents of all words, as float32, take less than half the memory."""
    return 4 * n_words * int(sae.cfg.d_sae) < memory_gib * 2**30 / 2
