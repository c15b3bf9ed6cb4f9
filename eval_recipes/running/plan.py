"""Resume keys, and the results that a resumed run must redo."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE

from eval_recipes.results.files import ResultKey, plain, read_result
from eval_recipes.results.sidecar import damaged_table
from eval_recipes.results.subject import Subject
from eval_recipes.results.tidy import saereg_block
from eval_recipes.running.activation_source import (
    other_digest,
    place_of,
    reads_other,
)
from eval_recipes.running.artifacts import package_versions, weights_hash
from eval_recipes.running.check import metadata_of, read_config
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora

logger = logging.getLogger(__name__)

Hashes = Mapping[Subject, str | None]

_LONG = 60
"""Characters from which a setting is kept as a hash: prompts, lists of SAEs."""
_PRIVATE = re.compile(r'://|"(/|~|[A-Za-z]:)')
"""Addresses, which may hold a password, and absolute paths in JSON."""
_HASHED = "#"
"""First character of a hash in place of a long setting; no JSON begins with it."""
_NAMED = 3
"""Settings that a message names; of the others it gives the number."""
_WORDS = {"sae": "the SAE", "others": "the SAEs of the run"}
"""Settings that a message names in words."""


def subject_hashes(context: RunContext) -> dict[Subject, str | None]:
    """Return a hash of each SAE and what it reads, None for one that cannot be loaded."""
    hashes: dict[Subject, str | None] = {}
    for subject in context.subjects:
        try:
            sae = subject.load()
            hashes[subject] = digest(
                [weights_hash(sae), _source_identity(context, sae)]
            )
        except Exception as error:
            # its evaluation fails with the same error; without a key it is tried each time
            logger.warning("SAE %s cannot be loaded: %s", subject.sae_id, error)
            hashes[subject] = None
    return hashes


def _source_identity(context: RunContext, sae: SAE[Any]) -> Any:
    """Return plain JSON that changes with an SAE's language model, or its other source."""
    metadata: Any = sae.cfg.metadata
    if reads_other(context, metadata):
        recorded = metadata.get("activation_source") or {}
        if context.source is None and recorded.get("config") is None:
            # only its weights can be evaluated
            return recorded.get("digest")
        return other_digest(context, place_of(context, sae))
    return context.models.identity(str(metadata.model_name))


def result_keys(
    evaluation: Evaluation[Any], context: RunContext, hashes: Hashes
) -> dict[Path, ResultKey]:
    """
    Return the key of each subject's result by the path of its file.

    It covers the evaluation, its options, data and text, sizes, data type, device, seed,
    thread count, the versions of the packages that compute, the model, and the SAE's weights,
    group and seed; of an evaluation over groups those of every SAE of the run. The bound on
    memory is in it as well: it decides what is computed together, and so the last bits. An SAE
    that cannot be loaded has none.
    """
    reads_text = evaluation.reads_text and any(
        not reads_other(context, metadata_of(read_config(subject)))
        for subject in context.subjects
    )
    everyone = sorted(_facts(subject, hashes) for subject in context.subjects)
    common = {
        "eval": evaluation.name,
        "data": context.data,
        "corpus": corpora.identity(context.corpus) if reads_text else None,
        "heldout_tokens": context.heldout_tokens,
        "context_size": context.context_size,
        "batch_size_prompts": context.batch_size_prompts,
        "memory_gib": context.memory_gib,
        "dtype": context.dtype,
        "device": context.device,
        "trust_remote_code": context.models.trust_remote_code,
        "seed": context.seed,
        "threads": torch.get_num_threads(),
        "packages": package_versions(),
        "others": everyone if evaluation.over_groups else None,
    }

    def options(subject: Subject) -> Any:
        # of one SAE alone: another's explanations, say, do not touch its result
        alone = dataclasses.replace(context, subjects=[subject])
        part = context if evaluation.over_groups else alone
        return evaluation.key(part, evaluation.options(part))

    return {
        evaluation.path(context, subject): _key(
            {**common, "options": options(subject), "sae": _facts(subject, hashes)}
        )
        for subject in context.subjects
        if hashes[subject] is not None
    }


def _facts(subject: Subject, hashes: Hashes) -> str:
    return json.dumps([*dataclasses.astuple(subject), hashes[subject]])


def _key(deciding: Mapping[str, Any]) -> ResultKey:
    return ResultKey(digest(deciding), dict(_settings(plain(deciding))))


