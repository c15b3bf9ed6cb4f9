"""The evaluation vision: SAEs on the activations of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import (
    Place,
    open_other,
    place_of,
    reads_other,
)
from eval_recipes.running.check import metadata_of, read_config
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.sources import OtherSource
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
    chosen_images,
    judge_embeddings,
    own_embeddings,
)
from eval_recipes.vision.options import EVAL, VisionEvalConfig
from eval_recipes.vision.output import (
    KS,
    PROBE_KS,
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
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import Codes
from saereg_plugin.sources.modules import module_facts, module_identity

_SCORES = ("score", "floor", "normalised", "centred")


@dataclass
class _Passed:
    """What one pass over the images of a source gave."""

    images: HeldOutImages
    points: dict[str, str]
    """Of the source, by SAE."""
    own: dict[str, Tensor]
    """Mean activation of each image by point, float64 [images, d_in]."""
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
            metadata = metadata_of(read_config(subject))
            if not reads_other(context, metadata) or not _of_images(metadata):
                raise InputError(
                    f"SAE {subject.sae_id!r} reads {metadata.get('hook_name')!r} of "
                    f"{metadata.get('model_name')!r}, which vision cannot serve; expected an SAE on a "
                    "source of images, of kind 'module' or 'cache'. Leave this SAE or this "
                    "evaluation out."
                )

    def key(self, context: RunContext, options: VisionEvalConfig) -> dict[str, Any]:
        """Return the settings, with the weights of the judges."""
        judges = {judge: module_identity(judge) for judge in options.judges}
        return {**super().key(context, options), "judge_weights": judges}

    @contextmanager
    def opened(self, context: RunContext, options: VisionEvalConfig) -> Iterator[None]:
        """Keep the passes over the images, and the embeddings of the judges."""
        self._passes: dict[OtherSource, _Passed] = {}
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
        source = _other(place_of(context, sae))
        passed = self._passes.get(source)
        if passed is None:
            passed = self._passes[source] = run_pass(context, source, options)
        if subject.sae_id in passed.failures:
            raise passed.failures[subject.sae_id]
        model = str(sae.cfg.metadata.model_name)
        measured = self._measure(source, passed, subject, options, model)
        return _output(subject, sae, options, measured)

    def _measure(
        self,
        source: OtherSource,
        passed: _Passed,
        subject: Subject,
        options: VisionEvalConfig,
        model: str,
    ) -> _Measured:
        tally, images = passed.tallies.pop(subject.sae_id), passed.images
        codes, blocks = tally.codes, images.blocks
        own = score_values(codes, passed.own[passed.points[subject.sae_id]], blocks)
        judges = {
            judge: score_values(codes, self._embeddings(source, judge), blocks)
            for judge in options.judges
            if not _same_model(judge, model)
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
            found, about = _probe(codes, labels, images, options)
            figures["robustness"] |= found
            further |= about
        by_judge = {judge: intervals(s.values) for judge, s in judges.items()}
        return _Measured(figures, by_judge, latents, further)

    def _embed(
        self,
        context: RunContext,
        options: VisionEvalConfig,
        source: OtherSource,
        judge: str,
    ) -> Tensor:
        return judge_embeddings(
            judge,
            self._passes[source].images,
            image_size=options.judge_image_size,
            device=context.device,
        )


def _of_images(metadata: Mapping[str, Any]) -> bool:
    """Return whether the source that an SAE's metadata name can hold images."""
    source = metadata.get("activation_source") or {}
    config = source.get("config") or {}
    if config.get("kind") == "module":
        return module_facts(config["model"]).takes == "images"
    return source.get("kind") != "arrays"


def _other(place: Place) -> OtherSource:
    """Return the source of an SAE that ``check`` let through."""
    assert isinstance(place.source, OtherSource)
    return place.source


def run_pass(
    context: RunContext, source: OtherSource, options: VisionEvalConfig
) -> _Passed:
    """
    Run every SAE of the run that reads a source over its held-out images.

    An SAE that fails is among the failures; the others are measured.

    Raises:
        InputError: if the images cannot be had.
    """
    saes: dict[str, SAE[Any]] = {}
    points: dict[str, str] = {}
    failures: dict[str, Exception] = {}
    for subject in context.subjects:
        try:
            sae = subject.load(context.device)
            place = place_of(context, sae)
            if place.source == source:
                points[subject.sae_id], saes[subject.sae_id] = place.point, sae
        except Exception as error:
            failures[subject.sae_id] = error
    images = chosen_images(open_other(context, source, points.values()), options)
    passed = _Passed(images, points, {}, {}, failures)
    for sae_id, sae in saes.items():
        try:
            passed.tallies[sae_id] = ImageTally(
                sae, images.blocks, ks=KS, pool=options.pool
            )
        except Exception as error:
            failures[sae_id] = error
    own: dict[str, list[Tensor]] = {point: [] for point in points.values()}
    for found in images.passes():
        for point, parts in own.items():
            parts.append(own_embeddings(found, point))
        for sae_id, tally in list(passed.tallies.items()):
            try:
                tally.update(found.activations[points[sae_id]], found.keep)
            except Exception as error:
                passed.failures[sae_id] = error
                del passed.tallies[sae_id]
    passed.own = {point: torch.cat(parts) for point, parts in own.items()}
    return passed


def _score_figures(own: Scores, judges: Mapping[str, Scores]) -> Figures:
    """Return monosemanticity by the own input, and the mean over the judges."""
    found = {f"own_{k}": v for k, v in intervals(own.values).items()}
    if not judges:
        return found | dict.fromkeys([f"judge_{name}" for name in _SCORES])
    mean = mean_values([scores.values for scores in judges.values()])
    return found | {f"judge_{k}": v for k, v in intervals(mean).items()}


def _purity(
    codes: Codes, labels: Tensor, images: HeldOutImages, options: VisionEvalConfig
) -> Purity:
    n_classes = max(len(images.class_names), int(labels.max()) + 1)
    return purity_figures(
        codes,
        labels,
        n_classes,
        images.blocks,
        first=images.first,
        shuffles=options.n_shuffles,
        seed=options.random_seed,
    )


def _probe(
    codes: Codes, labels: Tensor, images: HeldOutImages, options: VisionEvalConfig
) -> tuple[Figures, dict[str, Any]]:
    """Return the figures of the probe, none with one class, and facts on its fit."""
    if len(labels[images.first].unique()) < 2:
        reason = "the images that the probe is fitted on are of one class"
        return {}, {"without_probe": reason}
    found, converged = probe_figures(
        codes,
        labels,
        images.blocks,
        first=images.first,
        iterations=options.probe_iterations,
        ks=PROBE_KS,
    )
    return found, {"probe_converged": converged}


def _same_model(judge: str, model: str) -> bool:
    """Return whether two names are of one model: equal, or paths of one folder."""
    first, second = (Path(name).expanduser().resolve() for name in (judge, model))
    return first == second


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
                without_interval=without_interval(measured.figures),
                **measured.further,
            ),
        )

    return TableOutput(TABLE_SUFFIX, table, build)
