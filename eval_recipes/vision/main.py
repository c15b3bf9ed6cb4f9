"""The evaluation vision: SAEs on the activations of images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import torch
from sae_lens import SAE
from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface
from torch import Tensor

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.vision.figures import (
    Figures,
    Purity,
    Scores,
    curve_figures,
    intervals,
    mean_values,
    probe_figures,
    purity_figures,
    reconstruction_figures,
    score_values,
)
from eval_recipes.vision.images import (
    HeldOutImages,
    judge_embeddings,
    open_images,
    own_embeddings,
)
from eval_recipes.vision.options import EVAL, VisionEvalConfig
from eval_recipes.vision.output import (
    KS,
    TABLE_SUFFIX,
    JudgeDetail,
    PurityMetrics,
    ReconstructionMetrics,
    RobustnessMetrics,
    ScoreMetrics,
    VisionEvalOutput,
    VisionMetricCategories,
)
from eval_recipes.vision.tally import ImageTally
from saereg_plugin.activations.opening import describe_source
from saereg_plugin.errors import InputError
from saereg_plugin.sources.modules import module_facts, module_identity

KINDS = ("module", "cache")

_SCORES = ("score", "floor", "normalised", "centred")


@dataclass
class _Passed:
    """What one pass over the images of a source gave."""

    images: HeldOutImages
    own: Tensor
    """Mean activation of each image, float64 [images, d_in]."""
    tallies: dict[str, ImageTally]
    """By SAE."""
    failures: dict[str, Exception]


@dataclass(frozen=True)
class _Measured:
    """Figures of one SAE by category, and what is known of each latent."""

    figures: dict[str, Figures]
    judges: dict[str, Figures]
    latents: dict[str, Any]
    further: dict[str, Any]


class VisionEvaluation(Evaluation[VisionEvalConfig]):
    """
    Reconstruction, monosemanticity, class purity and robustness to k on held-out images.

    The model runs over the images once for all SAEs of a source, and each judge once.
    """

    name = EVAL
    summary = (
        "how alike the images of each latent are, to other encoders and by their class"
    )
    Options = VisionEvalConfig
    Output = VisionEvalOutput
    reads_model = False
    reads_images = True
    any_source = True
    bytes_per_latent = 100
    side_files = (TABLE_SUFFIX,)
    from_run = {"random_seed": "seed"}

    def check(self, context: RunContext, options: VisionEvalConfig) -> None:
        """Refuse SAEs of other activations than those of images, and unknown judges."""
        for judge in options.judges:
            facts = module_facts(judge)
            if facts.takes != "images":
                raise InputError(
                    f"Judge {judge!r} takes {facts.takes}; expected an encoder of images."
                )
        for subject in context.subjects:
            facts = load_sae_config_from_huggingface(subject.release, subject.sae_id)
            source = source_of(subject.sae_id, facts.get("metadata") or {})
            describe_source(source, split="heldout")

    def key(self, context: RunContext, options: VisionEvalConfig) -> dict[str, Any]:
        """Return the settings, with the weights of the judges."""
        judges = {judge: module_identity(judge) for judge in options.judges}
        return {**super().key(context, options), "judge_weights": judges}

    @contextmanager
    def opened(self, context: RunContext, options: VisionEvalConfig) -> Iterator[None]:
        """Keep the passes over the images, and the embeddings of the judges."""
        self._passes: dict[str, _Passed] = {}
        self._embeddings = lru_cache(maxsize=None)(
            partial(self._embed, context, options)
        )
        yield
        self._passes.clear()
        self._embeddings.cache_clear()

    def evaluate(
        self, context: RunContext, subject: Subject, options: VisionEvalConfig
    ) -> TableOutput:
        """
        Evaluate one SAE.

        Raises:
            InputError: if its images cannot be had.
            ValueError: if its reconstruction is not finite.
        """
        sae = subject.load(context.device)
        source = source_of(subject.sae_id, sae.cfg.metadata.to_dict())
        name = json.dumps(source, sort_keys=True)
        passed = self._passes.get(name)
        if passed is None:
            passed = self._passes[name] = run_pass(context, source, options)
        if subject.sae_id in passed.failures:
            raise passed.failures[subject.sae_id]
        measured = self._measure(name, passed, subject, options, source)
        return _output(subject, sae, options, measured)

    def _measure(
        self,
        name: str,
        passed: _Passed,
        subject: Subject,
        options: VisionEvalConfig,
        source: Mapping[str, Any],
    ) -> _Measured:
        tally, images = passed.tallies.pop(subject.sae_id), passed.images
        codes, blocks = tally.codes, images.blocks
        own = score_values(codes, passed.own, blocks)
        judges = {
            judge: score_values(codes, self._embeddings(name, judge), blocks)
            for judge in options.judges
            if judge != source.get("model")
        }
        figures = {
            "reconstruction": reconstruction_figures(tally, blocks),
            "monosemanticity": _score_figures(own, judges),
            "purity": dict.fromkeys(_names(PurityMetrics)),
            "robustness": dict.fromkeys(_names(RobustnessMetrics)),
        }
        figures["robustness"] |= curve_figures(tally, KS)
        latents: dict[str, Any] = {"own_score": own.of_latents}
        latents |= {f"score_{judge}": s.of_latents for judge, s in judges.items()}
        further: dict[str, Any] = {"images": len(codes)}
        labels = images.labels
        if labels is not None:
            purity = _purity(codes, labels, images, options)
            figures["purity"], latents = purity.figures, latents | purity.of_latents
        if labels is not None and options.probe:
            found, converged = probe_figures(
                codes, labels, blocks, iterations=options.probe_iterations
            )
            figures["robustness"] |= found
            further["probe_converged"] = converged
        by_judge = {judge: intervals(s.values) for judge, s in judges.items()}
        return _Measured(figures, by_judge, latents, further)

    def _embed(
        self, context: RunContext, options: VisionEvalConfig, name: str, judge: str
    ) -> Tensor:
        return judge_embeddings(
            judge,
            self._passes[name].images,
            image_size=options.judge_image_size,
            device=context.device,
        )


def source_of(sae_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the settings of the source that an SAE's metadata names.

    Raises:
        InputError: if it has none, or not of images.
    """
    source = metadata.get("activation_source") or {}
    if source.get("kind") not in KINDS:
        raise InputError(
            f"SAE {sae_id!r} reads {metadata.get('hook_name')!r} of {metadata.get('model_name')!r}, which "
            "vision cannot serve; expected an SAE on a source of images, of kind 'module' or "
            "'cache'. Leave this SAE or this evaluation out."
        )
    return dict(source["config"])


