"""The steering evaluation: latents, explanations, texts, verdicts, results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.chat import JudgeClient, check_judge, read_key
from eval_recipes.chat.options import IDENTITY, PACING
from eval_recipes.cross_seed.stability import read_stability
from eval_recipes.results.files import base_fields, read_result
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.saebench.autointerp.options import explainer_prompts_identity
from eval_recipes.steering.build_output import Measured, build_output, texts_table
from eval_recipes.steering.generate.backend import parse_hook
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.generate.prompts import PUBLISHED_PROMPTS
from eval_recipes.steering.generate.strengths import strengths_by_amount, written_trials
from eval_recipes.steering.generate.trials import Trial
from eval_recipes.steering.judges.chat import judge_prompt_identity
from eval_recipes.steering.judges.judge_trials import Judges, judge_trials
from eval_recipes.steering.judges.probe import (
    ContrastReport,
    contrast_report,
    train_probe,
)
from eval_recipes.steering.options import (
    FROM_RUN,
    SteeringEvalConfig,
    make_config,
    uses_chat,
)
from eval_recipes.steering.output import SteeringEvalOutput
from eval_recipes.steering.select.candidates import (
    Chosen,
    choose,
    find_result,
    given,
    given_explanations,
    known_stability,
    with_explanations,
)
from eval_recipes.steering.select.contrast import TextSets
from eval_recipes.steering.select.contrast import identity as contrast_identity
from eval_recipes.steering.select.explanation_file import require_own_source
from eval_recipes.steering.select.explanations import explain
from eval_recipes.steering.select.latents import read_latents
from eval_recipes.steering.texts import EVAL, TEXTS_SUFFIX, read_texts
from saereg_plugin.errors import InputError

TEXTS_FORMAT = 2
"""Of the stored texts. 2: with the scores that thresholds were learned from."""


class SteeringEvaluation(Evaluation[SteeringEvalConfig]):
    """Latents, explanations, texts, verdicts and the result of each SAE."""

    name = EVAL
    summary = "whether adding a latent's direction does what its explanation says"
    Options = SteeringEvalConfig
    Output = SteeringEvalOutput
    reads_text = True
    shows_text = True
    keeps_artifacts = True
    side_files = (TEXTS_SUFFIX,)
    from_run = FROM_RUN
    run_decides = frozenset(FROM_RUN)
    # the text is in every key by its content
    not_in_key = frozenset({"corpus", *PACING})

    def parse(
        self, given: Mapping[str, Any], shared: Mapping[str, Any]
    ) -> SteeringEvalConfig:
        """Return the settings; see ``make_config``."""
        return make_config(given, **shared)

    def check(self, context: RunContext, options: SteeringEvalConfig) -> None:
        """
        Refuse what cannot work; the chat model is not asked.

        Raises:
            InputError: for SAEs, files or results that nothing could run with, and for a
                missing key.
        """
        if options.contrast is not None and options.latents is None:
            TextSets.read(options.contrast)
        if options.explanations is not None and Path(options.explanations).is_file():
            require_own_source(Path(options.explanations), context.subjects)
        for subject in context.subjects:
            facts = SubjectFacts.read(subject)
            if options.latents is not None:
                given(options.latents, d_sae=facts.d_sae)
            if facts.hook_name:
                # how many layers there are is known when the model is
                parse_hook(facts.hook_name, sys.maxsize)
            _contents(subject, options)
        if uses_chat(options):
            options.judge_config(seed=context.seed)
            read_key()

    def check_server(self, context: RunContext, options: SteeringEvalConfig) -> None:
        """Prove that the chat model answers and knows key and model, if it is asked."""
        if uses_chat(options):
            check_judge(options.judge_config(seed=context.seed))

    def key(self, context: RunContext, options: SteeringEvalConfig) -> dict[str, Any]:
        """
        Return the settings that a result depends on, and the contents of what it reads.

        Settings of the chat model are left out where it is not asked.

        Raises:
            InputError: for a file that is missing.
        """
        chosen = super().key(context, options)
        chat, explains = uses_chat(options), options.explanations is None
        if not explains:
            del chosen["explainer"]
        if chat:
            chosen["judge_base_url"] = options.judge_config(seed=context.seed).url
            chosen["chat_prompts"] = {
                "judge": judge_prompt_identity() if "chat" in options.judges else None,
                "explainer": explainer_prompts_identity()
                if explains and options.explainer == "judge"
                else None,
            }
        else:
            chosen = {k: v for k, v in chosen.items() if k not in IDENTITY}
        if options.contrast is not None:
            chosen["contrast"] = contrast_identity(options.contrast)
        for name in ("stability", "explanations"):
            # their place decides nothing; their content does
            chosen[name] = chosen[name] is not None
        chosen["texts"] = TEXTS_FORMAT
        chosen["read"] = {
            f"{subject.release}/{subject.sae_id}/{name}": content
            for subject in context.subjects
            for name, content in _contents(subject, options).items()
        }
        return chosen

    @contextmanager
    def opened(
        self, context: RunContext, options: SteeringEvalConfig
    ) -> Iterator[None]:
        """
        Hold judges and language models; all SAEs share one budget of the chat model.

        An SAE with pairs that have no reply yet fails; the next run resumes there.
        """
        self.models = Models(context, options)
        if not uses_chat(options):
            self.judges = Judges(options, None)
            yield
            return
        config = options.judge_config(seed=context.seed)
        with closing(
            JudgeClient(config, context.artifacts, budget=context.judge_budget)
        ) as client:
            client.check()
            self.judges = Judges(options, client)
            yield

    def evaluate(
        self, context: RunContext, subject: Subject, options: SteeringEvalConfig
    ) -> TableOutput:
        """
        Evaluate one SAE.

        Raises:
            InputError: if no candidate has an explanation (except with ``select=contrast``),
                or nothing can be steered.
            UnansweredError: if the chat model left pairs without a reply.
            NoVerdictError: if it has no verdict on any pair.
        """
        sae = subject.load(context.device)
        stability = known_stability(subject, options)
        chosen = choose(subject, sae, options, stability.shares, self.models)
        found = explain(
            context,
            subject,
            sae,
            chosen.candidates.ids,
            chosen.pool,
            options,
            self.judges.client,
            self.models,
        )
        explained = with_explanations(chosen.candidates, found.explanations)
        # the classifier of a contrast needs no explanation
        steered = explained.ids if chosen.sets is None else chosen.candidates.ids
        if not steered:
            raise InputError(
                f"None of {len(chosen.candidates.ids)} candidates of SAE {subject.sae_id!r} has an "
                "explanation; expected one or more. Choose other latents, or explain them on more "
                "text (explainer_tokens)."
            )
        model = self.models.get(sae)
        latents = read_latents(sae, steered)
        prompts = latents.prompts(model.tokenizer, options.prompts)
        norm = self.models.norm(sae, latents)
        by_amount, without = strengths_by_amount(
            model, latents, prompts, norm.value, options
        )
        trials = written_trials(
            context, sae, model, latents, prompts, by_amount, options
        )
        concepts = {latent: one.text for latent, one in explained.explanations.items()}
        judged = judge_trials(trials, concepts, prompts, model, self.judges)
        table = texts_table(judged, explained.explanations, stability, prompts, subject)
        unlike = differences(sae, options, found.explainer)

        def build(texts: StoredTable) -> SteeringEvalOutput:
            measured = Measured(
                texts=read_texts(texts.path),
                stored=texts.about,
                judges=judged.judges,
                candidates=chosen.candidates,
                explained=explained,
                without_strength=without,
                norm=norm,
                contrast=_contrast(judged.trials, chosen, options, self.judges),
                extra={
                    "backend": model.kind,
                    "model": model.name,
                    "dtype": str(model.backend.dtype).removeprefix("torch."),
                    "explainer": found.explainer,
                    "explanations_from": _origin(options),
                    "comparable_with_published": not unlike,
                    "unlike_published": unlike,
                },
            )
            return build_output(measured, subject, base_fields(subject, sae), options)

        return TableOutput(TEXTS_SUFFIX, table, build)


def _origin(config: SteeringEvalConfig) -> str:
    """Return what the explanations come from: a result, a file, or this run."""
    if config.explanations is None:
        return "this run"
    return "file" if Path(config.explanations).is_file() else "result"


def _contents(subject: Subject, config: SteeringEvalConfig) -> dict[str, str]:
    """
    Return hashes of what is read of other results and files, by evaluation.

    Date and id of a result are not read.

    Raises:
        InputError: for a result or file that is missing or damaged.
    """
    found: dict[str, str] = {}
    if config.stability is not None:
        path = find_result(Path(config.stability), subject, eval="cross_seed")
        # refuses a table that is not the result's
        read_stability(path)
        named = read_result(path)["eval_result_unstructured"]["stability_table"]
        found["cross_seed"] = str(named["sha256"])
    if config.explanations is not None:
        known = given_explanations(Path(config.explanations), subject).explanations
        read = {
            str(latent): dataclasses.asdict(known[latent]) for latent in sorted(known)
        }
        found["autointerp"] = hashlib.sha256(json.dumps(read).encode()).hexdigest()
    return found


def _contrast(
    trials: Sequence[Trial],
    chosen: Chosen,
    config: SteeringEvalConfig,
    judges: Judges,
) -> ContrastReport | None:
    if chosen.sets is None:
        return None
    a, b = chosen.sets.a, chosen.sets.b
    probe = train_probe(a, b, judges.sentences.embed, seed=config.random_seed)
    return contrast_report(
        trials,
        chosen.separating,
        probe,
        (len(a), len(b)),
        config.amounts,
        seed=config.random_seed,
    )


MODEL = "pythia-70m-deduped"
HOOK = "blocks.3.hook_resid_post"
JUDGE = "gpt-5.1"
ALPHA = 5.0
LATENTS = 300


def differences(
    sae: SAE[Any], config: SteeringEvalConfig, explainer: str
) -> dict[str, Any]:
    """
    Return the settings in which a run is not the published one, with their values.

    Explanations count as published if a language model made them; which one the paper does
    not fix for others.

    ``explainer`` made the explanations: "tokens", "n2g", or a model's name.
    """
    metadata = sae.cfg.metadata
    model = str(metadata.model_name).rpartition("/")[2]
    judge = config.judge_model if config.judges[0] == "chat" else config.judges[0]
    found = {
        "model": (model, MODEL),
        "hook": (metadata.hook_name, HOOK),
        "judge": (judge, JUDGE),
        "judge_temperature": (config.judge_temperature, 0.0),
        "select": (config.select if config.latents is None else "given", "random"),
        "n_latents": (config.n_latents, LATENTS),
        "prompts": (tuple(config.prompts), PUBLISHED_PROMPTS),
        "strength_mode": (config.strength_mode, "fixed"),
        "amount": (config.amounts[0], ALPHA),
        "positions": (config.positions, "generation"),
        "new_tokens": (config.new_tokens, 30),
        "greedy": (config.greedy, False),
        "temperature": (config.temperature, 0.7),
        "top_p": (config.top_p, 0.9),
        "samples_per_prompt": (config.samples_per_prompt, 1),
    }
    differing: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, (value, published) in found.items()
        if value != published
    }
    if explainer in ("tokens", "n2g"):
        differing["explainer"] = explainer
    return differing
