"""The steering evaluation: latents, explanations, texts, verdicts, results."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from eval_recipes.chat import JudgeClient, check_judge, read_key
from eval_recipes.chat.options import IDENTITY, PACING
from eval_recipes.results.files import base_fields
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Subject, SubjectFacts
from eval_recipes.running.artifacts import weights_hash
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.saebench.autointerp.options import explainer_prompts_identity
from eval_recipes.steering.build_output import Measured, build_output, texts_table
from eval_recipes.steering.facts.file import facts_hash, read_facts
from eval_recipes.steering.facts.measure import facts_table, measure_facts
from eval_recipes.steering.generate.backend import parse_hook
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.generate.strengths import strengths_by_amount, written_trials
from eval_recipes.steering.generate.trials import Trial
from eval_recipes.steering.identity import contents_read, differences, origin_of
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
    given,
    known_stability,
    with_explanations,
)
from eval_recipes.steering.select.contrast import TextSets
from eval_recipes.steering.select.contrast import identity as contrast_identity
from eval_recipes.steering.select.explanation_file import require_own_source
from eval_recipes.steering.select.explanations import explain
from eval_recipes.steering.select.latents import read_latents
from eval_recipes.steering.texts import EVAL, FACTS_SUFFIX, TEXTS_SUFFIX, read_texts
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
    side_files = (TEXTS_SUFFIX, FACTS_SUFFIX)
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
        if options.facts is not None:
            read_facts(options.facts)
        if options.explanations is not None and Path(options.explanations).is_file():
            require_own_source(Path(options.explanations), context.subjects)
        for subject in context.subjects:
            facts = SubjectFacts.read(subject)
            if options.latents is not None:
                given(options.latents, d_sae=facts.d_sae)
            if facts.hook_name:
                # how many layers there are is known when the model is
                parse_hook(facts.hook_name, sys.maxsize)
            contents_read(subject, options)
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
        if options.facts is None:
            # settings of facts decide nothing without them
            chosen = {k: v for k, v in chosen.items() if not k.startswith("facts")}
        else:
            chosen["facts"] = facts_hash(options.facts)
        chosen["read"] = {
            f"{subject.release}/{subject.sae_id}/{name}": content
            for subject in context.subjects
            for name, content in contents_read(subject, options).items()
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
        facts = None
        if options.facts is not None:
            facts = measure_facts(
                model,
                sae,
                latents,
                chosen.pool,
                by_amount,
                options,
                weights=weights_hash(sae),
                sets=chosen.sets,
            )
        table = texts_table(judged, explained.explanations, stability, prompts, subject)
        unlike = differences(sae, options, found.explainer)

        further = {} if facts is None else {FACTS_SUFFIX: facts_table(facts, subject)}

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
                facts=facts,
                extra={
                    "facts_table": texts.further.get(FACTS_SUFFIX),
                    "backend": model.kind,
                    "model": model.name,
                    "dtype": str(model.backend.dtype).removeprefix("torch."),
                    "explainer": found.explainer,
                    "explanations_from": origin_of(options),
                    "comparable_with_published": not unlike,
                    "unlike_published": unlike,
                },
            )
            return build_output(measured, subject, base_fields(subject, sae), options)

        return TableOutput(TEXTS_SUFFIX, table, build, further)


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
