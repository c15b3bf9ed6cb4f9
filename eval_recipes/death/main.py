"""The evaluation death: latents that never fire, by cause."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sae_lens import SAE
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from torch import Tensor

from eval_recipes.death.activations import Figures, PointSums
from eval_recipes.death.options import DeathEvalConfig
from eval_recipes.death.output import (
    ActivationMetrics,
    CountMetrics,
    DeathEvalOutput,
    DeathMetricCategories,
    ShareMetrics,
)
from eval_recipes.death.table import (
    ALIVE,
    DEATHS,
    DIED,
    EVAL,
    NEVER,
    RELU,
    SELECTION,
    TABLE_SUFFIX,
    UNKNOWN,
)
from eval_recipes.death.tally import DeathTally, Mask, State
from eval_recipes.results.files import base_fields, unstructured
from eval_recipes.results.metrics import flat, without_interval
from eval_recipes.results.sidecar import StoredTable
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.activation_source import Place, place_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.heldout_pass import tally_heldout
from eval_recipes.running.passes import Passed
from eval_recipes.statistics.blocks import block_interval
from eval_recipes.statistics.interval import Interval
from saereg_plugin.activations.source import digest_of
from saereg_plugin.errors import InputError
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import LOADER, Entry, Release
from saereg_plugin.revival.start import (
    TrainingHistory,
    encoder_norms,
    initial_sae,
    training_history,
)

_SHARES = ("dead_share", "born_dead", "born_dead_by_relu", "born_dead_revived")
_EXACT = "it is of the weights: nothing was sampled"


@dataclass
class _Known:
    """What the release of an SAE tells about its training; parts may be unknown."""

    history: TrainingHistory = field(default_factory=TrainingHistory)
    start: Any = None
    start_norms: Tensor | None = None
    unknown: dict[str, str] = field(default_factory=dict[str, str])
    """Why a part is unknown."""


class DeathEvaluation(Evaluation[DeathEvalConfig]):
    """
    Dead latents of every SAE by cause and pathway, against their start and the prediction.

    The model runs along the text once for all SAEs on a hook, and along other inputs once for
    all SAEs on its points.
    """

    name = EVAL
    summary = "which latents never fire and why, next to what outliers predict"
    Options = DeathEvalConfig
    Output = DeathEvalOutput
    any_source = True
    reads_text = True
    bytes_per_latent = 40
    side_files = (TABLE_SUFFIX,)
    from_run = {"random_seed": "seed"}

    def key(self, context: RunContext, options: DeathEvalConfig) -> dict[str, Any]:
        """Return the settings, with what the releases tell about the SAEs' training."""
        training = [_training_digest(subject) for subject in context.subjects]
        return {**super().key(context, options), "training": training}

    def evaluate_all(
        self, context: RunContext, options: DeathEvalConfig
    ) -> list[Failure]:
        """Evaluate all SAEs along the inputs together; write each result at the end of its pass."""
        subjects = {subject.sae_id: subject for subject in context.subjects}
        known: dict[str, _Known] = {}
        points: dict[Place, PointSums] = {}

        def start(sae_id: str, sae: SAE[Any]) -> DeathTally:
            found = known[sae_id] = _known(subjects[sae_id], sae)
            sums = points.setdefault(place_of(context, sae), PointSums())
            tally = DeathTally(
                sae,
                found.start if options.replay_start else None,
                scale=found.history.scale,
                sums=sums,
            )
            tally.sae_id = sae_id
            return tally

        def finish(tally: DeathTally, _: Passed) -> None:
            subject = subjects[tally.sae_id]
            self.write(
                context, subject, _result(subject, tally, known[tally.sae_id], options)
            )

        with self.opened(context, options):
            _, causes = tally_heldout(
                context, context.subjects, start, finish, extra_bytes=_bytes_held
            )
        return [self.failure(subjects[sae_id], causes[sae_id]) for sae_id in causes]


def _bytes_held(sae: SAE[Any]) -> int:
    """Return the memory of the start's weights, and of products of activations."""
    d_in, d_sae = int(sae.cfg.d_in), int(sae.cfg.d_sae)
    return 8 * d_in * d_sae + 80 * d_in * d_in


