"""Run of upstream's autointerp, with a language model as explainer and scorer."""

from __future__ import annotations

import asyncio
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from sae_bench.evals.autointerp import main as upstream_autointerp
from sae_bench.evals.autointerp.eval_config import AutoInterpEvalConfig
from sae_bench.evals.autointerp.eval_output import AutoInterpEvalOutput
from sae_bench.evals.autointerp.main import Examples
from sae_bench.sae_bench_utils import activation_collection
from sae_lens import SAE
from tabulate import tabulate
from tqdm.auto import tqdm

from eval_recipes.chat import (
    BudgetExceeded,
    JudgeClient,
    JudgeUnavailable,
    Reply,
    RequestRefused,
)
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp, in_thread
from eval_recipes.saebench.autointerp.figures import Scored
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    AutoInterpOptions,
    text_name,
)
from eval_recipes.saebench.upstream import all_patched, read_upstream, upstream
from saereg_plugin.sources.models import LanguageModel


def parse_predictions(text: str, n_examples: int) -> list[int] | None:
    """
    Return the numbers in a scoring reply, or None if it is not of the form asked for.

    Upstream takes an empty reply for "None" (which scores 10/14) and passes over numbers
    that no example has; both are no answers.

    >>> parse_predictions("1, 3", 14), parse_predictions("None", 14)
    ([1, 3], [])
    """
    stripped = text.strip().rstrip(".").strip()
    if stripped.lower() == "none":
        return []
    separated = re.sub(r",?\s*\band\b", ",", stripped)
    parts = [part.strip() for part in separated.split(",")]
    if not all(part.isdecimal() for part in parts):
        return None
    numbers = [int(part) for part in parts]
    return numbers if all(1 <= n <= n_examples for n in numbers) else None


