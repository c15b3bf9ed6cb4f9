"""The SAEs, text, model and folders of one run of evaluations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from eval_recipes.results.subject import Subject
from eval_recipes.running.artifacts import default_artifacts
from eval_recipes.running.sources import SourceCache
from saereg_plugin import machine
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.errors import InputError
from saereg_plugin.sources import models
from saereg_plugin.sources.fingerprint import fingerprint
from saereg_plugin.sources.models import (
    HOOKED,
    LanguageModel,
    TransformerBridge,
    require_harmless,
    require_model_class,
)

_Key = tuple[str, str, str, str]


def resolve_dtype(dtype: str, device: str) -> str:
    """
    Return the data type of a run's language model; "auto" depends on the device.

    It is bfloat16 on CUDA devices that multiply it in hardware, and float32 elsewhere.

    >>> resolve_dtype("auto", "cpu"), resolve_dtype("float64", "cuda")
    ('float32', 'float64')
    """
    if dtype != machine.AUTO:
        return dtype
    on_cuda = device.partition(":")[0] == "cuda"
    return machine.fast_dtype(device) if on_cuda else "float32"


class ModelCache:
    """
    Keeps the language model that was used last: SAEs mostly come in runs on one.

    A caller who has the model in memory already puts it in with ``hold``.

    Args:
        trust_remote_code: let releases decide how their models are loaded, code of theirs
            included; otherwise only harmless arguments are passed on
            (``saereg_plugin.sources.models``).
        model_class: "HookedTransformer", or "TransformerBridge", which computes on the
            modules of transformers; the class of the models that are loaded.

    Raises:
        InputError: for another class.
    """

    def __init__(
        self, *, trust_remote_code: bool = False, model_class: str = HOOKED
    ) -> None:
        self.trust_remote_code = trust_remote_code
        self.model_class = require_model_class(model_class)
        self._key: _Key | None = None
        self._model: LanguageModel | None = None
        self._fingerprint: str | None = None
        self._held = False

    def hold(
        self,
        model: LanguageModel | TransformerBridge,
        name: str,
        *,
        dtype: str,
        device: str,
    ) -> None:
        """
        Use ``model`` wherever ``name`` is asked for, and no other model.

        Its caller answers for how it was loaded: loader arguments that SAEs name are not compared.
        """
        self._key = (name, dtype, device, "{}")
        self._model = cast(LanguageModel, model)
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
            known = models.identity(name)
            # results of the usual class keep the key they had
            return known if self.model_class == HOOKED else [known, self.model_class]
        if self._fingerprint is None:
            assert self._model is not None
            self._fingerprint = fingerprint(self._model)
        return self._fingerprint

    def get(
        self, name: str, *, dtype: str, device: str, model_kwargs: str = "{}"
    ) -> LanguageModel:
        """
        Return the model, loaded at most once as long as nothing else is asked for.

        ``model_kwargs`` are further arguments of its loader, as JSON.

        Raises:
            InputError: for arguments that are not harmless and not trusted, or for another
                model than the one that a caller put in.
        """
        if self._held:
            return self._given((name, dtype, device))
        key = (name, dtype, device, model_kwargs)
        if self._model is None or self._key != key:
            options = require_harmless(
                json.loads(model_kwargs),
                trusted=self.trust_remote_code,
                source=f"The SAE of model {name!r}",
            )
            # Dropped first, so that two models are never in memory together.
            self._model = None
            model = models.load(
                name,
                dtype=dtype,
                device=device,
                model_class=self.model_class,
                **options,
            )
            self._key, self._model, self._fingerprint = key, model, None
        return self._model

    def _given(self, wanted: tuple[str, str, str]) -> LanguageModel:
        """Return the model that a caller put in, if it is the wanted one."""
        assert self._key is not None and self._model is not None
        name, dtype, device, _ = self._key
        if (name, dtype, device) != wanted:
            raise InputError(
                f"The model that was given is {name!r} in {dtype} on {device}; expected {wanted[0]!r} "
                f"in {wanted[1]} on {wanted[2]}, which an SAE or option asks for. Give that one, or "
                "leave the model out, so that it is loaded."
            )
        return self._model


@dataclass
class RunContext:
    """
    Everything that an evaluation may ask for. Costly parts are computed once, on first use.

    Attributes:
        subjects: the SAEs to evaluate.
        out: folder of the results; an evaluation writes ``out/<eval>/...`` only.
        corpus: name, folder or hub path of the text (``saereg_plugin.sources.corpora``).
        source: held-out activations for SAEs that read no language model: a source, or the
            path of a cache or of arrays. None opens the source that each SAE names.
        heldout_tokens: tokens of held-out text, or rows of another source, used for explained
            variance, L0, alive.
        context_size: tokens in one context; None takes each SAE's own.
        batch_size_prompts: contexts in one pass of the language model.
        dtype: data type of the language model.
        device: torch device.
        seed: seed of every random draw.
        data: where labelled texts come from: "hub" (SAEBench's sets) or "embedded" (sets
            of the same shape from the sae-probes wheel; scores are not comparable).
        artifacts: folder of what is kept between runs (``eval_recipes.running.artifacts``).
        memory_gib: bound on the activations that an evaluation holds in memory.
        options: settings of single evaluations, by name.
        models: the language model in memory, shared by all evaluations.
        sources: the other source in memory, likewise.
        judge_budget: an ``eval_recipes.chat.Budget`` that several runs share; None gives each run
            its own, by its options. It decides no result and is in no key.
        whole: the run's context, of which this one has a part of the subjects.
        measured: figures that evaluations share, computed on first use (``heldout_of``).
    """

    subjects: list[Subject]
    out: Path
    corpus: str = "embedded"
    source: ActivationSource | str | Path | None = None
    heldout_tokens: int = 65_536
    context_size: int | None = None
    batch_size_prompts: int = 16
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0
    data: Literal["hub", "embedded"] = "hub"
    artifacts: Path = field(default_factory=default_artifacts)
    memory_gib: float = 4.0
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    models: ModelCache = field(default_factory=ModelCache)
    sources: SourceCache = field(default_factory=SourceCache)
    judge_budget: Any = None
    whole: RunContext | None = field(default=None, init=False)
    measured: dict[str, Any] = field(default_factory=dict, init=False)

    def part(self, subjects: list[Subject]) -> RunContext:
        """Return a context with these subjects that shares model and held-out figures."""
        if subjects == self.subjects:
            return self
        part = replace(self, subjects=subjects)
        part.whole = self.whole or self
        return part
