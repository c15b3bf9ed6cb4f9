"""SAEBench's core evaluation, with corrected figures next to its own."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sae_bench.evals.core import main as upstream_core
from sae_bench.evals.core.eval_output import (
    CoreEvalOutput,
    CoreMetricCategories,
    ModelBehaviorPreservationMetrics,
)
from sae_lens import SAE, ActivationsStore
from sae_lens.config import HfDataset

from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import read_model
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from eval_recipes.running.heldout import HeldOut, heldout_of
from eval_recipes.saebench.core.options import CoreOptions
from eval_recipes.saebench.core.output import (
    KL_FIGURES,
    NULLABLE,
    CorrectedCoreMetricCategories,
    CorrectedCoreOutput,
    CorrectedMetrics,
    FeatureMetric,
)
from eval_recipes.saebench.upstream import patched, read_upstream, upstream, without_bar
from saereg_plugin.sources import corpora
from saereg_plugin.sources.models import LanguageModel

logger = logging.getLogger(__name__)


class CoreEvaluation(Evaluation[CoreOptions]):
    """SAEBench's core evaluation, with corrected figures next to its own."""

    name = "core"
    summary = "SAEBench's core metrics, with corrected explained variance next to them"
    Options = CoreOptions
    Output = CorrectedCoreOutput
    reads_text = True
    bytes_per_latent = 200

    @contextmanager
    def opened(self, context: RunContext, options: CoreOptions) -> Iterator[None]:
        """Open the text, and share the passes of the model that do not depend on the SAE."""
        del options
        # fails here, before any work, if the corpus cannot be read
        self.text = corpora.load(context.corpus, "heldout", streaming=True)
        # a single SAE shares with none, and its own activations need memory
        several = len(context.subjects) > 1
        self.passes = SharedPasses(context.memory_gib / 2 if several else 0.0)
        self.told: set[str] = set()
        yield

    def evaluate(
        self, context: RunContext, subject: Subject, options: CoreOptions
    ) -> CorrectedCoreOutput:
        """
        Evaluate one SAE.

        Raises:
            HeldOutError: if its held-out figures could not be measured.
            UpstreamError: if upstream failed or left no result.
        """
        heldout = heldout_of(context)[subject.sae_id]
        sae = subject.load(context.device)
        source, model = read_model(context, sae)
        with tempfile.TemporaryDirectory() as folder:
            with (
                upstream(self.name, subject, sae, model, seed=context.seed),
                self.passes.on(model),
                # upstream writes -1 for NaN, which a cosine or a bias may also be
                patched(upstream_core, "replace_nans_with_negative_one", _unchanged),
                patched(ActivationsStore, "from_sae", _store_of(self.text)),
                # its progress bar counts to one for every SAE
                patched(upstream_core, "tqdm", without_bar),
            ):
                upstream_core.multiple_evals(
                    selected_saes=[(subject.release, subject.sae_id)],
                    **dataclasses.asdict(options),  # pyright: ignore[reportArgumentType]
                    compute_featurewise_density_statistics=True,
                    compute_featurewise_weight_based_metrics=True,
                    exclude_special_tokens_from_reconstruction=True,
                    dataset=f"{context.corpus}/heldout",
                    context_size=source.context_size,
                    output_folder=folder,
                    dtype=context.dtype,
                    device=context.device,
                )
            measured = read_upstream(
                Path(folder), CoreEvalOutput, eval=self.name, subject=subject
            )
        self._tell(doubts(measured.eval_result_metrics))
        return corrected(measured, heldout, subject, sae)

    def _tell(self, sentences: list[str]) -> None:
        """Warn of each doubt once in a run: the SAEs share model and text."""
        for sentence in sentences:
            # the figures in a sentence differ from hook to hook
            kind = sentence.split(":")[0]
            if kind not in self.told:
                logger.warning("core: %s", sentence)
            self.told.add(kind)


def _store_of(text: HfDataset) -> Callable[..., ActivationsStore]:
    """
    Stand in for ``ActivationsStore.from_sae`` with the held-out text given.

    Upstream can only name a data set, of which it takes the split "train".
    """
    from_sae = ActivationsStore.from_sae
    return lambda *args, **kwargs: from_sae(*args, **{**kwargs, "dataset": text})


def _unchanged(value: Any) -> Any:
    return value


def corrected(
    measured: CoreEvalOutput, heldout: HeldOut, subject: Subject, sae: SAE[Any]
) -> CorrectedCoreOutput:
    """Return upstream's output under the SAE's true ids, with the corrected figures."""
    categories = {
        field.name: getattr(measured.eval_result_metrics, field.name)
        for field in dataclasses.fields(measured.eval_result_metrics)  # pyright: ignore[reportArgumentType]
    }
    behavior = categories["model_behavior_preservation"]
    categories["model_behavior_preservation"] = without_kl_of_zero(behavior)
    return CorrectedCoreOutput(
        **base_fields(subject, sae),
        eval_config=measured.eval_config,
        eval_result_metrics=CorrectedCoreMetricCategories(
            **categories, corrected=corrected_metrics(heldout)
        ),
        eval_result_details=[
            _feature(dataclasses.asdict(feature))  # pyright: ignore[reportArgumentType]
            for feature in measured.eval_result_details
        ],
        eval_result_unstructured=unstructured(subject),
    )


