"""The language model that a run has in memory."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from transformer_lens import HookedTransformer

from saereg_plugin.sources import models
from saereg_plugin.sources.models import require_harmless

_Key = tuple[str, str, str, str]


def fingerprint(model: HookedTransformer) -> str:
    """Return a hash of every tensor's name, shape, sum and norm: 0.1 s for 135M parameters."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        value = tensor.detach().double()
        facts = (name, tuple(tensor.shape), float(value.sum()), float(value.norm()))
        digest.update(repr(facts).encode())
    return digest.hexdigest()


class ModelCache:
    """
    Keeps the language model that was used last: SAEs mostly come in runs on one.

    A caller who has the model in memory already puts it in with ``hold``.

    Args:
        trust_remote_code: let releases decide how their models are loaded, code of theirs
            included; otherwise only harmless arguments are passed on
            (``saereg_plugin.sources.models``).
    """

    def __init__(self, *, trust_remote_code: bool = False) -> None:
        self.trust_remote_code = trust_remote_code
        self._key: _Key | None = None
        self._model: HookedTransformer | None = None
        self._fingerprint: str | None = None
        self._held = False

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
        self._held, self._fingerprint = True, None

    def release(self) -> None:
        """Drop the model, unless a caller put it in; who asks for it loads it again."""
        if not self._held:
            self._key = self._model = self._fingerprint = None

    def identity(self, name: str) -> Any:
        """
        Return plain JSON that changes when the weights behind ``name`` do.

        Of a model that a caller put in, it is made from its weights.
        """
        if not self._held or self._key is None or self._key[0] != name:
            return models.identity(name)
        if self._fingerprint is None:
            assert self._model is not None
            self._fingerprint = fingerprint(self._model)
        return self._fingerprint

    def get(
        self, name: str, *, dtype: str, device: str, model_kwargs: str = "{}"
    ) -> HookedTransformer:
        """
        Return the model, loaded at most once as long as nothing else is asked for.

        ``model_kwargs`` are further arguments of its loader, as JSON.

        Raises:
            InputError: for arguments that are not harmless and not trusted.
        """
        key = (name, dtype, device, model_kwargs)
        if self._model is None or self._key != key:
            options = require_harmless(
                json.loads(model_kwargs),
                trusted=self.trust_remote_code,
                source=f"The SAE of model {name!r}",
            )
            # Dropped first, so that two models are never in memory together.
            self._model = None
            model = models.load(name, dtype=dtype, device=device, **options)
            self._key, self._model = key, model
            self._held, self._fingerprint = False, None
        return self._model
