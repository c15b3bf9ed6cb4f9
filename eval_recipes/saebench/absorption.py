"""Recipe ``absorption``: SAEBench's first-letter absorption (arXiv 2409.14507)."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sae_bench.evals.absorption import main as upstream_main
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
from sae_lens import SAE

from eval_recipes.artifacts import artifact_folder
from eval_recipes.context import Failure, RunContext, Subject
from eval_recipes.heldout import source_of
from eval_recipes.results import (
    base_fields,
    result_path,
    unstructured,
    write_result,
)
from eval_recipes.saebench.absorption_figures import corrected_metrics
from eval_recipes.saebench.absorption_options import (
    EVAL,
    HOOK,
    AbsorptionOptions,
    check,
    options,
)
from eval_recipes.saebench.absorption_output import (
    AbsorptionDetail,
    CorrectedAbsorptionCategories,
    CorrectedAbsorptionMetrics,
    CorrectedAbsorptionOutput,
)
from eval_recipes.saebench.absorption_probes import (
    Memory,
    ensure_probes,
    quiet,
    stopping_after,
    upstream_words,
)
from eval_recipes.saebench.absorption_words import (
    POSITION,
    TEMPLATE,
    sample_words,
    word_tokens,
)
from eval_recipes.saebench.recipe import each_subject, read_upstream
from eval_recipes.saebench.upstream import (
    UpstreamError,
    folded_copy,
    patched,
    upstream,
)


@dataclass(frozen=True)
class Shared:
    """What no SAE changes, kept for the length of a run."""

    words: dict[str, list[str]] = field(default_factory=dict)
    """Words of each model's vocabulary."""

    prompts: dict[Path, Memory] = field(default_factory=dict)
    """Activations on upstream's prompts, by folder of the probes."""


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    Raises:
        InputError: for options nothing could run with, or a hook it cannot serve.
    """
    check(context)
    chosen = options(context)
    shared = Shared()
    return each_subject(
        EVAL, context, lambda subject: evaluate(context, subject, chosen, shared)
    )


def evaluate(
    context: RunContext, subject: Subject, chosen: AbsorptionOptions, shared: Shared
) -> Path:
    """
    Evaluate one SAE and return the path of its result.

    Raises:
        InputError: if the tokenizer's vocabulary does not hold words of every letter.
        UpstreamError: if upstream failed or left no result.
        NonFiniteError: if a metric is NaN or infinite.
    """
    sae = subject.load(context.device)
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
    memory = shared.prompts.setdefault(probes, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            upstream(EVAL, subject, sae, model, seed=context.seed) as captured,
            quiet(),
            upstream_words(words),
            stopping_after(model, layer, memory),
            _folders(folder, probes),
        ):
            # Upstream creates no output folder, and writes below the working one.
            (folder / "out").mkdir()
            os.chdir(folder)
            # Not the release's name: it may be a path, which upstream would write to.
            selected: Any = [("release", subject.sae_id)]
            upstream_main.run_eval(
                config, selected, context.device, str(folder / "out")
            )
        f1 = _probe_f1(folder)
        if "Cannot evaluate absorption" in captured.printed.getvalue():
            good = sum(value > chosen.min_GT_probe_f1 for value in f1.values())
            raise UpstreamError(
                f"{EVAL} of SAE {subject.sae_id!r} has no result: {good} of 26 letters have a "
                f"probe on {source.hook_name!r} with an F1 above {chosen.min_GT_probe_f1}, and "
                f"min_feats_for_eval asks for {chosen.min_feats_for_eval}. Use more "
                "words_per_letter or a later layer."
            )
        measured = read_upstream(
            folder / "out", AbsorptionEvalOutput, eval=EVAL, subject=subject
        )
    path = result_path(context.out, EVAL, subject.release, subject.sae_id)
    metrics = corrected_metrics(
        measured.eval_result_details,
        f1,
        sae=folded_copy(sae),
        n_vocabulary=len(words),
        seed=context.seed,
    )
    return write_result(path, corrected(measured, metrics, f1, subject, sae))


def _fits(n_words: int, sae: SAE[Any], memory_gib: float) -> bool:
    """Whether the latents of all words, as float32, take less than half the memory."""
    return 4 * n_words * int(sae.cfg.d_sae) < memory_gib * 2**30 / 2


@contextmanager
def _folders(folder: Path, probes: Path) -> Iterator[None]:
    """
    Send what upstream keeps elsewhere than into the installed package.

    Its folders are default arguments bound at import. An SAE's own results go to
    ``folder``, which does not outlive it: upstream knows them by names only.
    """
    sparse = folder / "k_sparse_probing"
    seams = {
        "run_k_sparse_probing_experiment": {"experiment_dir": sparse},
        "run_feature_absortion_experiment": {
            "experiment_dir": folder / "feature_absorption",
            "sparse_probing_experiment_dir": sparse,
        },
    }
    with ExitStack() as stack:
        for name, folders in seams.items():
            function = getattr(upstream_main, name)
            replaced = partial(function, probes_dir=probes, **folders)
            stack.enter_context(patched(upstream_main, name, replaced))
        yield


def _probe_f1(folder: Path) -> dict[str, float]:
    """Return the F1 of each letter's probe, from what upstream leaves beside its result."""
    (path,) = (folder / "artifacts" / "absorption").rglob("*_k_sparse_probing.json")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {row["letter"]: float(row["f1_probe"]) for row in rows}


def corrected(
    measured: AbsorptionEvalOutput,
    metrics: CorrectedAbsorptionMetrics,
    f1: Mapping[str, float],
    subject: Subject,
    sae: SAE[Any],
) -> CorrectedAbsorptionOutput:
    """Return upstream's output under the SAE's true ids, with our category."""
    return CorrectedAbsorptionOutput(
        **base_fields(subject, sae),
        eval_config=measured.eval_config,
        eval_result_metrics=CorrectedAbsorptionCategories(
            mean=measured.eval_result_metrics.mean, corrected=metrics
        ),
        eval_result_details=[
            AbsorptionDetail(
                **dataclasses.asdict(detail),  # pyright: ignore[reportArgumentType]
                probe_f1=f1[detail.first_letter],
            )
            for detail in measured.eval_result_details
        ],
        # The words are the tokenizer's own, whatever `data` says.
        eval_result_unstructured=unstructured(subject, data="vocabulary"),
    )
