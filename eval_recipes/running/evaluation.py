"""The base class of evaluations."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pyarrow as pa
from sae_bench.evals.base_eval_output import BaseEvalOutput
from tqdm.auto import tqdm

from eval_recipes.registry import load_evaluation
from eval_recipes.results.files import result_path, write_result
from eval_recipes.results.sidecar import StoredTable, write_with_table
from eval_recipes.results.subject import Failure, Subject, SubjectFacts
from eval_recipes.running.context import RunContext
from eval_recipes.running.options import parse_options
from saereg_plugin.errors import InputError

logger = logging.getLogger(__name__)

O = TypeVar("O")
Output = BaseEvalOutput[Any, Any, Any]


@dataclass(frozen=True)
class TableOutput:
    """A result with a parquet table next to it (``eval_recipes.results.sidecar``)."""

    ending: str
    """Of the table's file name, instead of the result's."""

    table: pa.Table

    build: Callable[[StoredTable], Output]
    """Makes the result, given the table's hash."""

    further: Mapping[str, pa.Table] = field(default_factory=dict[str, Any])
    """Further tables by the endings of their names."""


class Evaluation(Generic[O]):
    """
    One evaluation of trained SAEs; a subclass is entered in ``eval_recipes.registry``.

    An instance serves one run. A subclass gives ``evaluate``, which returns the result of one
    SAE; an evaluation that compares SAEs overrides ``evaluate_all`` instead.
    """

    name: ClassVar[str]
    """Name on the command line and of the folder of results."""

    summary: ClassVar[str]
    """Question that the evaluation answers, in one line of ``saereg-bench list``."""

    Options: type[O]
    """Pydantic dataclass of the settings; bounds stand on its fields."""

    Output: ClassVar[type[Any]]
    """Class of the results."""

    type_id: ClassVar[str] = ""
    """``eval_type_id`` of the results, where SAEBench's is not the name."""

    any_source: ClassVar[bool] = False
    """Whether SAEs on other activations than a language model's can be evaluated."""

    reads_model: ClassVar[bool] = True
    reads_text: ClassVar[bool] = False
    """Whether held-out text of the run's corpus is read."""

    shows_text: ClassVar[bool] = False
    """Whether that text is read as characters, which a corpus of tokens does not have."""

    reads_images: ClassVar[bool] = False
    """Whether it serves SAEs on images, and no others."""

    over_groups: ClassVar[bool] = False
    """Whether the result of one SAE depends on the other SAEs of the run."""

    keeps_artifacts: ClassVar[bool] = False
    """Whether anything is kept between runs."""

    bytes_per_latent: ClassVar[int] = 0
    """Least size of a result per latent; 0 if the size does not grow with the SAE."""

    side_files: ClassVar[tuple[str, ...]] = ()
    """Endings of the files written next to each result."""

    folder_files: ClassVar[tuple[str, ...]] = ()
    """Names of the files written over all results of the folder."""

    from_run: ClassVar[Mapping[str, str]] = {}
    """Settings whose default is an attribute of the run: setting -> attribute."""

    run_decides: ClassVar[frozenset[str]] = frozenset()
    """Those of ``from_run`` that no option may change."""

    not_in_key: ClassVar[frozenset[str]] = frozenset()
    """Settings that decide no result, or are in every key already."""

    context_option: ClassVar[str | None] = None
    """Setting that sizes the contexts, where the SAE's own size is not used."""

    serves: ClassVar[tuple[str, str] | None] = None
    """Regular expression of the hooks that can be served, and their description."""

    @property
    def eval_type_id(self) -> str:
        """``eval_type_id`` of the results."""
        return self.type_id or self.name

    def outputs(self) -> dict[str, type[Any]]:
        """Return the classes of the results by the name of their JSON schema."""
        return {self.name: self.Output}

    def options(self, context: RunContext) -> O:
        """
        Return the settings of a run with nothing left open; reads no SAE.

        Raises:
            InputError: for an unknown option or an unusable value.
        """
        given = context.options.get(self.name, {})
        shared = {name: getattr(context, of) for name, of in self.from_run.items()}
        return self.resolve(context, self.parse(given, shared))

    def parse(self, given: Mapping[str, Any], shared: Mapping[str, Any]) -> O:
        """Return the settings, each checked on its field; ``shared`` are the run's defaults."""
        decided = {name: self.from_run[name] for name in self.run_decides}
        return parse_options(
            self.name, self.Options, given, shared, run_decides=decided
        )

    def resolve(self, context: RunContext, options: O) -> O:
        """
        Return the settings with defaults that depend on the run filled in.

        Raises:
            InputError: for settings that do not go together.
        """
        return options

    def check(self, context: RunContext, options: O) -> None:
        """
        Refuse SAEs that cannot be evaluated; loads no weights.

        Raises:
            InputError: naming the SAE, what was expected, and a remedy.
        """
        overridden = type(self).check_subject is not Evaluation.check_subject
        # the configuration of some SAEs cannot be read without their weights
        if self.serves is not None or overridden:
            for subject in context.subjects:
                self.check_subject(context, SubjectFacts.read(subject), options)

    def check_subject(
        self,
        context: RunContext,
        facts: SubjectFacts,
        options: O,
    ) -> None:
        """
        Refuse one SAE whose hook is not among those that ``serves`` describes.

        Raises:
            InputError: naming the SAE and its hook.
        """
        if self.serves is None:
            return
        pattern, expected = self.serves
        head = facts.hook_head_index
        if re.match(pattern, facts.hook_name) and not facts.has_heads:
            return
        on_head = "" if head is None else f" (head {head})"
        raise InputError(
            f"SAE {facts.sae_id!r} reads {facts.hook_name!r}{on_head}, which {self.name} cannot "
            f"serve; expected {expected}, such as 'blocks.4.hook_resid_post'. Leave this SAE or "
            "this evaluation out."
        )

    def check_server(self, context: RunContext, options: O) -> None:
        """
        Ask the server that is needed, if any, whether it will answer.

        Called only where an SAE is left to evaluate.

        Raises:
            InputError: if nobody answers, or key or model are refused.
        """

    def key(self, context: RunContext, options: O) -> dict[str, Any]:
        """Return what decides a result besides the SAE and what all evaluations share."""
        values = dataclasses.asdict(options)  # pyright: ignore[reportArgumentType]
        return {k: v for k, v in values.items() if k not in self.not_in_key}

    @contextmanager
    def opened(self, context: RunContext, options: O) -> Iterator[None]:
        """Hold what all SAEs of a run share, such as a connection, inside this block."""
        yield

    def evaluate(
        self, context: RunContext, subject: Subject, options: O
    ) -> Output | TableOutput:
        """
        Evaluate one SAE.

        Raises:
            Exception: any; the SAE is then reported as failed, and the others are evaluated.
        """
        raise NotImplementedError(f"{type(self).__name__} has no evaluate")

    def evaluate_all(self, context: RunContext, options: O) -> list[Failure]:
        """
        Evaluate every SAE and write its result; return the failures.

        An earlier result stays until its successor is complete.
        """
        failures: list[Failure] = []
        with self.opened(context, options):
            for subject in tqdm(context.subjects, desc=self.name):
                try:
                    self.write(
                        context, subject, self.evaluate(context, subject, options)
                    )
                except Exception as error:
                    logger.debug("%s of %s", self.name, subject.sae_id, exc_info=True)
                    failures.append(self.failure(subject, error))
        return failures

    def write(
        self, context: RunContext, subject: Subject, output: Output | TableOutput
    ) -> Path:
        """Write the result of one SAE, with its table if it has one; return its path."""
        path = self.path(context, subject)
        if isinstance(output, TableOutput):
            return write_with_table(
                path, output.ending, output.table, output.build, output.further
            )
        return write_result(path, output)

    def path(self, context: RunContext, subject: Subject) -> Path:
        """Return where the result of an SAE is written."""
        return result_path(context.out, self.name, subject.release, subject.sae_id)

    def failure(self, subject: Subject, error: Exception | str) -> Failure:
        """Return an SAE's failure with its cause."""
        cause = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        return Failure(self.name, subject.sae_id, cause)


def schema_files(name: str) -> dict[Path, type[Any]]:
    """Return the classes of an evaluation's results by the files of their JSON schemas."""
    evaluation: Evaluation[Any] = load_evaluation(name)
    folder = Path(inspect.getfile(type(evaluation))).parent
    return {
        folder / f"eval_output_schema_{schema}.json": cls
        for schema, cls in evaluation.outputs().items()
    }
