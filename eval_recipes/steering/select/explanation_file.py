"""Explanations from results of autointerp and from files of Neuronpedia."""

from __future__ import annotations

import gzip
import io
import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

from eval_recipes.results.files import read_result
from eval_recipes.results.subject import Subject
from eval_recipes.saebench.autointerp.figures import Explanation, read_explanations
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import read_regular
from saereg_plugin.releases.neuronpedia_id import neuronpedia_id

_EXPECTED = (
    "expected a feature of Neuronpedia as JSON, a list of features, or explanations as one JSON "
    "object per line (.jsonl, .jsonl.gz)"
)
_MAX_BYTES = 1 << 30
"""Of a file, packed or not."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """One explanation of the file."""

    source: str
    """Model and source, such as "gpt2-small/9-res-jb"."""
    latent: int
    text: str
    explainer: str


@dataclass(frozen=True)
class Found:
    """Explanations and their source."""

    explanations: dict[int, Explanation]
    """By latent."""
    explainer: str
    """"tokens", "n2g", the name of the language model, or "Neuronpedia" for a file without names."""


def read_found(result: Path) -> Found:
    """Return the explanations in a result of autointerp, see ``read_explanations``."""
    settings = read_result(result)["eval_config"]
    # SAEBench's own results name no explainer: a language model was asked
    made = settings.get("explainer", "judge")
    name = str(settings.get("judge_model") or "language model")
    return Found(read_explanations(result), name if made == "judge" else made)


def import_explanations(path: Path, subject: Subject) -> Found:
    """
    Return an SAE's explanations from a file of Neuronpedia; they have no scores.

    The file is a feature (``/api/feature/...``), a list of features, or an export of
    explanations, whose ending is ``.jsonl`` or ``.jsonl.gz``. Of several explanations of one
    latent the first counts. The SAE is found by its ``metadata.neuronpedia_id``, or by the
    name that ``saereg-bench export neuronpedia`` gives it. An SAE without that id also takes a
    file of one source alone; ``require_own_source`` limits this to runs of one SAE.

    Raises:
        InputError: if the file cannot be read, or has no explanation of the SAE.
    """
    rows = list(_rows(path))
    sources = _sources(path, rows)
    names = _names(subject)
    found = [source for source in sources if source in names.all]
    if not found and (len(sources) > 1 or names.known):
        counted = "1 source" if len(sources) == 1 else f"{len(sources)} sources"
        raise InputError(
            f"File {str(path)!r} has explanations of {counted}, and none is SAE "
            f"{subject.sae_id!r} of release {subject.release!r} ({' or '.join(names.all)}). "
            f"{suggest(names.all[0], sources)} Give a file with the explanations of this SAE."
        )
    chosen = found[0] if found else sources[0]
    own = [row for row in rows if row.source == chosen]
    explanations: dict[int, Explanation] = {}
    for row in own:
        explanations.setdefault(row.latent, Explanation(row.text, None, None))
    explainers = sorted({row.explainer for row in own if row.explainer})
    return Found(explanations, ", ".join(explainers) or "Neuronpedia")


def require_own_source(path: Path, subjects: Sequence[Subject]) -> None:
    """
    Refuse one source's explanations for several SAEs; for one SAE of another name, warn.

    Raises:
        InputError: if an SAE among several is not the file's only source.
    """
    sources = _sources(path, _rows(path))
    if len(sources) > 1:
        return
    for subject in subjects:
        names = _names(subject).all
        if sources[0] in names:
            continue
        what = (
            f"File {str(path)!r} has explanations of {sources[0]!r} alone, and SAE "
            f"{subject.sae_id!r} of release {subject.release!r} would be {' or '.join(names)}."
        )
        if len(subjects) > 1:
            raise InputError(
                f"{what} They cannot be those of {len(subjects)} SAEs. Choose their SAE with "
                "--sae-id, or give a file with a source for each."
            )
        _log.warning("%s They are taken as those of this SAE.", what)


def _sources(path: Path, rows: Iterable[_Row]) -> list[str]:
    """Return the sources of a file, of which there is one at least."""
    sources = sorted({row.source for row in rows})
    if not sources:
        raise InputError(f"File {str(path)!r} holds no explanation; {_EXPECTED}.")
    return sources


@dataclass(frozen=True)
class _Names:
    """Names that an SAE may have on Neuronpedia."""

    all: list[str]
    """One at least."""
    known: bool
    """Whether the SAE's configuration has the first."""


def _names(subject: Subject) -> _Names:
    """Return what an SAE may be called on Neuronpedia."""
    cfg = load_sae_config_from_huggingface(subject.release, subject.sae_id)
    metadata: Mapping[str, Any] = cfg.get("metadata") or cfg
    model, hook = metadata.get("model_name"), metadata.get("hook_name")
    known = metadata.get("neuronpedia_id")
    names = [str(known)] if known else []
    if model and hook:
        names += _exported_name(subject, str(model), str(hook))
    return _Names(names or [f"{subject.release}/{subject.sae_id}"], bool(known))


def _exported_name(subject: Subject, model: str, hook: str) -> list[str]:
    """Return the name that an export gives; none for a model that Neuronpedia cannot name."""
    try:
        found = neuronpedia_id(
            subject.release, subject.sae_id, model=model, hook_name=hook
        )
    except InputError:
        # it asks for --model-id, which an export has and a run has not
        return []
    return [str(found)]


def _rows(path: Path) -> Iterator[_Row]:
    """Yield the explanations of a file in its order, those without text left out."""
    for number, record in enumerate(_records(path), start=1):
        listed = record.get("explanations")
        inner = [record] if listed is None else listed
        if not isinstance(inner, list):
            raise _unreadable(path, f"entry {number} has explanations that are no list")
        for one in inner:
            try:
                row = _row(record, one)
            except (KeyError, TypeError, ValueError) as error:
                raise _unreadable(
                    path, f"entry {number} lacks a field: {error}"
                ) from error
            if row.text:
                yield row


def _row(record: Mapping[str, Any], one: Mapping[str, Any]) -> _Row:
    """Return one explanation; a feature's model, source and index are those of the feature."""
    place = {**record, **one}
    latent = int(place["index"])
    if latent < 0:
        raise ValueError(f"index {latent}")
    explainer = place.get("explanationModelName") or ""
    source = f"{place['modelId']}/{place['layer']}"
    return _Row(source, latent, str(one["description"] or "").strip(), str(explainer))


def _records(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file."""
    content = read_regular(path, remedy=_EXPECTED + ".", max_bytes=_MAX_BYTES)
    try:
        if path.name.endswith(".gz"):
            content = _unpacked(content)
        text = content.decode("utf-8")
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            found = [json.loads(line) for line in text.split("\n") if line.strip()]
        else:
            found = json.loads(text)
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise _unreadable(path, str(error)) from error
    records = found if isinstance(found, list) else [found]
    if not all(isinstance(record, dict) for record in records):
        raise _unreadable(path, "an entry is no JSON object")
    return records


def _unpacked(content: bytes) -> bytes:
    """Return the content of a gzip archive; refuse one that grows beyond the bound."""
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as packed:
        found = packed.read(_MAX_BYTES + 1)
    if len(found) > _MAX_BYTES:
        raise ValueError(f"unpacked it has more than {_MAX_BYTES:,} bytes")
    return found


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"File of explanations {str(path)!r} cannot be read ({why}); {_EXPECTED}. Download it again."
    )
