"""Recipe ``autointerp``: SAEBench's automated interpretability with any judge, or with none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.autointerp import main as upstream_autointerp
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.sae_bench_utils import activation_collection
from sae_lens import SAE
from tqdm.auto import tqdm

from eval_recipes.context import Failure, RunContext, Subject
from eval_recipes.heldout import check_hook, source_of
from eval_recipes.judge import JudgeClient
from eval_recipes.results import check_unique_paths
from eval_recipes.saebench.autointerp_data import (
    HUB_DATASET,
    activations_of,
    latents_at_once,
    load_residuals,
    load_text,
)
from eval_recipes.saebench.autointerp_examples import SeededAutoInterp
from eval_recipes.saebench.autointerp_figures import read_explanations
from eval_recipes.saebench.autointerp_judge import JudgedAutoInterp, pool_of
from eval_recipes.saebench.autointerp_options import (
    EVAL,
    AutoInterpOptions,
    autointerp_options,
    check,
    judge_config,
)
from eval_recipes.saebench.autointerp_result import (
    IncompleteError,
    output_of,
    write_output,
)
from eval_recipes.saebench.autointerp_tokens import TokenAutoInterp, background_of
from eval_recipes.saebench.recipe import each_subject, read_upstream
from eval_recipes.saebench.upstream import patched, upstream

__all__ = [
    "EVAL",
    "AutoInterpOptions",
    "IncompleteError",
    "check",
    "evaluate",
    "read_explanations",
    "run",
]


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every subject and write its result file; return those that failed.

    All SAEs share one budget. An SAE with latents that have no reply yet fails, and what
    is there is written beside the place of its result, ending in ``_partial_results.json``.

    Raises:
        InputError: for options, or a missing key.
    """
    options = autointerp_options(context)
    check_unique_paths(context.subjects)
    client = None
    if options.explainer == "judge":
        client = JudgeClient(judge_config(context, options), context.artifacts)
    try:
        return each_subject(
            EVAL, context, lambda subject: evaluate(context, subject, options, client)
        )
    finally:
        if client is not None:
            client.close()


def evaluate(
    context: RunContext,
    subject: Subject,
    options: AutoInterpOptions,
    client: JudgeClient | None,
) -> Path:
    """
    Evaluate one SAE and return the path of its result; without a client, by tokens.

    Raises:
        IncompleteError: if latents have no reply yet.
        UpstreamError: if upstream failed or left no result.
    """
    sae = subject.load(context.device)
    source = source_of(sae, context_size=options.llm_context_size)
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    text = load_text(
        context,
        source,
        model,
        dataset="heldout" if options.dataset == "heldout" else HUB_DATASET,
        total_tokens=options.total_tokens,
        context_size=options.llm_context_size,
    )
    residuals = load_residuals(
        text,
        model,
        source.hook_name,
        batch_size=context.batch_size_prompts,
        dtype=context.dtype,
    )
    activations = activations_of(
        text, residuals, model, batch_size=context.batch_size_prompts
    )
    shared: dict[str, Any] = {
        "activations": activations,
        "latents": options.latents,
        "at_once": latents_at_once(text, context.memory_gib),
    }
    built: list[SeededAutoInterp] = []

    def build(**arguments: Any) -> SeededAutoInterp:
        if client is None:
            background = background_of(text.tokens, model.tokenizer)
            made = TokenAutoInterp(**arguments, **shared, background=background)
        else:
            made = JudgedAutoInterp(**arguments, **shared, client=client)
        built.append(made)
        return made

    def frequencies(
        _tokens: Any, _model: Any, scored: SAE[Any], *_: Any, **__: Any
    ) -> Any:
        if options.latents is not None:
            # Nothing is drawn, so nobody looks.
            return torch.zeros(int(scored.cfg.d_sae))
        return activations.frequencies(scored)

    config = _upstream_config(context, options, source.model_name, text.tokens.numel())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _place_tokens(folder, config, text.tokens)
        with (
            upstream(EVAL, subject, sae, model, seed=context.seed),
            _replaced(build, frequencies, client),
        ):
            upstream_autointerp.run_eval(
                config,
                [(subject.release, subject.sae_id)],
                context.device,
                # Upstream hands it to a client that is not used.
                api_key="",
                output_path=str(folder / "results"),
                artifacts_path=str(folder),
            )
        measured = read_upstream(
            folder / "results", AutoInterpEvalOutput, eval=EVAL, subject=subject
        )
    output = output_of(context, options, subject, sae, measured, built[-1], client)
    return write_output(context, subject, output, built[-1])


def _upstream_config(
    context: RunContext, options: AutoInterpOptions, model_name: str, total_tokens: int
) -> AutoInterpEvalConfig:
    chosen = options.latents
    return AutoInterpEvalConfig(
        model_name=model_name,
        # Upstream's `override_latents` makes a file that upstream refuses to read.
        n_latents=options.n_latents if chosen is None else len(chosen),
        dead_latent_threshold=options.dead_latent_threshold,
        random_seed=context.seed,
        dataset_name=(
            f"{context.corpus}/heldout" if options.dataset == "heldout" else HUB_DATASET
        ),
        llm_context_size=options.llm_context_size,
        llm_batch_size=context.batch_size_prompts,
        llm_dtype=context.dtype,
        total_tokens=total_tokens,
    )


def _place_tokens(
    folder: Path, config: AutoInterpEvalConfig, tokens: torch.Tensor
) -> None:
    """Put the tokens where upstream looks for them."""
    model = upstream_autointerp.escape_slash(config.model_name)
    name = f"{model}_{config.total_tokens}_tokens_{config.llm_context_size}_ctx.pt"
    target = folder / EVAL / name
    target.parent.mkdir()
    torch.save(tokens, target)


@contextmanager
def _replaced(
    build: Any, frequencies: Any, client: JudgeClient | None
) -> Iterator[None]:
    """Replace what upstream builds, computes and shows while it runs."""
    with ExitStack() as stack:
        replacements: list[tuple[Any, str, Any]] = [
            (upstream_autointerp, "AutoInterp", build),
            (upstream_autointerp, "tqdm", _bar),
            (activation_collection, "get_feature_activation_sparsity", frequencies),
        ]
        if client is not None:
            replacements.append(
                (upstream_autointerp, "ThreadPoolExecutor", pool_of(client))
            )
        for target, name, value in replacements:
            stack.enter_context(patched(target, name, value))
        yield


def _bar(items: Iterable[Any], *, desc: str = "", total: int | None = None) -> Any:
    """Show upstream's progress through the judge's replies, and no other of its bars."""
    if not desc.startswith("Calling"):
        return items
    return tqdm(items, desc=desc, total=total, leave=False)
