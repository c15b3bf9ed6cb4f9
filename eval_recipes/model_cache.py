"""The language model that a run has in memory."""

from __future__ import annotations

import json

from transformer_lens import HookedTransformer

from saereg_plugin import models

_Key = tuple[str, str, str, str]


class ModelCache:
    """
    Keeps the language model that was used last: SAEs mostly come in runs on one.

    A caller who has the model in memory already puts it in with ``hold``.
    """

    def __init__(self) -> None:
        self._key: _Key | None = None
        self._model: HookedTransformer | None = None

    def hold(
        self,
        model: HookedTransformer,
        name: str,
        *,
        dtype: str,
        device: str,
        model_kwargs: str = "{}",
    ) -> None:
        """Use ``model`` wherever ``name`` is asked for with these settings."""
        self._key, self._model = (name, dtype, device, model_kwargs), model

    def get(
        self, name: str, *, dtype: str, device: str, model_kwargs: str = "{}"
    ) -> HookedTransformer:
        """
        Return the model, loaded at most once as long as nothing else is asked for.

        ``model_kwargs`` are further arguments of its loader, as JSON.
        """
        key = (name, dtype, device, model_kwargs)
        if self._model is None or self._key != key:
            # Dropped first, so that two models are never in memory together.
            self._model = None
            options = json.loads(model_kwargs)
            model = models.load(name, dtype=dtype, device=device, **options)
            self._key, self._model = key, model
        return self._model
