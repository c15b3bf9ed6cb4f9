"""KL fine-tuning of SAEs with and without L2, against MSE alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.tidy import frame_of_rows
from eval_recipes.running.context import RunContext
from eval_recipes.statistics.interval import Interval
from eval_recipes.studies.finetune.behaviour import (
    BEHAVIOUR,
    FILE,
    ContextLosses,
    intervals,
    measure,
)
from eval_recipes.studies.framework.definition import (
    ALIVE,
    D_IN,
    L0,
    PROBING,
    SHARED,
    SHARED_ALIVE,
    VARIANCE,
    Column,
    Groups,
    Plan,
    Scale,
    Stage,
    Study,
    Tuned,
    paper_plan,
    paper_sweep,
    small_sweep,
)
from eval_recipes.studies.framework.verdicts import Claim
from eval_recipes.tables.passage import Passage, Shown
from saereg_plugin.finetuning import FineTune
from saereg_plugin.presets import weight_regularized_topk
from saereg_plugin.sweeps import SweepConfig

CE_GAP = Column(BEHAVIOUR, "figures/ce_gap", "CE gap")
KL = Column(BEHAVIOUR, "figures/kl", "KL")
GROUPS = ("none", "l2")
BEFORE = "before"
LOSSES = {"mse": "mse", "kl": "kl+mse"}
"""Loss of each fine-tune, by the suffix of its groups."""
_PAPER_K = 80


@dataclass(frozen=True)
class Size:
    """Length and width of the small runs."""

    d_sae: int = 1536
    k: int = 32
    tokens: int = 307_200
    batch_size: int = 1024
    seeds: tuple[int, ...] = (0, 1, 2)
    tuned_tokens: int = 16_384
    """Of each fine-tune."""
    lr: float = 2e-4
    """Of the fine-tunes: a fifth of that of the training; the paper's 5e-5 is for 15M tokens."""
    contexts_per_step: int = 8
    heldout_tokens: int = 16_384
    evals: tuple[str, ...] = ("cross_seed", "sparse_probing")
    changes: Mapping[str, Any] | None = None
    """Further fields of the sweep."""


SMALL = Size()


def _groups(size: Size, suffix: str) -> Groups:
    fields = {
        "architecture": "regularized_topk",
        "d_in": D_IN,
        "d_sae": size.d_sae,
        "k": size.k,
        "decoder_constraint": "unit_norm",
        "normalize_activations": "expected_average_only_in",
    }
    penalty = {
        "name": "weight_penalty",
        "norm": "l2",
        "target": "both",
        "coefficient": 6e-3,
    }
    return {
        f"none{suffix}": fields,
        f"l2{suffix}": {**fields, "regularizers": [penalty]},
    }


