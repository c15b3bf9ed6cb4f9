"""Data classes of a study, with shared columns and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from eval_recipes.results.differences import GroupDifference
from eval_recipes.results.subject import Failure
from eval_recipes.results.tidy import COLUMNS
from eval_recipes.running.context import RunContext
from eval_recipes.studies.framework.verdicts import Claim, Direction
from eval_recipes.tables.passage import Passage
from eval_recipes.width_control.result_groups import Comparison
from saereg_plugin.distillation.settings import Distill
from saereg_plugin.finetuning import FineTune
from saereg_plugin.machine import AUTO
from saereg_plugin.presets import Preset
from saereg_plugin.sweeps import SweepConfig

Scale = Literal["small", "paper"]


@dataclass(frozen=True)
class Column:
    """A figure of a study's table; ``metric`` is ``category/name`` of that evaluation."""

    eval: str
    metric: str
    title: str

    @property
    def key(self) -> tuple[str, str]:
        """Evaluation and metric."""
        return self.eval, self.metric

    def claim(
        self,
        group: str,
        direction: Direction,
        other: str,
        *,
        beside: Column | None = None,
        **rest: Any,
    ) -> Claim:
        """Return a claim on this figure of ``group`` against ``other``; see ``Claim``."""
        return Claim(
            figure=self.title,
            group=group,
            other=other,
            direction=direction,
            beside=None if beside is None else beside.title,
            **rest,
        )


VARIANCE = Column("heldout", "figures/explained_variance", "explained variance")
L0 = Column("heldout", "figures/l0", "L0")
ALIVE = Column("heldout", "figures/frac_alive", "alive share")
KL_SCORE = Column("core", "model_behavior_preservation/kl_div_score", "KL score")
CE_SCORE = Column("core", "model_performance_preservation/ce_loss_score", "CE score")
SHARED = Column("cross_seed", "shared/shared", "shared")
SHARED_ALIVE = Column("cross_seed", "shared/shared_alive", "shared of alive")
MEAN_MAX_COS = Column("cross_seed", "similarity/mean_max_cos", "mean max cos")
ABSORPTION = Column("absorption", "mean/mean_absorption_fraction_score", "absorption")
PROBING = Column(
    "sparse_probing", "sae/sae_top_1_test_accuracy", "sparse probing, top 1"
)

Groups = Mapping[str, Mapping[str, Any]]
"""Fields of each group of a sweep, by the group's name."""

D_IN = 576
"""Width of the embedded model's residual stream."""


def small_sweep(groups: Groups, **changes: Any) -> SweepConfig:
    """
    Return a sweep on the embedded model and text: few tokens, a learning rate to match.

    ``changes`` are fields of SweepConfig.
    """
    fields: dict[str, Any] = {
        "hook_name": "blocks.2.hook_resid_post",
        "sae": {},
        "groups": groups,
        "seeds": (0, 1, 2),
        "tokens": 307_200,
        "batch_size": 1024,
        "autocast": True,
        "lr": 1e-3,
        "lr_warm_up_steps": 20,
        **changes,
    }
    return SweepConfig(**fields)


def paper_sweep(preset: Preset, groups: Groups) -> SweepConfig:
    """Return the sweep of a preset's run with these groups."""
    fields: dict[str, Any] = {
        **preset.sweep_fields(),
        "sae": {},
        "groups": groups,
        "autocast": AUTO,
    }
    return SweepConfig(**fields)


