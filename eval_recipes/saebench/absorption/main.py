"""SAEBench's first-letter absorption (arXiv 2409.14507)."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_lens import SAE

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.activation_source import model_determinants, read_model
from eval_recipes.running.artifacts import artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.saebench.absorption.options import EVAL, AbsorptionOptions
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

_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_post$")

# upstream looks at the ten latents with the largest projection
_LEAST_LATENTS = 10


@dataclass(frozen=True)
class Shared:
    """What no SAE changes, kept for the length of a run."""

    words: dict[str, list[str]] = field(default_factory=dict)
    """Words of each model's vocabulary."""

    prompts: dict[Path, Memory] = field(default_factory=dict)
    """Activations on upstream's prompts, by folder of the probes."""


class AbsorptionEvaluation(Evaluation[AbsorptionOptions]):
    """SAEBench's first-letter absorption (arXiv 2409.14507)."""

    name = EVAL
    summary = (
        "how often a latent for a word's first letter is absorbed by more special ones"
    )
    Options = AbsorptionOptions
    Output = CorrectedAbsorptionOutput
    type_id = "absorption_first_letter"
    keeps_artifacts = True
    serves = (
        _HOOK.pattern,
        "'blocks.<layer>.hook_resid_post', which SAEBench reads whatever the SAE was trained on",
    )

    def __init__(self) -> None:
        self.shared = Shared()

    def check_subject(
        self, context: RunContext, facts: SubjectFacts, options: AbsorptionOptions
    ) -> None:
        """Refuse an SAE with too few latents."""
        super().check_subject(context, facts, options)
        least = max(_LEAST_LATENTS, options.max_k_value)
        facts.require_latents(least, eval=EVAL, option="max_k_value")

    def evaluate(
        self, context: RunContext, subject: Subject, options: AbsorptionOptions
    ) -> CorrectedAbsorptionOutput:
        """
        Evaluate one SAE.

        Raises:
            InputError: if the tokenizer's vocabulary does not hold words of every letter.
            UpstreamError: if upstream failed or left no result, or the SAE's latents are NaN.
        """
        sae = subject.load(context.device)
        given = _given(context, sae, options, self.shared)
        folded = folded_copy(sae)
        refuse_non_finite(given, subject, folded)
        measured = score(given, subject, sae)
        exact = measured
        if not is_unit(folded):
            # upstream's projections take the norms as 1, and its probes depend on the scale.
            exact = score(given, subject, cast("SAE[Any]", UnitDecoder(folded)))
        metrics = corrected_metrics(
            exact.output.eval_result_details,
            exact.probe_f1,
            norm_deviation=norm_deviation(folded),
            n_vocabulary=len(given.words),
            seed=context.seed,
        )
        return CorrectedAbsorptionOutput(
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


def _given(
    context: RunContext, sae: SAE[Any], chosen: AbsorptionOptions, shared: Shared
) -> Given:
    """Prepare upstream's settings, words and probes; train the probes if there are none."""
    source, model = read_model(context, sae)
    match = _HOOK.match(source.hook_name)
    assert match is not None, "check() lets no other hook through"
    layer = int(match[1])
    if source.model_name not in shared.words:
        shared.words[source.model_name] = word_tokens(model.tokenizer)
    words = sample_words(
        shared.words[source.model_name],
        words_per_letter=chosen.words_per_letter,
        seed=context.seed,
    )
    determinants = {
        **model_determinants(context, source),
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
    settings = dataclasses.asdict(chosen)  # pyright: ignore[reportArgumentType]
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
