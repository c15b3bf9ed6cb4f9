"""The cross-seed evaluation: all pairs of seeds of every group of SAEs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial

from tqdm.auto import tqdm

from eval_recipes.cross_seed.aggregate import Figures, heldout_figures
from eval_recipes.cross_seed.build_output import build_output, report_group
from eval_recipes.cross_seed.firing import matched_firing
from eval_recipes.cross_seed.measure import (
    Measured,
    measure_groups,
    with_losses,
    with_nulls,
    with_shares,
)
from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.output import (
    EVAL_TYPE_ID_CROSS_SEED,
    CrossSeedEvalOutput,
    stability_table,
)
from eval_recipes.cross_seed.pairs import Loaded, load, unequal_shapes
from eval_recipes.cross_seed.reconstruction_share import (
    Carried,
    reconstruction_shares,
)
from eval_recipes.cross_seed.stability import TABLE_SUFFIX
from eval_recipes.cross_seed.stable_loss import Parts, stable_losses
from eval_recipes.results.subject import Failure, Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import Evaluation, TableOutput
from eval_recipes.running.heldout import heldout_of
from saereg_plugin.errors import InputError


class CrossSeedEvaluation(Evaluation[CrossSeedEvalConfig]):
    """All pairs of seeds of every group of SAEs."""

    name = EVAL_TYPE_ID_CROSS_SEED
    summary = "how alike SAEs are that differ only in their seed, and groups compared"
    Options = CrossSeedEvalConfig
    Output = CrossSeedEvalOutput
    over_groups = True
    any_source = True
    reads_text = True
    bytes_per_latent = 10
    side_files = (TABLE_SUFFIX,)
    from_run = {
        "random_seed": "seed",
        "corpus": "corpus",
        "heldout_tokens": "heldout_tokens",
    }
    run_decides = frozenset({"corpus", "heldout_tokens"})
    # the text is in every key by its content; threads decide nothing
    not_in_key = frozenset({"corpus", "heldout_tokens", "matching_threads"})

    def check(
        self,
        context: RunContext,
        options: CrossSeedEvalConfig,
    ) -> None:
        """Refuse SAEs without a seed, groups of one seed, and losses without firing."""
        subjects_by_seed(context.subjects)
        if options.loss_contexts and not options.reconstruction_shares:
            raise InputError(
                f"loss_contexts = {options.loss_contexts} with reconstruction_shares = false; "
                "expected both, because random latents are drawn by how often they fire. "
                "Leave out one of the two options."
            )

    def evaluate_all(
        self, context: RunContext, options: CrossSeedEvalConfig
    ) -> list[Failure]:
        """
        Evaluate every group and write the result of each SAE; return the failures.

        An SAE that cannot be used is left out of its group and reported. So are the SAEs of a
        group that has fewer than two left.
        """
        failures: list[Failure] = []
        groups = subjects_by_seed(context.subjects)
        loaded = _load_all(groups, options, failures)
        loaded = _of_equal_shapes(loaded, failures)
        heldout = _heldout(context, loaded, failures)
        usable = [sae for sae in loaded if sae.subject.sae_id in heldout]
        saes = _complete_groups(usable, failures)
        measured = measure_groups(saes, heldout, options)
        carried: dict[str, Carried] = {}
        if options.reconstruction_shares:
            carried = _carried(context, measured, failures)
            shares = {sae_id: found.share.figures for sae_id, found in carried.items()}
            measured = with_shares(measured, shares)
        firing = {sae_id: found.firing for sae_id, found in carried.items()}
        measured = with_nulls(measured, firing, options)
        if options.loss_contexts:
            losses = _losses(context, measured, options, failures)
            measured = with_losses(measured, losses)
        lost = {failure.sae_id for failure in failures}
        for name, group in measured.groups.items():
            report = report_group(measured, name, options)
            for seed, sae in group.saes.items():
                if sae.subject.sae_id in lost:
                    continue
                build = partial(build_output, measured, name, seed, options, report)
                try:
                    table = stability_table(group, seed)
                    output = TableOutput(TABLE_SUFFIX, table, build)
                    self.write(context, sae.subject, output)
                except Exception as error:
                    failures.append(_failure(sae.subject, error))
        return failures


def subjects_by_seed(subjects: Iterable[Subject]) -> dict[str, dict[int, Subject]]:
    """
    Return the SAEs by group and seed; loads nothing.

    Raises:
        InputError: if an SAE has no seed, two SAEs of a group have the same seed, or a group
            has a single seed.
    """
    groups: dict[str, dict[int, Subject]] = defaultdict(dict)
    for subject in subjects:
        if subject.seed is None:
            raise InputError(
                f"SAE {subject.sae_id!r} of group {subject.group!r} has no seed; "
                "expected an integer that tells the SAEs of a group apart. Name groups "
                "and seeds, for example with --group-by '-seed(?P<seed>[0-9]+)', leave the "
                "SAE out, or evaluate without seeds, --evals core."
            )
        other = groups[subject.group].setdefault(subject.seed, subject)
        if other is not subject:
            raise InputError(
                f"SAEs {other.sae_id!r} and {subject.sae_id!r} of group "
                f"{subject.group!r} both have seed {subject.seed}; expected one SAE "
                "a seed. Put them into different groups or leave one out."
            )
    for name, by_seed in groups.items():
        if len(by_seed) < 2:
            ids = ", ".join(repr(subject.sae_id) for subject in by_seed.values())
            raise InputError(
                f"Group {name!r} has a single seed ({ids}); expected two or more "
                "SAEs of one configuration that differ in seed. Train another seed, "
                "add it to the run, or leave the group or this evaluation out."
            )
    return dict(groups)


def _carried(
    context: RunContext, measured: Measured, failures: list[Failure]
) -> dict[str, Carried]:
    """Measure SAEs on held-out inputs; an SAE that fails there is a failure."""
    groups = measured.groups.values()
    stable = {
        group.saes[seed].subject.sae_id: mask
        for group in groups
        for seed, mask in group.stable.items()
    }
    subjects = [sae.subject for group in groups for sae in group.saes.values()]
    read = [each["l0"] for group in groups for each in group.heldout.values()]
    known = [figure for figure in read if figure is not None]
    n_inputs = max((figure.n for figure in known), default=0)
    l0 = max((figure.value for figure in known), default=0.0)
    carried, causes = reconstruction_shares(
        context,
        stable,
        subjects,
        n_inputs=n_inputs,
        n_firings=math.ceil(l0 * context.heldout_tokens),
    )
    failures += [
        _failure(subject, f"reconstruction shares: {causes[sae_id]}")
        for sae_id in causes
        for subject in subjects
        if subject.sae_id == sae_id
    ]
    return carried


def _losses(
    context: RunContext,
    measured: Measured,
    options: CrossSeedEvalConfig,
    failures: list[Failure],
) -> dict[str, Figures]:
    """Measure the language model's loss by stability; an SAE that fails there is a failure."""
    saes = [
        (group, seed, sae.subject)
        for group in measured.groups.values()
        for seed, sae in group.saes.items()
        # SAEs that failed before have no firing
        if seed in group.firing
    ]
    losses: dict[str, Figures] = {}
    for group, seed, subject in tqdm(saes, desc="cross-seed: losses"):
        counts, stable = group.firing[seed].counts, group.stable[seed]
        alive = group.saes[seed].weights.alive
        matched = matched_firing(counts, alive, stable, seed=options.random_seed)
        parts = Parts(stable, matched, group.tenths(seed))
        try:
            losses[subject.sae_id] = stable_losses(
                context, subject, parts, counts, contexts=options.loss_contexts
            )
        except Exception as error:
            failures.append(_failure(subject, error))
    return losses


