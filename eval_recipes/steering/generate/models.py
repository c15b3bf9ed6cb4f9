"""The language model of a run, and what is measured of it once."""

from __future__ import annotations

import gc
from typing import Any

from sae_lens import SAE

from eval_recipes.running.context import RunContext
from eval_recipes.running.model_cache import ModelCache
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.generate.language_model import (
    NORM_TEXTS,
    LanguageModel,
    corpus_texts,
    kind_of,
    language_model,
    median_norm,
)
from eval_recipes.steering.options import SteeringEvalConfig
from eval_recipes.steering.select.latents import Latents
from saereg_plugin.sources import models


class Models:
    """Keeps the last language model, and the median norms that were measured with it."""

    def __init__(self, context: RunContext, config: SteeringEvalConfig) -> None:
        self.context = context
        self.config = config
        self._key: Any = None
        self._model: LanguageModel | None = None
        self._norms: dict[Any, Interval] = {}

    def get(self, sae: SAE[Any]) -> LanguageModel:
        """Return the model that an SAE was trained on."""
        metadata = sae.cfg.metadata
        kwargs = metadata.model_from_pretrained_kwargs
        key = (metadata.model_name, str(kwargs), metadata.hook_name)
        if self._model is None or key != self._key:
            # dropped first, so that two models are never in memory together
            if kind_of(sae, self.config) == "plain":
                # an evaluation before this one may have left a HookedTransformer
                self.context.models.release()
            self._drop()
            self._model, self._key = (
                language_model(self.context, sae, self.config),
                key,
            )
        return self._model

    def for_explaining(self, sae: SAE[Any]) -> ModelCache:
        """
        Return where the explainer finds its model.

        That is a HookedTransformer. Where a plain model is steered, it gets a cache of its own,
        which goes when it is done, and the plain one goes before. A model that the run's caller
        holds, or that is steered itself, is used as it is.
        """
        name = str(sae.cfg.metadata.model_name)
        shared = self.context.models
        held = shared.identity(name) != models.identity(name)
        if held or kind_of(sae, self.config) == "hooked":
            return shared
        self._drop()
        return ModelCache()

    def _drop(self) -> None:
        self._model = self._key = None
        # hooks make cycles of references
        gc.collect()

    def norm(self, sae: SAE[Any], latents: Latents) -> Interval:
        """Return the median residual norm at an SAE's hook."""
        model = self.get(sae)
        key = (self._key, latents.prepend_bos)
        if key not in self._norms:
            self._norms[key] = median_norm(
                model,
                latents.hook_name,
                corpus_texts(self.config.corpus, NORM_TEXTS),
                prepend_bos=latents.prepend_bos,
            )
        return self._norms[key]