def _entry(subject: Subject) -> tuple[Release, Entry] | None:
    """Return an SAE's release and entry; None of another release than this package's."""
    directory = get_pretrained_saes_directory().get(subject.release)
    if directory is None or directory.conversion_func != LOADER:
        return None
    release = open_release(directory.repo_id)
    (entry,) = release.select([subject.sae_id])
    return release, entry


def _training_digest(subject: Subject) -> str | None:
    """Return a hash of what a release tells about an SAE's training."""
    found = _entry(subject)
    if found is None:
        return None
    release, entry = found
    told = [release.provenance.get("sweep"), dict(entry.files)]
    return digest_of({"training": told})


def _known(subject: Subject, sae: SAE[Any]) -> _Known:
    """Return what is known of an SAE's training; what is not has its reason."""
    found = _Known()
    opened = _entry(subject)
    if opened is None:
        reason = "only the folder of a release that 'saereg-bench train' wrote tells it"
        found.unknown = dict.fromkeys(("history", "start"), reason)
        return found
    release, entry = opened
    try:
        found.history = training_history(release, entry)
        found.start = initial_sae(release, entry, d_in=int(sae.cfg.d_in))
    except InputError as error:
        found.unknown["start"] = str(error)
    if found.history.never_fired is None:
        found.unknown["history"] = "the release does not record which latents fired"
    if found.start is not None:
        try:
            norms = encoder_norms(found.start, scale=found.history.scale)
            found.start_norms = norms
        except InputError as error:
            found.unknown["encoder_norm_start"] = str(error)
        if found.start.cfg.normalize_activations == "covariance_whitening":
            found.start = None
            found.unknown["start"] = "the whitening of its activations is not recorded"
    return found


def _result(
    subject: Subject, tally: DeathTally, known: _Known, options: DeathEvalConfig
) -> TableOutput:
    """Return the result of one SAE with its table."""
    ratio = _ratio(tally.sae, known.start_norms)
    collapsed = None if ratio is None else ratio < options.collapsed_ratio
    figures = _figures(tally, known, collapsed)
    cfg: Any = tally.sae.cfg if tally.start is None else tally.start.cfg
    k = getattr(cfg, "k", None)
    points = tally.sums.figures(
        centre=tally.centre,
        k=None if k is None else float(k),
        d_sae=len(tally.gap),
        tokens=options.prediction_tokens,
        resamples=options.n_resamples,
        seed=options.random_seed,
    )
    categories = {
        "counts": {k: v for k, v in figures.items() if k not in _SHARES},
        "shares": {k: figures[k] for k in _SHARES}
        | {k: v for k, v in points.items() if k.startswith("predicted")},
        "activations": {
            k: v for k, v in points.items() if not k.startswith("predicted")
        },
    }
    table = DEATHS.of(
        _columns(tally, known, ratio, collapsed), subject, steps=known.history.steps
    )

    def build(stored: StoredTable) -> DeathEvalOutput:
        metrics = {name: flat(found) for name, found in categories.items()}
        return DeathEvalOutput(
            **base_fields(subject, tally.sae),
            eval_config=options,
            eval_result_metrics=DeathMetricCategories(
                counts=CountMetrics(**metrics["counts"]),
                shares=ShareMetrics(**metrics["shares"]),
                activations=ActivationMetrics(**metrics["activations"]),
            ),
            eval_result_details=[],
            eval_result_unstructured=unstructured(
                subject,
                latents=stored.about,
                without_interval=without_interval(categories),
                unknown=known.unknown,
            ),
        )

    return TableOutput(TABLE_SUFFIX, table, build)


def _ratio(sae: SAE[Any], start: Tensor | None) -> NDArray[np.float64] | None:
    """Return the encoder's norm at the end over that at the start, [d_sae]."""
    if start is None:
        return None
    # a latent that starts at 0 has no ratio
    end = encoder_norm(sae)
    return (end / start.double().cpu().clamp(min=1e-30)).numpy()


def encoder_norm(sae: SAE[Any]) -> Tensor:
    """Return the norm of each latent's encoder, float64 [d_sae]."""
    return sae.W_enc.detach().double().cpu().norm(dim=0)