def _small_sweep(size: Size, suffix: str) -> SweepConfig:
    steps = size.tokens // size.batch_size
    return small_sweep(
        _groups(size, suffix),
        seeds=size.seeds,
        tokens=size.tokens,
        batch_size=size.batch_size,
        dead_feature_window=max(1, steps // 5),
        **(size.changes or {}),
    )


def _paper_sweep(suffix: str) -> SweepConfig:
    presets = {
        group: weight_regularized_topk(
            k=_PAPER_K, penalty="none" if group == "none" else "l2", unit_norm=True
        )
        for group in GROUPS
    }
    first = presets["none"]
    groups = {
        f"{group}{suffix}": preset.sae_fields(d_in=first.d_in, d_sae=first.d_sae)
        for group, preset in presets.items()
    }
    return paper_sweep(first, groups)


def small_plan(size: Size) -> Plan:
    """Return the plan of the embedded model at a size."""
    settings = FineTune(
        tokens=size.tuned_tokens,
        lr=size.lr,
        contexts_per_step=size.contexts_per_step,
        log_every=4,
        checkpoint_every=16,
    )

    def sweep(suffix: str) -> SweepConfig:
        return _small_sweep(size, suffix)

    return Plan(
        stages=_stages(sweep, settings, evals=size.evals),
        settings=f"SmolLM2-135M-Instruct, blocks.2.hook_resid_post, d_sae {size.d_sae:,}, k {size.k}, unit "
        f"norm, {size.tokens:,} tokens, L2 6e-3; fine-tunes of {size.tuned_tokens:,} tokens each, the same "
        f"for both losses, AdamW {size.lr:g} to 0.",
        heldout_tokens=size.heldout_tokens,
    )


def _stages(
    sweep: Any, settings: FineTune, evals: tuple[str, ...]
) -> tuple[Stage, ...]:
    def trained(suffix: str) -> Any:
        return lambda _: sweep(suffix)

    tuned = [
        Stage(
            name,
            trained(f"-{name}"),
            evals=evals,
            tuned=Tuned(
                BEFORE,
                replace(settings, loss=loss, suffix=f"-{name}"),  # pyright: ignore[reportArgumentType]
            ),
        )
        for name, loss in LOSSES.items()
    ]
    return (Stage(BEFORE, trained(""), evals=evals), *tuned)


def _plan(scale: Scale) -> Plan:
    if scale == "small":
        return small_plan(SMALL)
    return paper_plan(
        "pythia-70m-deduped, blocks.3.hook_resid_post, d_sae 16,384, k 80, 50M tokens of the Pile, L2 "
        "1e-4 (times d_in); fine-tunes of 2.5M tokens each, AdamW 5e-5 to 0.",
        *_stages(_paper_sweep, FineTune(tokens=2_500_000), SMALL.evals),
    )


def finish(context: RunContext, out: Path) -> tuple[pd.DataFrame, list[Passage]]:
    """
    Return CE gap and KL of every SAE as tidy rows, and a passage on what fine-tuning changed.

    Args:
        context: with the SAEs of all stages.
        out: folder of the study.
    """
    losses = measure(context, out)
    rows: list[dict[str, Any]] = []
    changes: list[list[Shown]] = []
    for subject in context.subjects:
        origin = _origin(subject.sae_id, losses)
        found = intervals(losses[subject.sae_id], origin, seed=context.seed)
        for name, interval in found.items():
            rows.append(_row(subject, name, interval))
        if origin is not None:
            changes.append(
                [
                    subject.sae_id,
                    found["ce_gap"],
                    found["ce_gap_change"],
                    found["kl"],
                    found["kl_change"],
                ]
            )
    heads = ["SAE", "CE gap", "change of CE gap", "KL", "change of KL"]
    text = (
        "Change by fine-tuning, each SAE against itself before, on the same held-out contexts (nats a token; "
        "95 % bootstrap interval over contexts):"
    )
    return frame_of_rows(rows), [Passage(text, heads=heads, rows=changes)]


def _origin(sae_id: str, losses: Mapping[str, ContextLosses]) -> ContextLosses | None:
    """Return the losses of the SAE that an SAE was fine-tuned from; None if it was not."""
    group, dash, seed = sae_id.rpartition("-seed")
    for suffix in LOSSES:
        if group.endswith(f"-{suffix}"):
            return losses.get(f"{group.removesuffix(f'-{suffix}')}{dash}{seed}")
    return None


def _row(subject: Any, name: str, interval: Interval) -> dict[str, Any]:
    return {
        "release": subject.release,
        "group": subject.group,
        "seed": subject.seed,
        "sae_id": subject.sae_id,
        "eval": BEHAVIOUR,
        "metric": f"figures/{name}",
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "n": interval.n,
    }


def _claims(_: Scale) -> Sequence[Claim]:
    found: list[Claim] = []
    for group in GROUPS:
        tuned, control = f"{group}-kl", f"{group}-mse"
        # the control and the fine-tune of SAEs with L2 are ours
        source = "paper" if group == "none" else "ours"
        found += [
            CE_GAP.claim(tuned, "lower", group, source=source),
            CE_GAP.claim(tuned, "lower", control),
            KL.claim(tuned, "lower", group, source=source),
            KL.claim(tuned, "lower", control),
            VARIANCE.claim(tuned, "not_lower", control, margin=0.01),
            ALIVE.claim(tuned, "not_lower", control, margin=0.01),
            PROBING.claim(tuned, "not_lower", control, margin=0.01),
        ]
    return found + [
        SHARED.claim(f"l2{suffix}", "higher", f"none{suffix}")
        for suffix in ("", "-mse", "-kl")
    ]


STUDY = Study(
    name="finetune",
    paper="arXiv 2503.17272 on SAEs of arXiv 2603.04198",
    summary="A short fine-tune on KL and MSE, and the same on MSE alone, of SAEs with and without L2.",
    plan=_plan,
    columns=(
        *(VARIANCE, L0, ALIVE, CE_GAP, KL),
        *(SHARED, SHARED_ALIVE, PROBING),
    ),
    claims=_claims,
    finish=finish,
    files=(FILE,),
    notes=(
        "The paper fine-tunes TopK SAEs of Gemma-2-2B that were trained on 500M tokens, on 15M to 25M "
        "tokens; here both are about a thousand times shorter and the learning rate is higher.",
        "L2 is at the demo's coefficient.",
        "CE gap is the cross entropy of the next token with the SAE in place less that without, KL the "
        "divergence of the two; both in nats a token, special tokens left as they are.",
        "With fewer than five seeds figures of pairs (shared, shared of alive) have no interval over "
        "seeds, so no statement on them is decided.",
    ),
)
