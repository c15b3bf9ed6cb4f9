"""What the recipes around SAEBench's evals share."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter
from tqdm.auto import tqdm

from eval_recipes.running.context import Failure, RunContext, Subject
from eval_recipes.running.eval_config import check_sizes
from eval_recipes.saebench.upstream import UpstreamError
from saereg_plugin.errors import InputError, suggest

logger = logging.getLogger(__name__)

Options = TypeVar("Options")
Output = TypeVar("Output")


def options_of(eval: str, cls: type[Options], given: Mapping[str, Any]) -> Options:
    """
    Return a recipe's settings, a dataclass, from ``RunContext.options[eval]``.

    Raises:
        InputError: for an unknown name, with the nearest one, or an absurd size.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    for name in given:
        if name not in known:
            raise InputError(f"Unknown {eval} option {name!r}. {suggest(name, known)}")
    check_sizes(eval, given)
    return cls(**given)


def each_subject(
    eval: str, context: RunContext, evaluate: Callable[[Subject], object]
) -> list[Failure]:
    """
    Evaluate every subject; an error fails that subject, and the others go on.

    An earlier result stays until its successor takes its place; ``run_evals`` records those
    whose SAE failed.
    """
    failures: list[Failure] = []
    for subject in tqdm(context.subjects, desc=eval):
        try:
            evaluate(subject)
        except Exception as error:
            logger.debug("%s of %s failed", eval, subject.sae_id, exc_info=True)
            cause = f"{type(error).__name__}: {error}"
            failures.append(Failure(eval, subject.sae_id, cause))
    return failures


def read_upstream(
    folder: Path, cls: type[Output], *, eval: str, subject: Subject
) -> Output:
    """
    Read the one result that upstream left below ``folder``, as its output class.

    Raises:
        UpstreamError: if there is not exactly one, or it does not parse.
    """
    files = list(folder.rglob("*_eval_results.json"))
    if len(files) != 1:
        raise UpstreamError(
            f"{eval} of SAE {subject.sae_id!r} left {len(files)} result files and no error; "
            "expected one."
        )
    try:
        record = json.loads(files[0].read_text(encoding="utf-8"))
        return TypeAdapter(cls).validate_python(record)
    except ValueError as error:
        raise UpstreamError(
            f"{eval} of SAE {subject.sae_id!r} left a broken result: {error}"
        ) from error


def without_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    """Stand in for tqdm: upstream's progress bars count to one for every SAE."""
    return items
