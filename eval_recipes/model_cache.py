"""The language model that a run has in memory."""

from __future__ import annotations

from transformer_lens import HookedTransformer

from saereg_plugin import models


class ModelCache:
    """
    Keeps the language model that was used last: SAEs mostly come in runs on one.

    A caller who has the model in memory already puts it in with ``hold``.
    """

    def __init__(self) -> None:
        self._key: tuple[str, str, str] | None = None
        self._model: HookedTransformer | None = None

    def hold(
        self, model: HookedTransformer, name: str, *, dtype: str, device: str
    ) -> None:
        """Use ``model`` wherever ``name`` is asked for in this type and on this device."""
        self._key, self._model = (name, dtype, device), model

    def get(self, name: str, *, dtype: str, device: str) -> HookedTransformer:
        """Return the model, loaded at most once as long as nothing else is asked for."""
        key = (name, dtype, device)
        if self._model is None or self._key != key:
            # Dropped first, so that two models are never in memory together.
            self._model = None
            model = models.load(name, dtype=dtype, device=device)
            self.hold(model, name, dtype=dtype, device=device)
            return model
        return self._model