class JudgedAutoInterp(SeededAutoInterp):
    """
    Upstream's eval with our client in place of its own.

    A latent without a reply does not stop the others. Upstream's score of a latent stands
    beside one whose negative examples were checked; where all were inactive anyway the two
    share one request.
    """

    def __init__(
        self,
        *args: Any,
        client: JudgeClient,
        signal: threading.Event,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.client = client
        self.signal = signal
        self.replies: dict[str, Reply] = {}
        self._lock = threading.Lock()

    def get_api_response(
        self, messages: Any, max_tokens: int, n_completions: int = 1
    ) -> tuple[list[str], str]:
        """Ask our client what upstream would ask gpt-4o-mini, whatever the judge."""
        text = self._ask(messages, max_tokens)
        said = [*messages, {"role": "assistant", "content": text}]
        logs = tabulate(
            [list(message.values()) for message in said], tablefmt="simple_grid"
        )
        return [text], logs

    def get_scoring_prompts(self, explanation: str, scoring_examples: Examples) -> Any:
        """Return upstream's prompt, drawn for the latent whose examples these are."""
        latent = self._owners[id(scoring_examples)]
        return self.prompts_for(latent, explanation, scoring_examples.examples)

    def gather_data(self) -> tuple[dict[int, Examples], dict[int, Examples]]:
        """Gather, and remember whose examples are whose."""
        generation, scoring = super().gather_data()
        self._owners = {id(examples): latent for latent, examples in scoring.items()}
        return generation, scoring

    async def run_single_feature(
        self,
        executor: ThreadPoolExecutor,
        latent: int,
        generation_examples: Examples,
        scoring_examples: Examples,
        explanation_override: str | None = None,
    ) -> dict[str, Any] | None:
        """Explain and score one latent; None if upstream has no score for it."""
        scored = self.scored[latent]
        try:
            prompts = self.get_generation_prompts(generation_examples)
            raw = await in_thread(
                executor, self._ask, prompts, self.cfg.max_tokens_in_explanation
            )
            explanation = self.parse_explanation(raw)
            if not explanation:
                scored.unparseable = True
                return None
            scored.explanation = explanation
            await self._score_checked(executor, scored)
            # Also asks for the explanation again: the cache has it.
            await self._read_upstream_reply(executor, scored, scoring_examples)
            result = await super(SeededAutoInterp, self).run_single_feature(
                executor, latent, generation_examples, scoring_examples
            )
        except RequestRefused as error:
            scored.refused = str(error)
            return None
        except (BudgetExceeded, JudgeUnavailable) as error:
            scored.unanswered = str(error)
            return None
        if result is not None:
            scored.upstream_score = result["score"]
        return result

    async def _score_checked(
        self, executor: ThreadPoolExecutor, scored: Scored
    ) -> None:
        examples = self.checked[scored.latent]
        if examples is None or scored.explanation is None:
            return
        prompts = self.prompts_for(scored.latent, scored.explanation, examples)
        raw = await in_thread(
            executor, self._ask, prompts, self.cfg.max_tokens_in_prediction
        )
        scored.active = self.labels(scored.latent)
        scored.predictions = parse_predictions(raw, len(examples))
        scored.unparseable |= scored.predictions is None

    async def _read_upstream_reply(
        self, executor: ThreadPoolExecutor, scored: Scored, examples: Examples
    ) -> None:
        """Note whether the reply to upstream's own prompt has the form asked for."""
        prompts = self.prompts_for(
            scored.latent, scored.explanation or "", examples.examples
        )
        raw = await in_thread(
            executor, self._ask, prompts, self.cfg.max_tokens_in_prediction
        )
        scored.unparseable |= parse_predictions(raw, len(examples)) is None

    def _ask(self, messages: Any, max_tokens: int) -> str:
        reply = self.client.ask(messages, max_tokens=max_tokens, signal=self.signal)
        with self._lock:
            self.replies[reply.key] = reply
        return reply.text


def pool_of(
    client: JudgeClient, signal: threading.Event
) -> Callable[..., ThreadPoolExecutor]:
    """
    Stand in for upstream's pool: as many threads as set, and none left waiting.

    An error calls off the requests of this SAE, ``signal``'s; an interruption all.
    """

    class Pool(ThreadPoolExecutor):
        def __exit__(self, kind: type[BaseException] | None, *_: Any) -> bool | None:
            if kind is not None and issubclass(kind, Exception):
                signal.set()
            elif kind is not None:
                client.stop()
            self.shutdown(wait=True, cancel_futures=True)
            return None

    def build(max_workers: int) -> ThreadPoolExecutor:
        del max_workers  # upstream's ten
        return Pool(max_workers=client.config.concurrency)

    return build


Returned = TypeVar("Returned")


@dataclass(frozen=True)
class Job:
    """One SAE to explain and score, and what it is evaluated with."""

    context: RunContext
    options: AutoInterpOptions
    subject: Subject
    sae: SAE[Any]
    client: JudgeClient | None
    """The judge, if there is one."""
    signal: threading.Event
    """Cancels the judge's requests for this SAE."""


def upstream_config(
    job: Job, model_name: str, total_tokens: int
) -> AutoInterpEvalConfig:
    """Return upstream's settings."""
    context, options = job.context, job.options
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
    job: Job,
    config: AutoInterpEvalConfig,
    model: LanguageModel,
    tokens: torch.Tensor,
    *,
    build: Callable[..., Any],
    frequencies: Callable[..., Any],
) -> AutoInterpEvalOutput:
    """
    Run upstream on one SAE.

    On ``tokens`` (contexts, context_size); ``build`` replaces upstream's ``AutoInterp``,
    ``frequencies`` its ``get_feature_activation_sparsity``.

    Raises:
        UpstreamError: if upstream failed or left no result.
    """
    subject = job.subject
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _place_tokens(folder, config, tokens)
        with (
            upstream(EVAL, subject, job.sae, model, seed=job.context.seed),
            _replaced(build, frequencies, job.client, job.signal),
        ):
            without_loop(
                lambda: upstream_autointerp.run_eval(
                    config,
                    [(subject.release, subject.sae_id)],
                    job.context.device,
                    # Upstream hands it to a client that is not used.
                    api_key="",
                    output_path=str(folder / "results"),
                    artifacts_path=str(folder),
                ),
                interrupted=job.client.stop if job.client else lambda: None,
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