def run_pass(
    context: RunContext, source: Mapping[str, Any], options: VisionEvalConfig
) -> _Passed:
    """
    Run every SAE of the run that reads a source over its held-out images.

    An SAE that fails is among the failures; the others go on.

    Raises:
        InputError: if the images cannot be had.
    """
    images = open_images(source, options, device=context.device, dtype=context.dtype)
    passed = _Passed(images, torch.empty(0), {}, {})
    points: dict[str, str] = {}
    for subject in context.subjects:
        try:
            sae = subject.load(context.device)
            metadata = sae.cfg.metadata.to_dict()
            if source_of(subject.sae_id, metadata) == source:
                points[subject.sae_id] = str(metadata["hook_name"])
                passed.tallies[subject.sae_id] = ImageTally(
                    sae, images.blocks, ks=KS, pool=options.pool
                )
        except Exception as error:
            passed.failures[subject.sae_id] = error
    own: list[Tensor] = []
    for found in images.passes():
        own.append(own_embeddings(found, next(iter(found.activations))).cpu())
        for sae_id, tally in list(passed.tallies.items()):
            try:
                tally.update(found.activations[points[sae_id]], found.keep)
            except Exception as error:
                passed.failures[sae_id] = error
                del passed.tallies[sae_id]
    passed.own = torch.cat(own)
    return passed


def _score_figures(own: Scores, judges: Mapping[str, Scores]) -> Figures:
    """Return monosemanticity by the own input, and the mean over the judges."""
    found = {f"own_{k}": v for k, v in intervals(own.values).items()}
    if not judges:
        return found | dict.fromkeys([f"judge_{name}" for name in _SCORES])
    mean = mean_values([scores.values for scores in judges.values()])
    return found | {f"judge_{k}": v for k, v in intervals(mean).items()}


def _purity(
    codes: Any, labels: Tensor, images: HeldOutImages, options: VisionEvalConfig
) -> Purity:
    n_classes = max(len(images.class_names), int(labels.max()) + 1)
    return purity_figures(
        codes,
        labels,
        n_classes,
        images.blocks,
        shuffles=options.n_shuffles,
        seed=options.random_seed,
    )


def _names(category: type[Any]) -> list[str]:
    """Return the names of the metrics of a category."""
    fields = category.__dataclass_fields__
    return [name for name in fields if f"{name}_n" in fields]


def _output(
    subject: Subject, sae: SAE[Any], options: VisionEvalConfig, measured: _Measured
) -> TableOutput:
    metrics = {k: flat(found) for k, found in measured.figures.items()}
    table = pa.table(
        {
            "latent": pa.array(range(int(sae.cfg.d_sae))),
            **{k: pa.array(v.numpy()) for k, v in measured.latents.items()},
        }
    )

    def build(stored: StoredTable) -> VisionEvalOutput:
        return VisionEvalOutput(
            **base_fields(subject, sae),
            eval_config=options,
            eval_result_metrics=VisionMetricCategories(
                reconstruction=ReconstructionMetrics(**metrics["reconstruction"]),
                monosemanticity=ScoreMetrics(**metrics["monosemanticity"]),
                purity=PurityMetrics(**metrics["purity"]),
                robustness=RobustnessMetrics(**metrics["robustness"]),
            ),
            eval_result_details=[
                JudgeDetail(judge=judge, **flat(found))
                for judge, found in measured.judges.items()
            ],
            eval_result_unstructured=unstructured(
                subject,
                latents=stored.about,
                no_interval=without_interval(measured.figures),
                **measured.further,
            ),
        )

    return TableOutput(TABLE_SUFFIX, table, build)
