"""The attribution evaluation: scores of latents, cores, and their check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sae_lens import SAE
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.attribution.ablation import Ablated, ablate, ablation_figures
from eval_recipes.attribution.cores import Cores, Figures, measure_cores
from eval_recipes.attribution.options import AttributionEvalConfig
from eval_recipes.attribution.output import (
    AblationMetrics,
    AttributionEvalOutput,
    AttributionMetricCategories,
    CoreMetrics,
    OverlapMetrics,
    PairDetail,
    latent_table,
)
from eval_recipes.attribution.overlap import (
    Pair,
    match_group,
    other_cores,
    overlap_figures,
)
from eval_recipes.attribution.passes import LossPasses
from eval_recipes.attribution.table import EVAL, TABLE_SUFFIX
from eval_recipes.attribution.tally import BYTES_PER_ENTRY, EntryTally
from eval_recipes.results.files import BaseFields, base_fields, unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import Source
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.heldout_pass import Reader, along_sources
from eval_recipes.running.sources import OtherSource
from saereg_plugin.metrics.similarity import unit_rows

_NO_ABLATION = (
    *("rho", "rho_chance", "rho_score", "rho_frequency", "rho_contribution"),
    *("sparsity", "sparsity_random", "sparsity_excess"),
)


@dataclass(frozen=True)
class Measured:
    """What was measured of one SAE alone."""

    subject: Subject
    fields: BaseFields
    directions: Tensor
    """Decoder rows of norm 1, [d_sae, d_in]."""
    cores: Cores
    ablated: Ablated | None


class AttributionEvaluation(Evaluation[AttributionEvalConfig]):
    """
    Scores of the latents of every SAE by gradient times activation, and their cores.

    One backward pass a batch serves all SAEs on a hook.
    """

    name = EVAL
    summary = (
        "which latents the next-token loss depends on, and how few carry most of it"
    )
    Options = AttributionEvalConfig
    Output = AttributionEvalOutput
    over_groups = True
    reads_text = True
    bytes_per_latent = 60
    side_files = (TABLE_SUFFIX,)
    from_run = {"random_seed": "seed", "corpus": "corpus"}
    run_decides = frozenset({"corpus"})
    # the text is in every key by its content
    not_in_key = frozenset({"corpus"})

    def evaluate_all(
        self, context: RunContext, options: AttributionEvalConfig
    ) -> list[Failure]:
        """Measure the SAEs on each hook together, compare seeds, and write all results."""
        subjects = {subject.sae_id: subject for subject in context.subjects}

        def start(sae_id: str, sae: SAE[Any]) -> EntryTally:
            tally = EntryTally(sae, at=options.at)
            tally.sae_id = sae_id
            return tally

        def along(
            context: RunContext,
            source: Source | OtherSource,
            readers: dict[str, Reader[EntryTally]],
            failures: dict[str, str],
        ) -> dict[str, LossPasses]:
            assert isinstance(source, Source)
            return {
                source.hook_name: _read(context, source, readers, failures, options)
            }

        def finish(tally: EntryTally, passes: LossPasses) -> Measured:
            return _measure(subjects[tally.sae_id], tally, passes, options)

        measured, causes = along_sources(
            context,
            context.subjects,
            start,
            along,
            finish,
            extra_bytes=lambda sae: _bytes(sae, options),
        )
        failures = [self.failure(subjects[s], cause) for s, cause in causes.items()]
        groups: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
        # results do not depend on the order in which SAEs were named
        for sae_id, found in sorted(measured.items()):
            key = (found.subject.group, tuple(found.directions.shape))
            groups[key].append(sae_id)
        for ids in groups.values():
            group = {sae_id: measured[sae_id] for sae_id in ids}
            failures += self._write_group(context, group, options)
        return failures

    def _write_group(
        self,
        context: RunContext,
        group: Mapping[str, Measured],
        options: AttributionEvalConfig,
    ) -> list[Failure]:
        cores = {sae_id: found.cores for sae_id, found in group.items()}
        rows = {sae_id: found.directions for sae_id, found in group.items()}
        pairs = match_group(cores, rows, options)
        failures: list[Failure] = []
        for sae_id, found in group.items():
            try:
                output = _output(found, group, pairs[sae_id], options)
                self.write(context, found.subject, output)
            except Exception as error:
                failures.append(self.failure(found.subject, error))
        return failures


def _bytes(sae: SAE[Any], options: AttributionEvalConfig) -> int:
    """Return the memory of an SAE's entries, where all latents of other kinds might fire."""
    k = getattr(sae.cfg, "k", None) or 128
    return int(BYTES_PER_ENTRY * k * options.n_tokens)


def _read(
    context: RunContext,
    source: Source,
    readers: dict[str, Reader[EntryTally]],
    failures: dict[str, str],
    options: AttributionEvalConfig,
) -> LossPasses:
    """Run the model and the gradient along the text, once for all SAEs on a hook."""
    first = next(iter(readers.values())).tally.sae
    passes = LossPasses(context, source, first, n_tokens=options.n_tokens)
    for clean in tqdm(passes, desc="gradients", total=passes.total):
        rows = passes.rows(clean)
        shared = rows[:0]
        if options.at == "activations":
            shared = passes.gradient(clean, rows)
        for sae_id, reader in list(readers.items()):
            try:
                reader.tally.update(passes, clean, shared)
            except Exception as error:
                failures[sae_id] = f"{type(error).__name__}: {error}"
                del readers[sae_id]
    return passes


def _measure(
    subject: Subject,
    tally: EntryTally,
    passes: LossPasses,
    options: AttributionEvalConfig,
) -> Measured:
    entries = tally.result()
    cores = measure_cores(entries, options)
    ablated = None
    if options.n_latents and bool(cores.fires.any()):
        ablated = ablate(passes, tally, entries, cores, options)
    return Measured(
        subject=subject,
        fields=base_fields(subject, tally.sae),
        directions=unit_rows(tally.directions.cpu()),
        cores=cores,
        ablated=ablated,
    )


def _output(
    found: Measured,
    group: Mapping[str, Measured],
    pairs: Mapping[str, Pair],
    options: AttributionEvalConfig,
) -> TableOutput:
    """Return the result of one SAE with its table."""
    cores, ablated = found.cores, found.ablated
    figures: dict[str, Figures] = {
        "cores": cores.figures,
        "overlap": overlap_figures(cores, pairs, options),
        "ablation": dict.fromkeys(_NO_ABLATION)
        if ablated is None
        else ablation_figures(ablated, cores, options),
    }
    of_group = {sae_id: each.cores for sae_id, each in group.items()}
    others = other_cores(of_group, pairs) if pairs else None

    def build(stored: StoredTable) -> AttributionEvalOutput:
        return AttributionEvalOutput(
            **found.fields,
            eval_config=options,
            eval_result_metrics=AttributionMetricCategories(
                cores=CoreMetrics(**flat(figures["cores"])),
                overlap=OverlapMetrics(**flat(figures["overlap"])),
                ablation=AblationMetrics(**flat(figures["ablation"])),
            ),
            eval_result_details=[
                PairDetail(
                    sae_id=sae_id, seed=group[sae_id].subject.seed, **pair.values
                )
                for sae_id, pair in pairs.items()
                if all(value == value for value in pair.values.values())
            ],
            eval_result_unstructured=unstructured(
                found.subject,
                latents=stored.about,
                without_interval=without_interval(figures),
                tokens=cores.rows,
            ),
        )

    table = latent_table(cores, ablated, others, found.subject, options)
    return TableOutput(TABLE_SUFFIX, table, build)
