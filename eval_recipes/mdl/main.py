"""The mdl evaluation: bits per token and unpaid latents."""

from __future__ import annotations

from typing import Any

from sae_lens import SAE

from eval_recipes.mdl.figures import Measured, measure
from eval_recipes.mdl.options import MdlEvalConfig
from eval_recipes.mdl.output import (
    CodeMetrics,
    LatentMetrics,
    MdlEvalOutput,
    MdlMetricCategories,
    WidthMetrics,
    latent_table,
)
from eval_recipes.mdl.table import EVAL, TABLE_SUFFIX
from eval_recipes.mdl.tally import BYTES_PER_PAIR, CodeTally
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.heldout import HeldOut, heldout_of
from eval_recipes.running.heldout_pass import tally_heldout
from eval_recipes.running.passes import Passed


class MdlEvaluation(Evaluation[MdlEvalConfig]):
    """Description length of the code of every SAE, and the balance of each latent."""

    name = EVAL
    summary = "how many bits the code of a token takes, and which latents are worth their bits"
    Options = MdlEvalConfig
    Output = MdlEvalOutput
    any_source = True
    reads_text = True
    bytes_per_latent = 40
    side_files = (TABLE_SUFFIX,)
    from_run = {
        "random_seed": "seed",
        "corpus": "corpus",
        "heldout_tokens": "heldout_tokens",
    }
    run_decides = frozenset({"corpus", "heldout_tokens"})
    # the text is in every key by its content
    not_in_key = frozenset({"corpus", "heldout_tokens"})

    def evaluate_all(
        self, context: RunContext, options: MdlEvalConfig
    ) -> list[Failure]:
        """Read the held-out inputs once for all SAEs; write each result at the end of its pass."""
        # says how much memory the codes of each SAE take
        figures = heldout_of(context)
        subjects = {subject.sae_id: subject for subject in context.subjects}
        usable = [s for s in context.subjects if s.sae_id in figures]
        most = max((_bytes(figures[s.sae_id]) for s in usable), default=0)

        def start(sae_id: str, sae: SAE[Any]) -> CodeTally:
            tally = CodeTally(sae)
            tally.sae_id = sae_id
            return tally

        def finish(tally: CodeTally, passed: Passed) -> None:
            subject = subjects[tally.sae_id]
            measured = measure(tally.result(), passed.kept, options)
            self.write(context, subject, _output(subject, tally.sae, options, measured))

        _, causes = tally_heldout(
            context, usable, start, finish, extra_bytes=lambda _: most
        )
        causes |= {k: v for k, v in figures.failures.items() if k in subjects}
        return [self.failure(subjects[sae_id], causes[sae_id]) for sae_id in causes]


def _bytes(figures: HeldOut) -> int:
    """Return the memory that the codes of an SAE take."""
    return int(BYTES_PER_PAIR * figures.l0 * figures.n_tokens)


def _output(
    subject: Subject, sae: SAE[Any], options: MdlEvalConfig, measured: Measured
) -> TableOutput:
    fields = {
        name: {**flat(found), **measured.values[name]}
        for name, found in measured.figures.items()
    }
    n_tokens = measured.values["width"]["n_tokens"]

    def build(stored: StoredTable) -> MdlEvalOutput:
        return MdlEvalOutput(
            **base_fields(subject, sae),
            eval_config=options,
            eval_result_metrics=MdlMetricCategories(
                code=CodeMetrics(**fields["code"]),
                width=WidthMetrics(**fields["width"]),
                latents=LatentMetrics(**fields["latents"]),
            ),
            eval_result_details=[],
            eval_result_unstructured=unstructured(
                subject,
                latents=stored.about,
                without_interval=without_interval(measured.figures),
            ),
        )

    table = latent_table(measured.balance, subject, options, n_tokens)
    return TableOutput(TABLE_SUFFIX, table, build)
