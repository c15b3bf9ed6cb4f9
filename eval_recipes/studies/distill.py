"""Cyclic distillation of a core of latents (DMSAE), against controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.distillation.comparison import COLUMNS, compare
from eval_recipes.results.tidy import frame_of_rows
from eval_recipes.running.artifacts import package_versions
from eval_recipes.running.context import RunContext
from eval_recipes.running.plan import digest, subject_hashes
from eval_recipes.statistics.interval import Interval
from eval_recipes.studies.framework.definition import (
    ALIVE,
    D_IN,
    L0,
    VARIANCE,
    Column,
    Plan,
    Scale,
    Stage,
    Study,
    small_sweep,
)
from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from eval_recipes.studies.framework.verdicts import Claim
from eval_recipes.tables.passage import Passage, Shown
from eval_recipes.tables.table import cell
from saereg_plugin.distillation.cores import cores_of
from saereg_plugin.distillation.settings import (
    DISTILLED,
    FREQUENCY,
    MATCHED,
    PLAIN,
    RANDOM,
    Distill,
)
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from saereg_plugin.sweeps.config import sae_id

DISTILLATION = "distillation"
L0_CORE = Column(DISTILLATION, "figures/l0_core", "L0 of the core")
L0_REST = Column(DISTILLATION, "figures/l0_rest", "L0 without the core")
CE_GAP = Column(DISTILLATION, "figures/ce_gap", "CE gap")
FROZEN = Column(DISTILLATION, "figures/core_frozen", "frozen core")
PROMOTED = Column(DISTILLATION, "figures/core_promoted", "promoted core")
KEPT = Column(
    DISTILLATION,
    "figures/core_kept_by_attribution",
    "attribution core that was frozen",
)
FILE = "figures/distillation.json"

_TOKENS, _BATCH = 256_000, 1024
_CYCLES = 3
_LOSS_CONTEXTS = 16


def _settings() -> Distill:
    fields = {
        "architecture": "regularized_matryoshka_batchtopk",
        "d_in": D_IN,
        "d_sae": 1024,
        "k": 32,
        "matryoshka_widths": [64, 256, 1024],
        "decoder_constraint": "unit_norm",
        "normalize_activations": "expected_average_only_in",
        # SAELens' .01 would leave the threshold of a run of 250 steps 8 % too low
        "topk_threshold_lr": 0.05,
    }
    sweep = small_sweep(
        {PLAIN: fields},
        tokens=_TOKENS,
        batch_size=_BATCH,
        dead_feature_window=_TOKENS // _BATCH // 5,
    )
    return Distill(sweep, cycles=_CYCLES, score_tokens=4096)


SMALL = _settings()


def small_plan(settings: Distill, **fields: Any) -> Plan:
    """Return the plan of a distillation: a stage for each of its parts."""

    def stage(part: str) -> Stage:
        return Stage(
            part, lambda _: settings.sweep_of(part), evals=(), distill=settings
        )

    return Plan(
        stages=tuple(map(stage, settings.parts)),
        settings="SmolLM2-135M-Instruct, blocks.2.hook_resid_post, Matryoshka BatchTopK of 64, 256 and 1,024 "
        "latents, k 32, unit norm, 256,000 tokens a cycle in batches of 1,024, lr 1e-3; latents ranked "
        "on 4,096 training tokens, cores of 90 %.",
        **fields,
    )


def _plan(scale: Scale) -> Plan:
    if scale == "paper":
        raise InputError(
            "The study distill has no paper scale: arXiv 2512.24975 trains seven cycles of 500M tokens "
            "and 65k latents. Use --scale small, or saereg-bench distill with a sweep of yours."
        )
    return small_plan(SMALL)


def finish_of(
    settings: Distill, *, loss_contexts: int = _LOSS_CONTEXTS
) -> Callable[[RunContext, Path], tuple[pd.DataFrame, list[Passage]]]:
    """Return what measures a distillation: from context and folder, tidy rows and passages."""

    def finish(context: RunContext, out: Path) -> tuple[pd.DataFrame, list[Passage]]:
        releases = out / "releases"
        cores = {p: cores_of(settings, releases, p) for p in settings.parts}
        key = digest(
            {
                "cores": {
                    part: [dataclasses.asdict(core) for core in of.values()]
                    for part, of in cores.items()
                },
                "saes": sorted(
                    [*dataclasses.astuple(subject), hashed]
                    for subject, hashed in subject_hashes(context).items()
                ),
                "corpus": corpora.identity(context.corpus),
                "heldout_tokens": context.heldout_tokens,
                "loss_contexts": loss_contexts,
                "device": context.device,
                "packages": package_versions(),
                **settings.marks(),
            }
        )
        kept = read_figures(out / FILE, key)
        if kept is None:
            found = compare(settings, cores, context, loss_contexts=loss_contexts)
            rows = found.frame.astype(object).where(found.frame.notna(), None)
            figures: dict[str, Any] = {
                "rows": rows.to_dict("records"),
                "told": list(found.sentences),
            }
            write_figures(out / FILE, key, figures)
            kept = figures
        frame = pd.DataFrame(kept["rows"], columns=pd.Index(COLUMNS))
        return _tidy(frame, context), _passages(frame, kept["told"])

    return finish


def _tidy(frame: pd.DataFrame, context: RunContext) -> pd.DataFrame:
    """Return the figures of single SAEs as tidy rows."""
    releases = {subject.sae_id: subject.release for subject in context.subjects}
    own: Any = frame.loc[frame["seed"].notna() & frame["other"].isna()]
    return frame_of_rows(
        {
            "release": releases[sae_id(row["group"], int(row["seed"]))],
            "group": row["group"],
            "seed": int(row["seed"]),
            "sae_id": sae_id(row["group"], int(row["seed"])),
            "eval": DISTILLATION,
            "metric": f"figures/{row['figure']}",
            **{name: row[name] for name in ("value", "low", "high", "n")},
        }
        for row in own.to_dict("records")
    )


_OF_CORES = {
    "core_kept": "kept",
    "core_kept_by_attribution": "attribution core that was frozen",
    "core_in_all_cycles": "latents in all cycles' cores",
    "core_agreement": "agreement of seeds",
    "core_shared": "shared between seeds",
}


def _passages(frame: pd.DataFrame, sentences: Sequence[str]) -> list[Passage]:
    """Return what the core changed, and a table of cores with what chance reaches."""
    mean: Any = frame.loc[frame["seed"].isna()]
    rows: list[list[Shown]] = []
    for group in dict.fromkeys(mean["group"]):
        own = mean.loc[mean["group"] == group].set_index("figure")
        cells: list[Shown] = [group]
        for figure in _OF_CORES:
            cells.append("-" if figure not in own.index else _cell(own.loc[figure]))
        rows.append(cells)
    return [
        Passage(
            "Change of explained variance, mean over seeds (95 % bootstrap interval over contexts, which "
            "says nothing about other seeds):",
            points=sentences,
        ),
        Passage(
            "Cores that were promoted at the end of each training, with what chance reaches in brackets: "
            "kept from the frozen core (that of random is drawn anew, and so chance); share of the core by "
            "attribution that was frozen, which compares the arms; agreement of the cores of two seeds by "
            "matched partner, mean over pairs; core latents that are shared with the other seed, against all "
            "latents that fire:",
            heads=["group", *_OF_CORES.values()],
            rows=rows,
        ),
    ]


def _cell(row: Any) -> str:
    text = cell(Interval(row["value"], None, None, int(row["n"])))
    return (
        text
        if pd.isna(row["null"])
        else f"{text} ({cell(Interval(row['null'], None, None, 1))})"
    )


def _claims(_: Scale) -> Sequence[Claim]:
    last = {arm: f"{arm}-{_CYCLES}" for arm in (DISTILLED, RANDOM, FREQUENCY)}
    own = last[DISTILLED]
    controls = (MATCHED, last[RANDOM], last[FREQUENCY])
    return [
        *(VARIANCE.claim(own, "higher", other, beside=L0) for other in controls),
        *(CE_GAP.claim(own, "lower", other, beside=L0) for other in controls),
        VARIANCE.claim(own, "not_lower", PLAIN, margin=0.01, beside=L0),
        KEPT.claim(own, "higher", last[RANDOM]),
        PROMOTED.claim(own, "lower", PLAIN),
    ]


STUDY = Study(
    name="distill",
    paper="arXiv 2512.24975",
    summary="Whether a core of latents, distilled over three trainings, helps more than as many tokens in "
    "one training, a random core, or a core by firing rate.",
    plan=_plan,
    columns=(
        *(VARIANCE, L0, L0_CORE, L0_REST, CE_GAP),
        *(FROZEN, PROMOTED, KEPT, ALIVE),
    ),
    claims=_claims,
    notes=(
        "All statements are ours; the source has none of the controls, and reports L0 without the core.",
        "L0 is that of the saved SAE on held-out text, the core included.",
        "All arms share the first training, plain. matched is one training on as many tokens as all cycles, of the "
        "text that a cycle reads, which it reads as often as they do; what ranking costs is not counted.",
        "The source scores the most nested reconstruction, here it is the whole one, with one gradient for all "
        "SAEs, at the activations.",
    ),
    finish=finish_of(SMALL),
    files=(FILE, *(f"releases/cores/{part}.json" for part in SMALL.parts)),
)