def _figures(
    tally: DeathTally,
    known: _Known,
    collapsed: Mask | None,
) -> Figures:
    """Return counts and shares, with a jackknife over contexts."""
    never = known.history.never_fired
    silent = None if never is None else never.numpy()

    def categories(state: State) -> dict[str, Mask]:
        return _categories(state, silent, collapsed)

    full = categories(tally.whole())
    left_out = tally.left_out(categories)
    d_sae = len(tally.gap)
    found: Figures = dict.fromkeys(("never_fired", "fired_then_died", *_SHARES))
    found |= dict.fromkeys(("dead_collapsed", "collapsed"))
    for name, mask in full.items():
        size = d_sae if name in _SHARES else 1
        values = left_out[name] / size
        value = float(mask.sum()) / size
        interval = block_interval(value, values.tolist(), tally.seen)
        found[name] = _within(interval, d_sae / size)
    if collapsed is not None:
        total = float(collapsed.sum())
        found["collapsed"] = Interval(total, None, None, d_sae, _EXACT)
    return found


def _within(interval: Interval | None, most: float) -> Interval | None:
    """Return an interval without what no count can be."""
    if interval is None or interval.low is None or interval.high is None:
        return interval
    return interval._replace(low=max(0.0, interval.low), high=min(most, interval.high))


def _categories(
    state: State, never: Mask | None, collapsed: Mask | None
) -> dict[str, Mask]:
    """Return which latents of a state are in each category, arrays of [latents]."""
    latents = state.latents.numpy()
    alive = state.fired.numpy()
    positive = (state.largest > 0).numpy()
    dead = ~alive
    found: dict[str, Mask] = {
        "alive": alive,
        "dead": dead,
        "dead_by_relu": dead & ~positive,
        "dead_by_selection": dead & positive,
        "dead_share": dead,
    }
    if never is not None:
        found["never_fired"] = dead & never[latents]
        found["fired_then_died"] = dead & ~never[latents]
    if collapsed is not None:
        found["dead_collapsed"] = dead & collapsed[latents]
    if state.started is not None and state.largest_start is not None:
        born_dead = ~state.started.numpy()
        found["born_dead"] = born_dead
        found["born_dead_by_relu"] = born_dead & ~(state.largest_start > 0).numpy()
        found["born_dead_revived"] = born_dead & alive
    return found


def _columns(
    tally: DeathTally,
    known: _Known,
    ratio: NDArray[np.float64] | None,
    collapsed: Mask | None,
) -> dict[str, Any]:
    """Return the table's columns, a value per latent; None where it is unknown."""
    alive = tally.end.fired.numpy()
    positive = (tally.end.largest > 0).numpy()
    largest = tally.end.largest.double().numpy()
    pathway = _pathways(alive, positive)
    by_selection = (~alive) & positive
    last = known.history.last_fired
    begin = tally.begin
    nothing = [None] * len(alive)
    columns: dict[str, Any] = {
        "latent": list(range(len(alive))),
        "cause": _causes(alive, known.history.never_fired),
        "pathway": pathway,
        "contexts": tally.end.contexts.numpy(),
        "largest_pre_activation": largest,
        "gap": [
            float(gap) if shown else None
            for gap, shown in zip(tally.gap.tolist(), by_selection, strict=True)
        ],
        "last_fired_step": nothing if last is None else last.numpy(),
        "encoder_norm": encoder_norm(tally.sae).numpy(),
        "encoder_norm_start": nothing
        if known.start_norms is None
        else known.start_norms.double().cpu().numpy(),
        "encoder_ratio": nothing if ratio is None else ratio,
        "collapsed": nothing if collapsed is None else collapsed,
    }
    if begin is None:
        return columns | {"born_dead": nothing, "born_pathway": nothing}
    started = begin.fired.numpy()
    positive = (begin.largest > 0).numpy()
    return columns | {
        "born_dead": ~started,
        "born_pathway": _pathways(started, positive),
    }


def _pathways(alive: Mask, positive: Mask) -> list[str | None]:
    """Return how each latent is dead, None if it is alive."""
    return [
        None if fires else SELECTION if above else RELU
        for fires, above in zip(alive.tolist(), positive.tolist(), strict=True)
    ]


def _causes(alive: Mask, never: Tensor | None) -> list[str]:
    if never is None:
        return [ALIVE if fires else UNKNOWN for fires in alive.tolist()]
    return [
        ALIVE if fires else NEVER if silent else DIED
        for fires, silent in zip(alive.tolist(), never.tolist(), strict=True)
    ]
