"""Source and point that an SAE reads, from its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_lens import SAE

from eval_recipes.running.context import RunContext
from eval_recipes.running.sources import OtherSource
from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.opening import source_at
from saereg_plugin.activations.source import ActivationSource, digest_of
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.inputs import Split
from saereg_plugin.sources.models import LanguageModel

Metadata = Mapping[str, Any]

_WRITE = (
    "Write its held-out activations with `saereg-bench cache --split heldout` (in Python: "
    "`write_cache`) and name them with --source."
)


class Source(NamedTuple):
    """What decides the activations an SAE reads: SAEs that agree share one pass."""

    model_name: str
    hook_name: str
    hook_head_index: int | None
    context_size: int
    prepend_bos: bool
    seqpos_slice: tuple[int | None, ...]
    disable_concat_sequences: bool
    sequence_separator_token: int | str | None
    model_kwargs: str
    """Further arguments of the model's loader, as JSON."""


def source_of(sae: SAE[Any], *, context_size: int | None) -> Source:
    """
    Return where the activations of an SAE come from, as its metadata says.

    Raises:
        InputError: if the metadata does not say it; the message names the field.
    """
    metadata = sae.cfg.metadata
    size = context_size or metadata.context_size
    required = {
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "context_size": size,
        "prepend_bos": metadata.prepend_bos,
    }
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise InputError(
            f"The SAE's metadata lacks {', '.join(missing)}; expected what SAELens "
            "stores after training. Add it to the metadata in the SAE's cfg.json."
        )
    kwargs = dict(metadata.model_from_pretrained_kwargs or {})
    if kwargs.get("center_writing_weights") is False:
        # the default, which SAELens' runner writes down
        del kwargs["center_writing_weights"]
    return Source(
        model_name=metadata.model_name,
        hook_name=metadata.hook_name,
        hook_head_index=metadata.hook_head_index,
        context_size=size,
        prepend_bos=metadata.prepend_bos,
        seqpos_slice=tuple(metadata.seqpos_slice or (None,)),
        disable_concat_sequences=bool(metadata.disable_concat_sequences),
        sequence_separator_token=metadata.get("sequence_separator_token", "bos"),
        model_kwargs=json.dumps(kwargs, sort_keys=True),
    )


class Place(NamedTuple):
    """Where the activations of an SAE come from; SAEs on one source share its passes."""

    source: Source | OtherSource
    point: str


def reads_other(context: RunContext, metadata: Metadata) -> bool:
    """
    Return whether an SAE reads another source than a language model on a text.

    An SAE whose metadata name neither a source nor a model reads the run's given source.
    """
    if metadata.get("activation_source"):
        return True
    return context.source is not None and not metadata.get("model_name")


def place_of(context: RunContext, sae: SAE[Any]) -> Place:
    """
    Return where the activations of an SAE come from.

    Raises:
        InputError: if its metadata do not say it, or another source cannot be described.
    """
    metadata: Any = sae.cfg.metadata
    if reads_other(context, metadata):
        return other_place(context, metadata, d_in=sae.cfg.d_in)
    source = source_of(sae, context_size=context.context_size)
    return Place(source, source.hook_name)


def other_place(context: RunContext, metadata: Metadata, *, d_in: int) -> Place:
    """
    Return where an SAE reads that reads no language model; loads no weights.

    Args:
        context: the run, whose given source is read if there is one.
        metadata: of the SAE.
        d_in: its width.

    Raises:
        InputError: if the source cannot be opened by its settings, or lacks the point or width.
    """
    point = metadata.get("hook_name") or None
    if isinstance(context.source, ActivationSource):
        rows = context.source.rows_per_input or 0
        source, points = OtherSource("", "heldout", rows), context.source.points
    else:
        settings, split = _settings(context, metadata)
        facts = context.sources.facts(settings, split, point)
        source, points = OtherSource(settings, split, _rows(facts)), facts.points
    if point is None and len(points) == 1:
        (point,) = points
    if point is None or point not in points:
        raise InputError(
            f"The source of held-out activations has no point {point!r}, which the SAE reads. "
            f"{suggest(str(point), points)}"
        )
    if points[point] != d_in:
        raise InputError(
            f"The SAE has d_in={d_in}, but point {point!r} of its held-out activations has "
            f"{points[point]} dimensions; expected the same. Name others with --source."
        )
    context.sources.expect(source, point)
    return Place(source, point)