def _settings(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """
    Yield the dotted name and the JSON of each setting in a nested value.

    Of long ones, and of addresses and paths, which are the user's own, a hash.
    """
    if isinstance(value, dict) and value:
        for part, inner in value.items():
            yield from _settings(inner, f"{name}.{part}" if name else str(part))
        return
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    shown = len(text) < _LONG and not _PRIVATE.search(text)
    yield name, text if shown else f"{_HASHED}{digest(value)[:16]}"


def differing_settings(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """
    Return the settings that differ as text, with both values of the first three.

    >>> differing_settings({"seed": "0", "threads": "2"}, {"seed": "0", "threads": "1"})
    'threads 2, now 1'
    """
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    said = [_change(name, before.get(name), now.get(name)) for name in names[:_NAMED]]
    if len(names) > _NAMED:
        said.append(f"{len(names) - _NAMED} more")
    return "; ".join(said)


def _change(name: str, before: str | None, now: str | None) -> str:
    shown = _WORDS.get(name, name)
    values = ("none" if value is None else value for value in (before, now))
    was, becomes = values
    hashed = was.startswith(_HASHED) or becomes.startswith(_HASHED)
    return f"{shown} differs" if hashed else f"{shown} {was}, now {becomes}"


def digest(value: Any) -> str:
    """Return a hash of plain values."""
    text = json.dumps(plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Todo:
    """Subjects that one evaluation must still evaluate, and the reasons."""

    evaluation: Evaluation[Any]
    subjects: list[Subject]
    reasons: dict[str, int]
    """Number of SAEs by reason."""

    n_subjects: int

    @property
    def kept(self) -> int:
        """SAEs whose result is kept."""
        return self.n_subjects - len(self.subjects)

    @property
    def is_new(self) -> bool:
        """Whether nothing was there before."""
        return self.reasons == {"missing": self.n_subjects}

    def kept_paths(self, context: RunContext) -> list[Path]:
        """Return the files of the results that are kept."""
        left = set(self.subjects)
        return [
            self.evaluation.path(context, subject)
            for subject in context.subjects
            if subject not in left
        ]

    def text(self) -> str:
        """Say what is kept and what is done again."""
        current = f"{self.evaluation.name}: {self.kept} of {self.n_subjects} results are current"
        if not self.subjects:
            return f"{current}."
        causes = ", ".join(
            f"{count} {reason}" for reason, count in self.reasons.items()
        )
        return f"{current}; {len(self.subjects)} to do ({causes})."


def kept_lines(plans: Sequence[Todo]) -> list[str]:
    """Return what the user is told about earlier results; nothing where there are none."""
    if all(plan.is_new for plan in plans):
        return []
    kept, total = (
        sum(plan.kept for plan in plans),
        sum(plan.n_subjects for plan in plans),
    )
    lines = [f"{kept} of {total} results are current and kept."]
    return lines + [plan.text() for plan in plans if plan.subjects]


def todo(
    evaluation: Evaluation[Any], context: RunContext, keys: Mapping[Path, ResultKey]
) -> Todo:
    """Return the subjects whose result or its table is missing, damaged or another one."""
    states = {
        subject: _state(evaluation, context, subject, keys)
        for subject in context.subjects
    }
    left = {subject: state for subject, state in states.items() if state is not None}
    if left and evaluation.over_groups:
        depend = "depends on those"
        left = {subject: state or depend for subject, state in states.items()}
    found = list(left.values())
    reasons = {reason: found.count(reason) for reason in dict.fromkeys(found)}
    return Todo(evaluation, list(left), reasons, len(context.subjects))


def _state(
    evaluation: Evaluation[Any],
    context: RunContext,
    subject: Subject,
    keys: Mapping[Path, ResultKey],
) -> str | None:
    """Return why a result must be made again, or None if it is current."""
    path = evaluation.path(context, subject)
    if not path.exists():
        return "missing"
    try:
        record = read_result(path)
    except InputError:
        return "damaged"
    key = keys.get(path)
    block = saereg_block(record) or {}
    if key is None or block.get("key") != key.digest:
        return _other_configuration(block, key)
    return "without its table" if damaged_table(path, record) else None


def _other_configuration(block: Mapping[str, Any], key: ResultKey | None) -> str:
    """Return in words what differs; earlier versions wrote no settings."""
    said, before = "of another configuration", block.get("settings")
    if key is None or not isinstance(before, dict):
        return said
    texts = {str(name): str(value) for name, value in before.items()}
    differing = differing_settings(texts, key.settings)
    return f"{said}: {differing}" if differing else said