@dataclass(frozen=True)
class Choice:
    """
    A coefficient chosen for one setting.

    Attributes:
        name: of the setting.
        coefficient: chosen, in the units of the configuration.
        baseline: explained variance without the penalty.
        candidates: explained variance by coefficient.
        within: whether the chosen coefficient reaches the baseline.
        n_seeds: how many seeds each explained variance is the mean of.
    """

    name: str
    coefficient: float
    baseline: float
    candidates: Mapping[float, float]
    within: bool
    n_seeds: int = 1

    @property
    def at_edge(self) -> bool:
        """Whether it is the largest candidate, so that a larger one might do as well."""
        return self.within and self.coefficient == max(self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        values = {**asdict(self), "at_edge": self.at_edge}
        values["candidates"] = [
            {"coefficient": coefficient, "explained_variance": variance}
            for coefficient, variance in sorted(self.candidates.items())
        ]
        return values

    def text(self) -> str:
        """Return the choice as a sentence."""
        shown = ", ".join(
            f"{coefficient:g}: {variance:.4f}"
            for coefficient, variance in sorted(self.candidates.items())
        )
        how = "the largest whose explained variance is at least the baseline's"
        if not self.within:
            how = "no candidate reaches the baseline's explained variance, so the smallest"
        edge = ""
        if self.at_edge:
            edge = "; it is at the edge of the grid: larger ones were not tried"
        seeds = "one seed" if self.n_seeds == 1 else f"{self.n_seeds} seeds"
        return (
            f"{self.name}: {self.coefficient:g}, {how} ({self.baseline:.4f}; {shown}; of {seeds}, "
            f"without interval){edge}."
        )


def largest_without_loss(
    name: str,
    baseline: float,
    candidates: Mapping[float, float],
    *,
    n_seeds: int = 1,
) -> Choice:
    """
    Return the largest coefficient whose explained variance is at least the baseline's.

    arXiv 2606.27321 chooses lambda by this rule, on the R^2 of test data. If no candidate
    (at least one) reaches the baseline, the smallest is taken and ``within`` is False. The
    arguments are those of ``Choice``.

    >>> largest_without_loss("k32", 0.8, {0.01: 0.81, 0.1: 0.80, 1.0: 0.7}).coefficient
    0.1
    """
    if not candidates:
        raise ValueError(f"{name}: expected at least one candidate")
    reaching = [c for c, variance in candidates.items() if variance >= baseline]
    chosen = max(reaching) if reaching else min(candidates)
    return Choice(name, chosen, baseline, dict(candidates), bool(reaching), n_seeds)


@dataclass(frozen=True)
class Tuned:
    """How a stage's SAEs come from those of an earlier stage, instead of being trained."""

    of: str
    """Name of the earlier stage."""
    settings: FineTune


@dataclass(frozen=True)
class Stage:
    """
    One sweep and the evaluations of its SAEs.

    Attributes:
        name: of the release's folder and of the results'.
        sweep: makes the sweep from the results of the stages before it (tidy table). For a stage
            that is tuned it names the groups, and is not trained.
        evals: names of evaluations, as for ``saereg-bench run``.
        in_table: whether its groups are rows of the study's table; a stage that only
            chooses settings is shown apart.
        choice: made when the stage is evaluated, from the tidy table.
        options: settings of single evaluations, by name.
        tuned: where its SAEs come from, if they are fine-tuned.
        distill: the distillation whose part with the stage's name it trains, if it is one.
        compare: further comparisons of groups, from the folder of the stage's results.
    """

    name: str
    sweep: Callable[[pd.DataFrame], SweepConfig]
    evals: tuple[str, ...] = ("core",)
    in_table: bool = True
    choice: Callable[[pd.DataFrame], Sequence[Choice]] | None = None
    options: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    tuned: Tuned | None = None
    distill: Distill | None = None
    compare: Callable[[Path], Sequence[Comparison]] | None = None


@dataclass(frozen=True)
class Revive:
    """
    Dead latents of a stage's SAEs, given back after all stages.

    Attributes:
        stage: whose groups are rows of the table.
        control: stage of their width-matched controls.
        latents: given back to each SAE, at most.
        steps: of training.
        dead_after: steps without firing at the end of training that make a latent dead.
        loss_contexts: contexts for the cross-entropy; the whole model runs for each SAE.
    """

    stage: str
    control: str
    latents: int
    steps: int
    dead_after: int = 100
    loss_contexts: int = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study at one scale."""

    stages: tuple[Stage, ...]
    settings: str
    """Model, tokens and width in words, for the table."""
    corpus: str = "embedded"
    heldout_tokens: int = 32_768
    llm_dtype: str = "float32"
    device: str = "cpu"
    data: Literal["hub", "embedded"] = "embedded"
    options: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    on_text: bool = True
    """Whether SAEs read a language model, so that figures on held-out text are measured."""
    revive: Revive | None = None
    """Dead latents to give back, whose gains are figures of ``revival``."""


def paper_plan(settings: str, *stages: Stage, llm_dtype: str = "float32") -> Plan:
    """Return the plan of a paper's scale: the Pile and hub data."""
    return Plan(
        stages=stages,
        settings=settings,
        corpus="monology/pile-uncopyrighted",
        heldout_tokens=262_144,
        llm_dtype=llm_dtype,
        data="hub",
    )


@dataclass(frozen=True)
class Published:
    """A number that the paper gives; ``group`` is the table's row that it belongs to."""

    group: str
    column: str
    """Title of the column, or what was measured if the table has none."""
    value: float
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Study:
    """
    A paper's grid.

    Attributes:
        name: what the command calls it.
        paper: arXiv id, or the method's name.
        summary: one line.
        plan: stages at a scale; raises InputError for a scale that cannot be run.
        columns: of the table, in order; one without results is left out.
        claims: to judge; a claim about missing groups or figures is reported as not measured.
        published: numbers of the paper next to the table of a scale.
        notes: sentences on what differs from the paper at the small scale.
        finish: measures once more on the SAEs of all stages in the table; from a context and the
            study's folder it returns tidy rows and passages of the report.
        files: that ``finish`` writes, relative to the study's folder.
    """

    name: str
    paper: str
    summary: str
    plan: Callable[[Scale], Plan]
    columns: tuple[Column, ...]
    claims: Callable[[Scale], Sequence[Claim]]
    published: Callable[[Scale], Sequence[Published]] = lambda _: ()
    notes: tuple[str, ...] = ()
    finish: Callable[[RunContext, Path], tuple[pd.DataFrame, list[Passage]]] | None = (
        None
    )
    files: tuple[str, ...] = ()


@dataclass
class StudyRun:
    """
    Results of a study.

    Attributes:
        finished: False if training was interrupted; the same call resumes.
        frame: tidy results of all stages, with a further column ``stage``.
        differences: between groups, as the cross-seed evaluation gives them.
        choices: made by the stages.
        comparisons: further ones of the stages.
        failures: evaluations without a result.
        stopped: SAEs taken out of training, one line for each.
        training_seconds: of the finished stages, as their releases record it (since the
            last interruption).
        pairs_across_documents: by stage, ``{"crossing": ..., "pairs": ...}`` of neighbouring
            training tokens, where its release counts them.
        passages: what ``finish`` says beside the table.
        table: the written table; None if training was interrupted.
        page: report page of table and results; None if training was interrupted.
    """

    study: Study
    scale: Scale
    plan: Plan
    finished: bool = False
    frame: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=pd.Index([*COLUMNS, "stage"]))
    )
    differences: list[GroupDifference] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    training_seconds: float = 0.0
    pairs_across_documents: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {}
    )
    passages: list[Passage] = field(default_factory=list[Passage])
    table: Path | None = None
    page: Path | None = None

    @property
    def table_frame(self) -> pd.DataFrame:
        """The rows of the stages that are in the study's table."""
        shown = [stage.name for stage in self.plan.stages if stage.in_table]
        rows: Any = self.frame.loc[self.frame["stage"].isin(shown)]
        return rows
