"""Compression of the decoder by a smaller SAE; weights only."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from sae_bench.evals.meta_structure import main as upstream_meta
from sae_bench.evals.meta_structure.eval_config import MetaStructureEvalConfig
from sae_bench.evals.meta_structure.eval_output import MetaStructureEvalOutput
from sae_lens import SAE
from torch import Tensor

from eval_recipes.results.files import (
    base_fields,
    unstructured,
)
from eval_recipes.results.metrics import flat
from eval_recipes.results.subject import Subject
from eval_recipes.running.artifacts import artifact_folder
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.saebench.meta_structure.options import MetaStructureOptions
from eval_recipes.saebench.meta_structure.output import (
    CorrectedMetaStructureMetricCategories,
    CorrectedMetaStructureMetrics,
    CorrectedMetaStructureOutput,
    RowErrors,
    random_rows,
    row_errors,
    variance_explained,
)
from eval_recipes.saebench.upstream import (
    folded_copy,
    patched,
    upstream,
)
from saereg_plugin.files import write_json
from saereg_plugin.metrics import alive_mask

EVAL = "meta_structure"


class MetaStructureEvaluation(Evaluation[MetaStructureOptions]):
    """Compression of the decoder by a smaller SAE; weights only."""

    name = EVAL
    summary = "how well a smaller SAE compresses the decoder, next to a random decoder"
    Options = MetaStructureOptions
    Output = CorrectedMetaStructureOutput
    type_id = "meta_structure_decoder_variance"
    any_source = True
    reads_model = False
    keeps_artifacts = True

    def evaluate(
        self, context: RunContext, subject: Subject, options: MetaStructureOptions
    ) -> CorrectedMetaStructureOutput:
        """
        Evaluate one SAE.

        Raises:
            UpstreamError: if upstream failed.
        """
        sae = subject.load(context.device)
        config = config_of(context, options)
        copied = folded_copy(sae)
        alive = alive_mask(copied.W_enc.detach().T, copied.W_dec.detach())
        measured, errors = _measure(context, subject, sae, copied, config)
        random = _random_variance(context, tuple(sae.W_dec.shape), config)
        metrics = corrected_metrics(
            errors,
            alive.cpu(),
            random=random,
            meta_width=meta_width(config, len(errors.residual)),
            seed=context.seed,
        )
        return CorrectedMetaStructureOutput(
            **base_fields(subject, sae),
            eval_config=config,
            eval_result_metrics=CorrectedMetaStructureMetricCategories(
                meta_structure=measured.eval_result_metrics.meta_structure,
                corrected=metrics,
            ),
            eval_result_details=[],
            eval_result_unstructured=unstructured(subject),
        )


def config_of(
    context: RunContext, options: MetaStructureOptions
) -> MetaStructureEvalConfig:
    """Return upstream's configuration; its seed is the one that is really used."""
    return MetaStructureEvalConfig(
        random_seed=context.seed,
        **dataclasses.asdict(options),  # pyright: ignore[reportArgumentType]
    )


def meta_width(config: MetaStructureEvalConfig, d_sae: int) -> int:
    """Return the number of the meta-SAE's latents, as upstream computes it."""
    return max(math.ceil(d_sae * config.width_ratio), config.k)


def _measure(
    context: RunContext,
    subject: Subject,
    sae: SAE[Any],
    copied: SAE[Any],
    config: MetaStructureEvalConfig,
) -> tuple[MetaStructureEvalOutput, RowErrors]:
    """
    Return upstream's output and the rows' errors under the meta-SAE it trained.

    Upstream reads its seed only when run as a script, and fails where gradients are off.
    """
    seen: list[RowErrors] = []
    metrics_of = upstream_meta._decoder_variance_metrics

    def with_rows(**arguments: Any) -> tuple[float, float]:
        figures = metrics_of(**arguments)
        seen.append(
            row_errors(
                arguments["meta_structure"],
                arguments["decoder"],
                batch_size=config.eval_batch_size,
            )
        )
        return figures

    with (
        upstream(EVAL, subject, sae, None, seed=context.seed),
        torch.enable_grad(),
        patched(upstream_meta, "_decoder_variance_metrics", with_rows),
    ):
        measured = upstream_meta.run_eval_single_sae(
            subject.release, subject.sae_id, copied, config, context.device
        )
    return measured, seen[0]


def _random_variance(
    context: RunContext, shape: tuple[int, ...], config: MetaStructureEvalConfig
) -> float:
    """
    Return what the same training reaches on a random decoder of this shape.

    Kept as an artefact: SAEs of one shape share it.
    """
    determinants = {
        "kind": "random decoder",
        "shape": shape,
        "config": dataclasses.asdict(config),  # pyright: ignore[reportArgumentType]
        "device": context.device,
    }
    folder = artifact_folder(context.artifacts, EVAL, determinants)

    def make(path: Path) -> None:
        rows = random_rows(*shape, seed=context.seed)
        subject = Subject("random", "random decoder", "random", None)
        stand_in = _RandomSAE(rows)
        _, errors = _measure(
            context, subject, cast(Any, stand_in), cast(Any, stand_in), config
        )
        value = variance_explained(errors, seed=context.seed).value
        write_json(path, {"fraction_variance_explained": value})

    path = folder.ensure("random_decoder.json", make)
    return float(
        json.loads(path.read_text(encoding="utf-8"))["fraction_variance_explained"]
    )


class _RandomSAE:
    """What upstream reads of an SAE in this evaluation: a decoder and a configuration."""

    def __init__(self, rows: Tensor) -> None:
        self.W_dec = rows
        self.cfg = SimpleNamespace(to_dict=dict)

    def to(self, **_: Any) -> _RandomSAE:
        return self


def corrected_metrics(
    errors: RowErrors, alive: Tensor, *, random: float, meta_width: int, seed: int
) -> CorrectedMetaStructureMetrics:
    """Return the figures of one SAE; ``alive`` is a mask [n] of its latents."""
    mask = alive.numpy()
    living = RowErrors(errors.rows[mask], errors.residual[mask])
    every = variance_explained(errors, seed=seed)
    # one row does not vary
    of_alive = (
        variance_explained(living, seed=seed) if len(living.residual) > 1 else None
    )
    figures = {
        "fraction_variance_explained": every,
        "fraction_variance_explained_alive": of_alive,
    }
    counts = {"fraction_variance_explained_alive_n": len(living.residual)}
    return CorrectedMetaStructureMetrics(
        **{**flat(figures), **counts},
        random_fraction_variance_explained=random,
        above_random=every.value - random,
        meta_width=meta_width,
    )
