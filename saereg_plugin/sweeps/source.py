"""The source of a sweep's activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from saereg_plugin import machine
from saereg_plugin.activations.cache import CachedInputs, CacheSource
from saereg_plugin.activations.config import ModuleConfig, SourceFacts
from saereg_plugin.activations.extraction import points_matching
from saereg_plugin.activations.language_model import Contexts, LanguageModelSource
from saereg_plugin.activations.opening import (
    complete_settings,
    describe_source,
    open_source,
    source_at,
)
from saereg_plugin.activations.source import ActivationSource, InputSource
from saereg_plugin.activations.stream import Mixing
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora, models
from saereg_plugin.sources.hook_shapes import (
    hook_names,
    hook_shape,
    model_facts,
    require_context,
)
from saereg_plugin.sweeps.config import (
    LANGUAGE_MODEL,
    SweepConfig,
    group_fields,
    listed_hooks,
)

GIVEN = "given"
"""Kind of a source that Python code gave, of which a folder records the digest alone."""


def with_source(
    sweep: SweepConfig, given: ActivationSource | None = None
) -> tuple[SweepConfig, SourceFacts]:
    """
    Return a sweep whose model, corpus and hooks are those of its source, and the source's facts.

    Args:
        sweep: the sweep; patterns in its ``hook_name`` are resolved.
        given: a source that Python code gave.

    Raises:
        InputError: if the source cannot be used: an unknown model, hook or data, contexts longer
            than the model's, or fewer rows than a batch. Its model does not run.
    """
    if sweep.llm_dtype != machine.AUTO:
        machine.torch_dtype(sweep.llm_dtype)
    if given is not None:
        facts = _facts_of_given(given)
        sweep = replace(sweep, source={"kind": GIVEN, "digest": given.digest()})
    elif kind_of_source(sweep) != LANGUAGE_MODEL:
        _require_known(sweep)
        sweep = replace(sweep, source=complete_settings(source_settings(sweep)))
        facts = describe_source(source_settings(sweep))
    else:
        sweep = _with_hooks(sweep)
        return sweep, _facts_of_language_model(sweep)
    _require_rows(sweep, facts)
    hooks = list(facts.points)
    hook_name = hooks[0] if len(hooks) == 1 else hooks
    named = replace(sweep, model=facts.model, corpus=facts.data, hook_name=hook_name)
    return named, facts


def open_sweep_source(
    sweep: SweepConfig,
    facts: SourceFacts,
    *,
    given: ActivationSource | None = None,
    count_pairs: bool = False,
) -> ActivationSource:
    """Open the source of a sweep that ``with_source`` returned; its model is loaded."""
    if given is not None:
        return given
    if kind_of_source(sweep) != LANGUAGE_MODEL:
        return open_source(
            source_settings(sweep), device=sweep.device, dtype=sweep.llm_dtype
        )
    corpora.ensure(sweep.corpus, "train")
    model = models.load(sweep.model, dtype=sweep.llm_dtype, device=sweep.device)
    return language_model_source(sweep, model, facts.points, count_pairs=count_pairs)


def language_model_source(
    sweep: SweepConfig, model: Any, points: Any, *, count_pairs: bool = False
) -> LanguageModelSource:
    """Return the source of a sweep on a language model in memory; ``points`` is d_in by hook."""
    return LanguageModelSource(
        model,
        model_name=sweep.model,
        corpus=sweep.corpus,
        points=points,
        contexts=Contexts(
            context_size=sweep.context_size,
            per_pass=sweep.prompts_per_pass,
            prepend_bos=sweep.prepend_bos,
            exclude_special_tokens=sweep.exclude_special_tokens,
            disable_concat_sequences=sweep.disable_concat_sequences,
        ),
        device=sweep.device,
        dtype=sweep.llm_dtype,
        batch_size=sweep.batch_size,
        total_tokens=sweep.tokens,
        text_tokens=sweep.text_tokens,
        count_pairs=count_pairs,
    )


def kind_of_source(sweep: SweepConfig) -> str:
    """Return the kind of a sweep's source."""
    return str((sweep.source or {}).get("kind", LANGUAGE_MODEL))


def mixing_of(sweep: SweepConfig) -> Mixing:
    """Return how a sweep's rows become batches."""
    return Mixing(
        batch_size=sweep.batch_size,
        buffer_rows=sweep.buffer_tokens,
        fraction=sweep.mixing_fraction,
        seed=sweep.seed,
    )


def rows_read(sweep: SweepConfig) -> int:
    """Return how many rows a sweep reads, if a pass of its source may end there."""
    return (sweep.steps - 1) * sweep.batch_size + sweep.buffer_tokens


def source_settings(sweep: SweepConfig) -> dict[str, Any]:
    """Return the settings of a source, with the points that a sweep's groups name."""
    settings = dict(sweep.source or {})
    if "point" not in settings and settings.get("kind") == "module":
        settings["point"] = listed_hooks(sweep)
    return settings