def _settings(context: RunContext, metadata: Metadata) -> tuple[str, Split]:
    """Return the settings of a source without its points, as JSON, and the part to read."""
    split: Split = "heldout"
    if isinstance(context.source, str | Path):
        settings = source_at(str(context.source))
        # whoever names arrays has chosen which
        split = "all" if settings["kind"] == "arrays" else "heldout"
    else:
        recorded = metadata["activation_source"]
        _require_heldout(recorded)
        settings = recorded.get("config")
        if settings is None:
            raise InputError(
                f"The source of the SAE's activations, {recorded.get('model')!r} on "
                f"{recorded.get('data')!r}, was given in Python and cannot be opened by name. {_WRITE}"
            )
    named = {name: value for name, value in settings.items() if name != "point"}
    return json.dumps(named, sort_keys=True), split


def _require_heldout(recorded: Metadata) -> None:
    """Refuse the source of an SAE that was trained on its held-out inputs too."""
    if recorded.get("split", "train") != "train":
        raise InputError(
            f"The SAE was trained on the split {recorded['split']!r} of {recorded.get('data')!r}; expected "
            "'train', which leaves inputs for evaluation. Name other activations with --source."
        )


def _rows(facts: SourceFacts) -> int:
    """Return the rows of an input, of inputs that differ the most; 0 if unknown."""
    if facts.rows_per_input is not None or not facts.n_inputs:
        return facts.rows_per_input or 0
    return (facts.most_rows or 0) // facts.n_inputs


def other_rows(context: RunContext, metadata: Metadata, *, d_in: int) -> int:
    """Return the rows of an input that an SAE without a language model reads; 0 if unknown."""
    source = other_place(context, metadata, d_in=d_in).source
    assert isinstance(source, OtherSource)
    return source.rows


def open_other(
    context: RunContext, source: OtherSource, points: Iterable[str]
) -> ActivationSource:
    """Return a source with these points, opened at its first use."""
    if isinstance(context.source, ActivationSource):
        return context.source
    return context.sources.get(
        source, points, device=context.device, dtype=context.dtype
    )


def other_digest(context: RunContext, place: Place) -> str:
    """Return a hash of another source's held-out activations at one point."""
    assert isinstance(place.source, OtherSource)
    known = context.sources.identities
    if place.source not in known:
        source = open_other(context, place.source, [place.point])
        known[place.source] = source.identity()
    identity = known[place.source]
    # the points of other SAEs decide nothing
    config = {k: v for k, v in identity.get("config", {}).items() if k != "point"}
    return digest_of({**identity, "config": config, "points": place.point})


def read_model(
    context: RunContext, sae: SAE[Any], *, context_size: int | None = None
) -> tuple[Source, LanguageModel]:
    """
    Return where an SAE's activations come from, and the model, loaded at most once.

    ``context_size``, tokens in one context, is the run's by default, else the SAE's own.

    Raises:
        InputError: for incomplete metadata, or a hook that the model does not have.
    """
    source = source_of(sae, context_size=context_size or context.context_size)
    model = context.models.get(
        source.model_name,
        dtype=context.dtype,
        device=context.device,
        model_kwargs=source.model_kwargs,
    )
    check_hook(model, source.hook_name)
    return source, model


def model_determinants(context: RunContext, source: Source) -> dict[str, Any]:
    """Return what decides an artefact made with the language model: name, weights, arguments."""
    return {
        "model": source.model_name,
        "model_identity": context.models.identity(source.model_name),
        "model_kwargs": source.model_kwargs,
    }


def check_hook(model: LanguageModel, hook_name: str) -> None:
    """
    Refuse a hook the model does not have.

    Raises:
        InputError: names the hook and the nearest one.
    """
    if hook_name not in model.hook_dict:
        raise InputError(
            f"Hook {hook_name!r} is not in the model; expected a TransformerLens "
            f"hook name. {suggest(hook_name, model.hook_dict)}"
        )
