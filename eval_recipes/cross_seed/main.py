"""Runs the cross-seed evaluation: all pairs of seeds of every group of SAEs."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from tqdm.auto import tqdm

from eval_recipes.context import Failure, RunContext, Subject
from eval_recipes.cross_seed.aggregate import (
    Figures,
    Pairs,
    decoder_geometry,
    geometry_figures,
    heldout_figures,
    oriented,
    pair_figures,
    stability_figures,
)
from eval_recipes.cross_seed.config import CrossSeedEvalConfig, make_config
from eval_recipes.cross_seed.groups import group_differences, group_figures
from eval_recipes.cross_seed.output import EVAL_TYPE_ID_CROSS_SEED
from eval_recipes.cross_seed.pairs import PairFigures, Weights, measure_pair
from eval_recipes.cross_seed.report import build_output
from eval_recipes.results import BaseFields, base_fields, result_path, write_result
from saereg_plugin.errors import InputError
from saereg_plugin.metrics import expected_abs_cosine

Shape = tuple[int, int]


@dataclass(frozen=True)
class Loaded:
    """What is kept of one SAE."""

    subject: Subject
    seed: int
    weights: Weights
    fields: BaseFields

    @property
    def shape(self) -> Shape:
        """(d_sae, d_in)."""
        d_sae, d_in = self.weights.dec.shape
        return d_sae, d_in


@dataclass(frozen=True)
class Group:
    """A measured group; everything by seed."""

    saes: dict[int, Loaded]
    pairs: Pairs
    stability: dict[int, Figures]
    geometry: dict[int, Figures]
    heldout: dict[int, Figures]

    @property
    def single(self) -> dict[int, Figures]:
        """Figures that describe one SAE alone."""
        return {seed: self.geometry[seed] | self.heldout[seed] for seed in self.saes}


def config_of(context: RunContext) -> CrossSeedEvalConfig:
    """Return the settings of a run; raises InputError for a wrong option."""
    return make_config(
        context.options.get(EVAL_TYPE_ID_CROSS_SEED, {}),
        random_seed=context.seed,
        corpus=context.corpus,
        heldout_tokens=context.heldout_tokens,
    )


def check(context: RunContext) -> dict[str, dict[int, Subject]]:
    """
    Return the subjects by group and seed; loads nothing.

    Raises:
        InputError: if an option is wrong, an SAE has no seed, two SAEs of a group
            have the same one, or a group has a single seed.
    """
    config_of(context)
    groups: dict[str, dict[int, Subject]] = defaultdict(dict)
    for subject in context.subjects:
        if subject.seed is None:
            raise InputError(
                f"SAE {subject.sae_id!r} of group {subject.group!r} has no seed; "
                "expected an integer that tells the SAEs of a group apart. Add the "
                "seed to its entry in the release, or leave the SAE out."
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


def check_shapes(saes: list[Loaded]) -> None:
    """
    Refuse SAEs of one group that differ in width.

    Raises:
        InputError: names the group and the shapes.
    """
    first: dict[str, Loaded] = {}
    for sae in saes:
        other = first.setdefault(sae.subject.group, sae)
        if other.shape != sae.shape:
            raise InputError(
                f"SAEs {other.subject.sae_id!r} and {sae.subject.sae_id!r} of group "
                f"{sae.subject.group!r} have (d_sae, d_in) {other.shape} and "
                f"{sae.shape}; expected one shape in a group. Put SAEs of different "
                "width into different groups."
            )


def run(context: RunContext) -> list[Failure]:
    """
    Evaluate every group and write one result a SAE; return the SAEs that failed.

    An SAE that cannot be used is left out of its group and reported; so are the
    SAEs of a group that has fewer than two left.

    Raises:
        InputError: see ``check`` and ``check_shapes``.
    """
    subjects = check(context)
    config = config_of(context)
    failures: list[Failure] = []
    loaded = _load_all(context, config, failures)
    check_shapes(loaded)
    heldout = _heldout(context, loaded, failures)
    saes: dict[str, dict[int, Loaded]] = {}
    for name in subjects:
        kept = {
            sae.seed: sae
            for sae in loaded
            if sae.subject.group == name and sae.subject.sae_id in heldout
        }
        if len(kept) >= 2:
            saes[name] = kept
        else:
            cause = f"no other seed of group {name!r} could be measured"
            failures += [_failure(sae.subject, cause) for sae in kept.values()]
    pairs, random_pairs = _measure(saes, config)
    groups = {
        name: _group(by_seed, pairs[name], heldout, config)
        for name, by_seed in tqdm(saes.items(), desc="cross-seed figures")
    }
    baselines = {
        shape: _baseline(random, pair, config)
        for shape, (random, pair) in random_pairs.items()
    }
    for name in groups:
        failures += _write_group(context, config, name, groups, baselines)
    return failures


def _failure(subject: Subject, cause: str | Exception) -> Failure:
    if isinstance(cause, Exception):
        cause = f"{type(cause).__name__}: {cause}"
    return Failure(EVAL_TYPE_ID_CROSS_SEED, subject.sae_id, cause)


def _load(subject: Subject, config: CrossSeedEvalConfig) -> Loaded:
    sae = subject.load()
    weights = Weights.of(
        sae.W_enc.data, sae.W_dec.data, alive_threshold=config.alive_threshold
    )
    for name, rows in (("W_enc", weights.enc), ("W_dec", weights.dec)):
        if not rows.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
    if len(weights.dec) < 2:
        raise ValueError("an SAE of one latent has no geometry")
    assert subject.seed is not None  # check() refuses it
    return Loaded(subject, subject.seed, weights, base_fields(subject, sae))


def _load_all(
    context: RunContext, config: CrossSeedEvalConfig, failures: list[Failure]
) -> list[Loaded]:
    loaded: list[Loaded] = []
    for subject in tqdm(context.subjects, desc="loading SAEs"):
        try:
            loaded.append(_load(subject, config))
        except Exception as error:
            failures.append(_failure(subject, error))
    return loaded


def _heldout(
    context: RunContext, loaded: list[Loaded], failures: list[Failure]
) -> dict[str, Figures]:
    """Return the held-out figures by SAE id; an SAE without any is a failure."""
    table = context.heldout
    figures: dict[str, Figures] = {}
    for sae in loaded:
        try:
            figures[sae.subject.sae_id] = heldout_figures(table[sae.subject.sae_id])
        except Exception as error:
            failures.append(_failure(sae.subject, error))
    return figures


def random_weights(shape: Shape, generator: torch.Generator, threshold: float) -> Weights:
    """
    Draw a random SAE: decoder rows and encoder columns independent Gaussian vectors.

    Their directions are uniform, and cosines do not see their norms.
    """
    d_sae, d_in = shape
    return Weights.of(
        torch.randn(d_in, d_sae, generator=generator),
        torch.randn(d_sae, d_in, generator=generator),
        alive_threshold=threshold,
    )


def _measure(
    saes: dict[str, dict[int, Loaded]], config: CrossSeedEvalConfig
) -> tuple[dict[str, Pairs], dict[Shape, tuple[Weights, PairFigures]]]:
    """Measure all pairs of all groups, and one random pair a shape."""
    generator = torch.Generator().manual_seed(config.random_seed)
    jobs: dict[Any, tuple[Weights, Weights]] = {}
    for name, by_seed in saes.items():
        for low, high in combinations(sorted(by_seed), 2):
            jobs[name, low, high] = by_seed[low].weights, by_seed[high].weights
    shapes = {sae.shape for by_seed in saes.values() for sae in by_seed.values()}
    for shape in sorted(shapes):
        a, b = (
            random_weights(shape, generator, config.alive_threshold) for _ in range(2)
        )
        jobs[shape] = a, b
    # The assignment solver lets go of the interpreter lock.
    with ThreadPoolExecutor(config.matching_threads) as pool:
        measured = pool.map(lambda pair: measure_pair(*pair, config), jobs.values())
        progress = tqdm(measured, desc="matching seeds", total=len(jobs))
        results = dict(zip(jobs, progress, strict=True))
    pairs: dict[str, Pairs] = {
        name: {
            seeds: results[name, *seeds] for seeds in combinations(sorted(by_seed), 2)
        }
        for name, by_seed in saes.items()
    }
    return pairs, {shape: (jobs[shape][0], results[shape]) for shape in shapes}


def _baseline(random: Weights, pair: PairFigures, config: CrossSeedEvalConfig) -> Figures:
    similarity, shared = pair_figures({(0, 1): pair}, 0, config)
    return {**similarity, **shared, **decoder_geometry(random.dec, "", config)}


def _group(
    saes: dict[int, Loaded],
    pairs: Pairs,
    heldout: dict[str, Figures],
    config: CrossSeedEvalConfig,
) -> Group:
    return Group(
        saes=saes,
        pairs=pairs,
        stability={
            seed: stability_figures(pairs, seed, sae.weights.alive, config)
            for seed, sae in saes.items()
        },
        geometry={
            seed: geometry_figures(sae.weights, config) for seed, sae in saes.items()
        },
        heldout={seed: heldout[sae.subject.sae_id] for seed, sae in saes.items()},
    )