def source_fields(used: Mapping[str, Any], in_file: Any = None) -> dict[str, Any]:
    """
    Return the fields ``hook_name`` and ``source`` of SweepConfig that flags name.

    Args:
        used: values by the flags' names: ``hook`` and ``data`` are lists, ``source`` is a kind
            or the path of arrays or of a cache.
        in_file: ``source`` of a file, whose fields the flags replace.

    Raises:
        InputError: for flags that the source has not, or a module without model, hook or data.
    """
    fields: dict[str, Any] = {}
    if hooks := used.get("hook"):
        fields["hook_name"] = _one_or_all(hooks)
    source = _source_of_flags(used, in_file)
    if source is None:
        own = [name for name in ("data", "rows", "image_size") if name in used]
        if own:
            raise InputError(
                f"{_spelled(own)}: a language model has no such setting. Add --source module."
            )
        return {**fields, "source": None} if in_file else fields
    _require_settings(used, source)
    names = ("model", "data", "rows", "image_size")
    changes = {name: used[name] for name in names if _is_given(used, name)}
    if "data" in changes:
        changes["data"] = _one_or_all(changes["data"])
    if hooks:
        changes["point"] = fields["hook_name"]
    return {**fields, "source": {**source, **changes}}


def _source_of_flags(used: Mapping[str, Any], in_file: Any) -> dict[str, Any] | None:
    """Return the source that --source names, or else the file's; None is a language model."""
    kind = used.get("source")
    known = in_file if isinstance(in_file, Mapping) else {}
    if kind is None or kind == known.get("kind"):
        other = known.get("kind", LANGUAGE_MODEL) != LANGUAGE_MODEL
        return dict(known) if other else None
    if kind == LANGUAGE_MODEL:
        return None
    if kind != ModuleConfig.kind:
        return source_at(kind)
    for name in ("model", "hook", "data"):
        if not _is_given(used, name):
            raise InputError(
                f"--source module needs --{name}: expected for example --model dinov2-small --hook "
                "encoder.layer.9 --data emoji."
            )
    return {"kind": kind}


def _require_settings(used: Mapping[str, Any], source: Mapping[str, Any]) -> None:
    """Refuse flags of other sources than this one."""
    if _is_given(used, "corpus"):
        raise InputError(
            f"--corpus is the text of a language model; a source of kind {source['kind']!r} has none. "
            "Leave it out; the inputs of a module are --data."
        )
    names = [n for n in ("model", "data", "rows", "image_size") if _is_given(used, n)]
    if names and source["kind"] != ModuleConfig.kind:
        raise InputError(
            f"{_spelled(names)}: a source of kind {source['kind']!r} has no such setting, since its "
            "activations are written. Leave it out; --hook chooses among its points."
        )


def _is_given(used: Mapping[str, Any], name: str) -> bool:
    """Return whether a flag has a value other than the default of a sweep."""
    return bool(used.get(name)) and used[name] != getattr(SweepConfig, name, None)


def _spelled(names: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _one_or_all(values: Sequence[str]) -> Any:
    return values[0] if len(values) == 1 else values


def _require_known(sweep: SweepConfig) -> None:
    """Refuse to open by its digest a source that Python code gave."""
    if kind_of_source(sweep) == GIVEN:
        raise InputError(
            "The sweep reads a source that Python code gave, which cannot be opened by name. Call "
            "sr.train with the source again, or write it with `saereg-bench cache` and name the cache."
        )


def _require_rows(sweep: SweepConfig, facts: SourceFacts) -> None:
    """Refuse data with fewer rows than one batch."""
    if facts.most_rows is not None and facts.most_rows < sweep.batch_size:
        raise InputError(
            f"Data {facts.data!r} has {facts.most_rows:,} rows, fewer than batch_size="
            f"{sweep.batch_size:,}. Lower batch_size, or choose more data."
        )
    needed = rows_read(sweep)
    if facts.rows_available is not None and facts.rows_available < needed:
        raise InputError(
            f"The cache has {facts.rows_available:,} rows of a source that has more; expected {needed:,}, "
            f"for tokens={sweep.tokens:,} and buffer_tokens={sweep.buffer_tokens:,}. Run saereg-bench "
            "cache for as many tokens, which adds the missing rows, or train on fewer."
        )


def _with_hooks(sweep: SweepConfig) -> SweepConfig:
    """Return a sweep on a language model with the hooks that its patterns choose."""
    wanted = listed_hooks(sweep)
    if not any(set(name) & set("*?[") for name in wanted):
        return sweep
    return replace(sweep, hook_name=points_matching(wanted, hook_names(sweep.model)))


def _facts_of_language_model(sweep: SweepConfig) -> SourceFacts:
    hooks = [
        fields.get("hook_name", sweep.hook_name)
        for fields in group_fields(sweep).values()
    ]
    points = {hook: hook_shape(sweep.model, hook) for hook in dict.fromkeys(hooks)}
    require_context(sweep.model, sweep.context_size)
    return SourceFacts(
        model=sweep.model,
        data=sweep.corpus,
        points=points,
        rows_per_input=None if sweep.exclude_special_tokens else sweep.context_size,
        ordered=True,
        parameters=model_facts(sweep.model).parameters,
    )


def _facts_of_given(given: ActivationSource) -> SourceFacts:
    first = given.metadata(next(iter(given.points)))
    n_inputs = given.n_inputs if isinstance(given, InputSource) else None
    rows = given.rows_per_input
    return SourceFacts(
        model=str(first.get("model_name")),
        data=str(first.get("dataset_path")),
        points=given.points,
        n_inputs=n_inputs,
        rows_per_input=rows,
        ordered=given.ordered,
        most_rows=None if n_inputs is None or rows is None else n_inputs * rows,
        rows_available=given.rows_available,
        cached_kind=given.index.kind
        if isinstance(given, CacheSource | CachedInputs)
        else None,
    )
