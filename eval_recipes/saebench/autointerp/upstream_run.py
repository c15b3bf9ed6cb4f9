"""Run of upstream's autointerp on one SAE, with its parts replaced."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from sae_bench.evals.autointerp import main as upstream_autointerp
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.sae_bench_utils import activation_collection
from sae_lens import SAE
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer

from eval_recipes.chat import JudgeClient
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.chat import pool_of
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    AutoInterpOptions,
    text_name,
)
from eval_recipes.saebench.upstream import all_patched, read_upstream, upstream

Returned = TypeVar("Returned")


def upstream_config(
    context: RunContext, options: AutoInterpOptions, model_name: str, total_tokens: int
) -> AutoInterpEvalConfig:
    """Return upstream's settings."""
    chosen = options.latents
    return AutoInterpEvalConfig(
        model_name=model_name,
        # Upstream's `override_latents` makes a file that upstream refuses to read.
        n_latents=options.n_latents if chosen is None else len(chosen),
        dead_latent_threshold=options.dead_latent_threshold,
        random_seed=context.seed,
        dataset_name=text_name(context, options),
        llm_context_size=options.llm_context_size,
        llm_batch_size=context.batch_size_prompts,
        llm_dtype=context.dtype,
        total_tokens=total_tokens,
    )


def run_upstream(
    context: RunContext,
    config: AutoInterpEvalConfig,
    subject: Subject,
    sae: SAE[Any],
    model: HookedTransformer,
    tokens: torch.Tensor,
    *,
    build: Callable[..., Any],
    frequencies: Callable[..., Any],
    client: JudgeClient | None,
    signal: threading.Event,
) -> AutoInterpEvalOutput:
    """
    Run upstream on one SAE.

    Args:
        context: the run.
        config: upstream's settings.
        subject: which SAE.
        sae: the SAE itself.
        model: the language model.
        tokens: shape (contexts, context_size).
        build: replaces upstream's ``AutoInterp``.
        frequencies: replaces ``get_feature_activation_sparsity``.
        client: the judge, if there is one.
        signal: cancels the judge's requests for this SAE.

    Raises:
        UpstreamError: if upstream failed or left no result.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _place_tokens(folder, config, tokens)
        with (
            upstream(EVAL, subject, sae, model, seed=context.seed),
            _replaced(build, frequencies, client, signal),
        ):
            without_loop(
                lambda: upstream_autointerp.run_eval(
                    config,
                    [(subject.release, subject.sae_id)],
                    context.device,
                    # Upstream hands it to a client that is not used.
                    api_key="",
                    output_path=str(folder / "results"),
                    artifacts_path=str(folder),
                ),
                interrupted=client.stop if client is not None else lambda: None,
            )
        return read_upstream(
            folder / "results", AutoInterpEvalOutput, eval=EVAL, subject=subject
        )


def without_loop(
    function: Callable[[], Returned], *, interrupted: Callable[[], None]
) -> Returned:
    """
    Call a function that uses ``asyncio.run``, also inside a running event loop.

    In a notebook, which has such a loop, the function runs in its own thread. If the wait is
    interrupted, ``interrupted`` is called to end it.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return function()
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(function).result()
        except (KeyboardInterrupt, SystemExit):
            # the thread continues, but must not send further requests
            interrupted()
            raise


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
    build: Any, frequencies: Any, client: JudgeClient | None, signal: threading.Event
) -> Iterator[None]:
    """Replace what upstream builds, computes and shows while it runs."""
    replaced: list[tuple[Any, str, Any]] = [
        (upstream_autointerp, "AutoInterp", build),
        (upstream_autointerp, "tqdm", _bar),
        (activation_collection, "get_feature_activation_sparsity", frequencies),
    ]
    if client is not None:
        pool = pool_of(client, signal)
        replaced.append((upstream_autointerp, "ThreadPoolExecutor", pool))
    with all_patched(replaced):
        yield


def _bar(items: Iterable[Any], *, desc: str = "", total: int | None = None) -> Any:
    """Show upstream's progress through the judge's replies, and none of its other bars."""
    if not desc.startswith("Calling"):
        return items
    return tqdm(items, desc=desc, total=total, leave=False)
