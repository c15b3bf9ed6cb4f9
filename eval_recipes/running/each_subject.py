"""The loop over subjects that evaluations share, and their options."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tqdm.auto import tqdm

from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.options import check_sizes
from saereg_plugin.errors import InputError, suggest

logger = logging.getLogger(__name__)

Options = TypeVar("Options")


def options_of(eval: str, cls: type[Options], given: Mapping[str, Any]) -> Options:
    """
    Return a recipe's settings, a dataclass, from ``RunContext.options[eval]``.

    Raises:
        InputError: for an unknown name, with the nearest one, or an absurd size.
    """
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    known = [field.name for field in fields]
    for name in given:
        if name not in known:
            raise InputError(f"Unknown {eval} option {name!r}. {suggest(name, known)}")
    check_sizes(eval, given)
    floats = {field.name for field in fields if field.type == "float"}
    # 1 and 1.0 are one setting, also in the key of a result
    whole = {k: float(v) for k, v in given.items() if k in floats and type(v) is int}
    return cls(**{**given, **whole})


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