def without_kl_of_zero(
    behavior: ModelBehaviorPreservationMetrics,
) -> ModelBehaviorPreservationMetrics:
    """
    Replace KL figures that are not finite by -1, which is SAEBench's mark for no value.

    Upstream takes the logarithm of the softmax, so a token of probability 0 in the model's
    data type makes its KL divergence NaN; the other figures are not concerned.
    """
    broken = [name for name in KL_FIGURES if not math.isfinite(getattr(behavior, name))]
    return dataclasses.replace(behavior, **dict.fromkeys(broken, -1.0))  # pyright: ignore[reportArgumentType]


def doubts(metrics: CoreMetricCategories) -> list[str]:
    """Return sentences on figures that the language model makes useless, whatever the SAE."""
    behavior = metrics.model_behavior_preservation
    found: list[str] = []
    if any(not math.isfinite(getattr(behavior, name)) for name in KL_FIGURES):
        found.append(
            "SAEBench's KL divergence is not finite, because the language model gives some "
            "tokens probability 0 in its data type; its figures are left without a value."
        )
    loss = metrics.model_performance_preservation
    if loss.ce_loss_without_sae >= loss.ce_loss_with_ablation:
        found.append(
            "The CE score says nothing about these SAEs: the language model's cross entropy, "
            f"{loss.ce_loss_without_sae:.3g}, is no better than with zeros at the hook, "
            f"{loss.ce_loss_with_ablation:.3g}. Use a model that fits the text."
        )
    return found


def corrected_metrics(heldout: HeldOut) -> CorrectedMetrics:
    """Return the held-out figures as a category of metrics."""
    figures = dataclasses.asdict(heldout)
    # both are in the configurations next to the metrics
    del figures["context_size"], figures["d_sae"]
    return CorrectedMetrics(**figures, frac_alive=heldout.alive / heldout.d_sae)


def _feature(values: dict[str, Any]) -> FeatureMetric:
    restored: dict[str, Any] = {
        name: None if name in NULLABLE and math.isnan(value) else value
        for name, value in values.items()
    }
    return FeatureMetric(**restored)


_Passed = tuple[torch.Tensor, ...]

_ZERO_ABLATION = "standard_zero_ablate_hook"
"""Upstream's hook that puts zeros in place of the whole activation."""


class SharedPasses:
    """
    Remembers the clean and the zero-ablated passes of core's reconstruction batches.

    Two of core's three passes of the whole model are the same for every SAE of one hook;
    SAEs see the same tokens, because upstream is seeded before each.

    Args:
        memory_gib: results are kept up to this much; what is beyond is computed again.
    """

    def __init__(self, memory_gib: float):
        self._bytes = self._left = memory_gib * 2**30
        self._model: LanguageModel | None = None
        self._kept: dict[tuple[str, ...], _Passed] = {}

    @contextmanager
    def on(self, model: LanguageModel) -> Iterator[None]:
        """Answer from memory within this block; another model than before starts anew."""
        if model is not self._model:
            self._model, self._left = model, self._bytes
            self._kept.clear()
        forward, with_hooks = model.forward, model.run_with_hooks
        hooked = False

        def clean(tokens: Any, *args: Any, **kwargs: Any) -> Any:
            if hooked or args or kwargs.get("return_type") != "both":
                return forward(tokens, *args, **kwargs)
            return self._once(
                ("clean", repr(kwargs)),
                tokens,
                lambda: forward(tokens, **kwargs),
            )

        def ablated(tokens: Any, *args: Any, **kwargs: Any) -> Any:
            def run() -> Any:
                nonlocal hooked
                hooked = True
                try:
                    return with_hooks(tokens, *args, **kwargs)
                finally:
                    hooked = False

            options = dict(kwargs)
            hooks = options.pop("fwd_hooks", [])
            names = [getattr(function, "__name__", "") for _, function in hooks]
            if (
                args
                or names != [_ZERO_ABLATION]
                or options.get("return_type") != "both"
            ):
                return run()
            key = ("ablated", str(hooks[0][0]), repr(options))
            return self._once(key, tokens, run)

        with (
            patched(model, "forward", clean),
            patched(model, "run_with_hooks", ablated),
        ):
            yield

    def _once(
        self, key: tuple[str, ...], tokens: torch.Tensor, run: Callable[[], _Passed]
    ) -> _Passed:
        digest = hashlib.sha256(tokens.cpu().numpy().tobytes()).hexdigest()
        key = (*key, digest, str(tuple(tokens.shape)))
        if key in self._kept:
            return self._kept[key]
        passed = run()
        size = sum(tensor.numel() * tensor.element_size() for tensor in passed)
        if size <= self._left:
            self._left -= size
            self._kept[key] = passed
        return passed
