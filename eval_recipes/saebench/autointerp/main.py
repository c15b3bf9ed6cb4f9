"""SAEBench's automated interpretability with any judge, or with none."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from eval_recipes.chat import JudgeClient, check_judge, read_key
from eval_recipes.chat.options import PACING
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.activation_source import read_model
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.saebench.autointerp.chat import (
    Job,
    JudgedAutoInterp,
    run_upstream,
    upstream_config,
)
from eval_recipes.saebench.autointerp.data import (
    HUB_DATASET,
    latents_at_once,
    load_activations,
    load_text,
)
from eval_recipes.saebench.autointerp.examples import SeededAutoInterp
from eval_recipes.saebench.autointerp.figures import (
    TooFewRepliesError,
)
from eval_recipes.saebench.autointerp.n2g_explainer import N2GAutoInterp
from eval_recipes.saebench.autointerp.options import (
    EVAL,
    IDLE_WITHOUT_JUDGE,
    AutoInterpOptions,
    check_data,
    check_facts,
    explainer_prompts_identity,
)
from eval_recipes.saebench.autointerp.output import (
    PARTIAL_SUFFIX,
    AnyOutput,
    IncompleteError,
    JudgedOutput,
    N2GOutput,
    TokenOutput,
    output_of,
    partial_path,
    require_complete,
)
from eval_recipes.saebench.autointerp.token_explainer import (
    TokenAutoInterp,
    background_of,
)
from eval_recipes.saebench.upstream import UpstreamError
from saereg_plugin.errors import InputError


class AutoInterpEvaluation(Evaluation[AutoInterpOptions]):
    """SAEBench's automated interpretability with any judge, or with none."""

    name = EVAL
    summary = "how well explanations of latents predict where they fire, judged by an LLM, by tokens or by N2G"
    Options = AutoInterpOptions
    Output = JudgedOutput
    reads_text = True
    shows_text = True
    keeps_artifacts = True
    side_files = (PARTIAL_SUFFIX,)
    context_option = "llm_context_size"
    not_in_key = PACING

    def outputs(self) -> dict[str, type[Any]]:
        """Return the classes with a judge and without one."""
        return {
            EVAL: JudgedOutput,
            f"{EVAL}_tokens": TokenOutput,
            f"{EVAL}_n2g": N2GOutput,
        }

    def resolve(
        self,
        context: RunContext,
        options: AutoInterpOptions,
    ) -> AutoInterpOptions:
        """
        Return the settings with the latents in order, on which sums depend.

        Raises:
            InputError: if a latent is given twice.
        """
        if options.latents is None:
            return options
        if len(set(options.latents)) < len(options.latents):
            raise InputError(
                f"Option {EVAL}.latents is {list(options.latents)}; expected each latent once. "
                "Correct it or leave it out."
            )
        return dataclasses.replace(options, latents=tuple(sorted(options.latents)))

    def check(self, context: RunContext, options: AutoInterpOptions) -> None:
        """
        Refuse SAEs, text or an address that nothing could run with; the judge is not asked.

        Raises:
            InputError: naming them, and for a missing key.
        """
        for subject in context.subjects:
            check_facts(SubjectFacts.read(subject), options)
        check_data(options, context.data)
        if options.explainer == "judge":
            options.judge_config(seed=context.seed)
            read_key()

    def check_server(self, context: RunContext, options: AutoInterpOptions) -> None:
        """Prove that the judge answers and knows key and model, if it is asked."""
        if options.explainer == "judge":
            check_judge(options.judge_config(seed=context.seed))

    def key(self, context: RunContext, options: AutoInterpOptions) -> dict[str, Any]:
        """
        Return the settings that a result depends on, and the prompts.

        Settings that only limit or pace the requests are left out, and so are those that
        other settings make idle.
        """
        chosen = super().key(context, options)
        if options.latents is not None:
            del chosen["n_latents"]
        if options.explainer != "judge":
            return {k: v for k, v in chosen.items() if k not in IDLE_WITHOUT_JUDGE}
        # the address may come from the environment
        url = options.judge_config(seed=context.seed).url
        return {
            **chosen,
            "judge_base_url": url,
            "prompts": explainer_prompts_identity(),
        }

    @contextmanager
    def opened(self, context: RunContext, options: AutoInterpOptions) -> Iterator[None]:
        """Hold the judge; all SAEs share one budget, and none is evaluated without it."""
        self.client: JudgeClient | None = None
        if options.explainer != "judge":
            yield
            return
        config = options.judge_config(seed=context.seed)
        with closing(JudgeClient(config, context.artifacts)) as client:
            client.check()
            self.client = client
            yield

    def evaluate(
        self, context: RunContext, subject: Subject, options: AutoInterpOptions
    ) -> AnyOutput:
        """Evaluate one SAE; see ``explain_and_score``."""
        try:
            return explain_and_score(context, subject, options, self.client)
        except IncompleteError:
            # the partial result was written anew
            raise
        except Exception:
            partial_path(context, subject).unlink(missing_ok=True)
            raise

    def write(self, context: RunContext, subject: Subject, output: Any) -> Path:
        """Write the result; remove an earlier partial one, which it replaces."""
        path = super().write(context, subject, output)
        partial_path(context, subject).unlink(missing_ok=True)
        return path


def explain_and_score(
    context: RunContext,
    subject: Subject,
    options: AutoInterpOptions,
    client: JudgeClient | None,
) -> AnyOutput:
    """
    Explain and score latents of one SAE; without a client, by tokens or N2G.

    Raises:
        IncompleteError: if latents have no reply yet.
        UpstreamError: if upstream failed or left no result.
    """
    sae = subject.load(context.device)
    source, model = read_model(context, sae, context_size=options.llm_context_size)
    text = load_text(
        context,
        source,
        model,
        dataset="heldout" if options.dataset == "heldout" else HUB_DATASET,
        total_tokens=options.total_tokens,
        context_size=options.llm_context_size,
    )
    activations = load_activations(context, text, model, source.hook_name)
    shared: dict[str, Any] = {
        "activations": activations,
        "latents": options.latents,
        "at_once": latents_at_once(text, context.memory_gib),
    }
    built: list[SeededAutoInterp] = []
    signal = client.signal() if client is not None else threading.Event()
    job = Job(context, options, subject, sae, client, signal)

    def build(**arguments: Any) -> SeededAutoInterp:
        if client is None and options.explainer == "n2g":
            made = N2GAutoInterp(**arguments, **shared)
        elif client is None:
            background = background_of(text.tokens, model.tokenizer)
            made = TokenAutoInterp(**arguments, **shared, background=background)
        else:
            made = JudgedAutoInterp(**arguments, **shared, client=client, signal=signal)
        built.append(made)
        return made

    def frequencies(
        _tokens: Any, _model: Any, scored: SAE[Any], *_: Any, **__: Any
    ) -> Any:
        if options.latents is not None:
            # nothing is drawn, so the frequencies are not used
            return torch.zeros(int(scored.cfg.d_sae))
        return activations.frequencies(scored)

    config = upstream_config(job, source.model_name, text.tokens.numel())
    try:
        measured = run_upstream(
            job, config, model, text.tokens, build=build, frequencies=frequencies
        )
    except UpstreamError as error:
        if not isinstance(error.__cause__, TooFewRepliesError):
            raise
        measured = None
    output = output_of(job, config, measured, built[-1])
    require_complete(job, output, built[-1])
    return output
