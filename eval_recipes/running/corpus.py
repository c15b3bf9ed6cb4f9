"""The text of a run: a named corpus, or the SAEs' own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from eval_recipes.registry import evaluation_names, load_evaluation
from eval_recipes.results.subject import Subject
from eval_recipes.running.check import metadata_of, most_tokens, read_config
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from saereg_plugin.sources.corpora import EMBEDDED, HeldOut

_SPLITS = {
    "train": (
        "the last {rows:,} rows of {name}, which has only a split 'train'; training has "
        "read them if it read that far"
    ),
    "heldout": "{rows:,} held-out texts of {name}",
}
_SPLIT = "the first {rows:,} rows of the split {split!r} of {name}"


class ChosenCorpus(NamedTuple):
    """Text of a run, or the data of its SAEs if no SAE reads text."""

    name: str
    said: str
    """Sentence on what is read; empty if no evaluation reads text or other inputs."""


def choose_corpus(
    evals: Iterable[str],
    subjects: Sequence[Subject],
    corpus: str | None,
    *,
    heldout_tokens: int,
) -> ChosenCorpus:
    """
    Return the corpus that was named; else the SAEs' own data set, or "embedded".

    The SAEs' own data set is what ``dataset_path`` of their metadata names. It is taken if all
    SAEs name the same one, it can be read, and it is long enough for the evaluations.

    Args:
        evals: names of the evaluations.
        subjects: the SAEs.
        corpus: the name, or None.
        heldout_tokens: tokens that must be there.

    Raises:
        InputError: if an evaluation is unknown, or a corpus that was named cannot be used.
    """
    evaluations = [load_evaluation(name) for name in evaluation_names(evals)]
    if read_other_sources(subjects):
        metadata = [metadata_of(read_config(subject)) for subject in subjects]
        names = dict.fromkeys(str(one.get("dataset_path")) for one in metadata)
        return ChosenCorpus(", ".join(names), _told_of_sources(metadata))
    if not any(evaluation.reads_text for evaluation in evaluations):
        return ChosenCorpus(corpus or EMBEDDED, "")
    if corpus is not None:
        return ChosenCorpus(corpus, f"Text: {_told(corpus)}.")
    shown = [evaluation.name for evaluation in evaluations if evaluation.shows_text]
    try:
        own = _own_data_set(subjects)
        found = corpora.held_out(own)
        _require_fit(found, heldout_tokens, shown)
    except InputError as error:
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        return ChosenCorpus(
            EMBEDDED,
            f"Text: {_told(EMBEDDED)}, not the SAEs' own. {reason}. --corpus names another text.",
        )
    return ChosenCorpus(own, f"Text, the SAEs' own data set: {_told(own)}.")


def _own_data_set(subjects: Sequence[Subject]) -> str:
    """Return the data set that all SAEs name, or raise InputError."""
    names: dict[str, None] = {}
    for subject in subjects:
        path = metadata_of(read_config(subject)).get("dataset_path")
        names[corpora.own_name(path) if isinstance(path, str) else ""] = None
    first, *others = names or {"": None}
    if others:
        raise InputError("The SAEs were trained on different data sets")
    if not first:
        raise InputError("The SAEs name no data set")
    return first


def _require_fit(found: HeldOut, heldout_tokens: int, shown: Sequence[str]) -> None:
    """Refuse text without characters for evaluations that show them, and too short a text."""
    if shown and found.column != "text":
        raise InputError(
            f"Their data set holds tokens, but {', '.join(shown)} reads text"
        )
    if heldout_tokens > most_tokens(found.file):
        raise InputError(
            f"The held-out part of their data set has fewer than {heldout_tokens:,} tokens"
        )


def read_other_sources(subjects: Iterable[Subject]) -> bool:
    """Return whether all of some SAEs, by their metadata, read no language model."""
    metadata = [metadata_of(read_config(subject)) for subject in subjects]
    return bool(metadata) and all(one.get("activation_source") for one in metadata)


def _told_of_sources(metadata: Sequence[Mapping[str, Any]]) -> str:
    """Return what SAEs on other activations than a language model's read."""
    read = [f"{one.get('model_name')} on {one.get('dataset_path')}" for one in metadata]
    return f"Activations: held-out inputs of {', '.join(dict.fromkeys(read))}."


def _told(corpus: str) -> str:
    found = corpora.held_out(corpus)
    words = _SPLITS.get(found.split, _SPLIT)
    return words.format(rows=found.rows, split=found.split, name=repr(corpus))