def _failure(subject: Subject, error: Exception | str) -> Failure:
    return CrossSeedEvaluation().failure(subject, error)


def _load_all(
    groups: Mapping[str, Mapping[int, Subject]],
    config: CrossSeedEvalConfig,
    failures: list[Failure],
) -> list[Loaded]:
    loaded: list[Loaded] = []
    subjects = [item for by_seed in groups.values() for item in by_seed.items()]
    for seed, subject in tqdm(subjects, desc="cross-seed: loading"):
        try:
            loaded.append(load(subject, seed, config))
        except Exception as error:
            failures.append(_failure(subject, error))
    return loaded


def _of_equal_shapes(loaded: list[Loaded], failures: list[Failure]) -> list[Loaded]:
    """Return the SAEs of groups that have one shape; those of the others are failures."""
    causes = unequal_shapes(loaded)
    failures += [
        _failure(sae.subject, causes[sae.subject.group])
        for sae in loaded
        if sae.subject.group in causes
    ]
    return [sae for sae in loaded if sae.subject.group not in causes]


def _heldout(
    context: RunContext, loaded: list[Loaded], failures: list[Failure]
) -> dict[str, Figures]:
    """Return the held-out figures by SAE id; an SAE without any is a failure."""
    table = heldout_of(context)
    figures: dict[str, Figures] = {}
    for sae in loaded:
        try:
            figures[sae.subject.sae_id] = heldout_figures(table[sae.subject.sae_id])
        except Exception as error:
            failures.append(_failure(sae.subject, error))
    return figures


def _complete_groups(
    usable: list[Loaded], failures: list[Failure]
) -> dict[str, dict[int, Loaded]]:
    """Return the usable SAEs by group and seed; those left alone are failures."""
    groups: dict[str, dict[int, Loaded]] = defaultdict(dict)
    for sae in usable:
        groups[sae.subject.group][sae.seed] = sae
    for name, by_seed in groups.items():
        if len(by_seed) < 2:
            cause = f"no other seed of group {name!r} could be measured"
            failures += [_failure(sae.subject, cause) for sae in by_seed.values()]
    return {name: by_seed for name, by_seed in groups.items() if len(by_seed) > 1}
