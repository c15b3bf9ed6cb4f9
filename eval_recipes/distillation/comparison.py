"""Reconstruction, effective L0 and loss of distilled SAEs, next to their controls'."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.distillation.agreement import Latents, agreements
from eval_recipes.results.subject import Subject
from eval_recipes.revival.comparison import patched_losses
from eval_recipes.running.activation_source import read_model
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import Passed, per_context, tally_heldout
from eval_recipes.statistics.interval import (
    Array,
    Interval,
    Statistic,
    bootstrap_together,
    explained_variance,
)
from eval_recipes.tables.table import cell
from saereg_plugin.distillation.cores import Core, Cores, survivors
from saereg_plugin.distillation.settings import DISTILLED, MATCHED, Distill, cycle_part
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json
from saereg_plugin.sweeps.config import sae_id

_CHUNK_VALUES = 1 << 24
"""Codes held at once."""
COLUMNS = ("group", "seed", "other", "figure", "value", "low", "high", "n", "null")
"""``other`` is the second seed of a pair; ``null`` is what chance reaches."""


@dataclass(frozen=True)
class Comparison:
    """
    Figures of every group.

    Attributes:
        frame: columns ``COLUMNS``; a row per figure and SAE, or pair of seeds, and one for the
            mean over seeds, whose seed is None.
        sentences: what the last cycle's core changed, against each control.
    """

    frame: pd.DataFrame
    sentences: Sequence[str]

    def write(self, path: Path, **about: Any) -> Path:
        """Write rows and sentences as JSON."""
        rows = self.frame.astype(object).where(self.frame.notna(), None)
        content = {
            **about,
            "sentences": list(self.sentences),
            "rows": rows.to_dict("records"),
        }
        write_json(path, content)
        return path


@dataclass(frozen=True)
class _Measured:
    """Sums of one SAE over held-out contexts, [contexts] each."""

    residual: Array
    """||x - x_hat||^2."""
    core: Array
    """Active latents of the frozen core."""
    rest: Array
    """Active latents outside of it."""
    passed: Passed
    latents: Latents
    gap: Array | None = None
    """Cross-entropy with the SAE minus that without, summed; of other contexts."""
    predicted: Array = field(default_factory=lambda: np.zeros(0))
    """Tokens behind ``gap``."""


class _Tally:
    """Running sums of one SAE; lists hold one entry a batch of contexts."""

    def __init__(self, sae: SAE[Any], frozen: int) -> None:
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae, self._frozen = sae, frozen
        self.fired = torch.zeros(int(sae.cfg.d_sae), dtype=torch.bool)
        self.parts: dict[str, list[Array]] = {"residual": [], "core": [], "rest": []}

    @torch.no_grad()
    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add activations (contexts, tokens, d_in); ``keep`` is False at special tokens."""
        at_once = max(1, _CHUNK_VALUES // (keep.shape[1] * len(self.fired)))
        for x, kept in zip(
            activations.split(at_once), keep.cpu().split(at_once), strict=True
        ):
            codes = self.sae.encode(x.to(self.sae.dtype))
            codes = codes.to_dense() if codes.is_sparse else codes
            error = (x.double() - self.sae.decode(codes).double()).square().sum(-1)
            if not bool(error.isfinite().all()):
                raise ValueError("its reconstruction holds NaN or infinity")
            active = codes != 0
            self.fired |= active[kept.to(active.device)].any(0).cpu()
            for name, values in (
                ("residual", error),
                ("core", active[..., : self._frozen].sum(-1)),
                ("rest", active[..., self._frozen :].sum(-1)),
            ):
                self.parts[name].append(per_context(values.cpu(), kept))

    def finish(self, passed: Passed, promoted: Core) -> _Measured:
        """Return the sums."""
        latents = Latents(
            encoder=self.sae.W_enc.detach().T.float().cpu().clone(),
            decoder=self.sae.W_dec.detach().float().cpu().clone(),
            core=torch.tensor(promoted.latents),
            alive=self.fired,
        )
        sums = {name: np.concatenate(parts) for name, parts in self.parts.items()}
        return _Measured(**sums, passed=passed, latents=latents)


def compare(
    settings: Distill,
    cores: Mapping[str, Cores],
    context: RunContext,
    *,
    loss_contexts: int = 32,
) -> Comparison:
    """
    Measure the SAEs of all parts on held-out text.

    Args:
        settings: of the distillation.
        cores: chosen on the SAEs of each part.
        context: a run whose subjects are the SAEs of all parts.
        loss_contexts: contexts for the cross-entropy of the first cycle, the last cycle and the
            matched SAEs; 0 leaves it out.

    Raises:
        InputError: if an SAE cannot be measured.
    """
    promoted = _promoted(settings, cores)
    found, failures = tally_heldout(
        context,
        context.subjects,
        lambda name, sae: _Tally(sae, promoted[name].frozen),
        lambda tally, passed: (tally, passed),
    )
    for name, cause in failures.items():
        raise InputError(f"SAE {name!r} has no held-out figures: {cause}.")
    measured = {n: t.finish(p, promoted[n]) for n, (t, p) in found.items()}
    if loss_contexts:
        _add_losses(settings, context, measured, loss_contexts)
    rows: list[dict[str, Any]] = []
    seeds = list(settings.sweep.seeds)
    for group, arm, part in _groups(settings):
        own = {seed: measured[sae_id(group, seed)] for seed in seeds}
        for wanted in [*([seed] for seed in seeds), seeds]:
            of = _one_or_none(wanted)
            for name, interval in _figures([own[s] for s in wanted], context.seed):
                rows.append(_row(group, of, name, interval))
            for name, value, null in _core_figures(settings, cores, arm, part, wanted):
                interval = Interval(value, None, None, len(wanted))
                rows.append(_row(group, of, name, interval, null=null))
        for pair, name, value, null in agreements(
            {seed: each.latents for seed, each in own.items()}
        ):
            n = 1 if pair is not None else len(seeds) * (len(seeds) - 1) // 2
            row = _row(group, None, name, Interval(value, None, None, n), null=null)
            first, second = (None, None) if pair is None else pair
            rows.append({**row, "seed": first, "other": second})
    differences = list(_differences(settings, measured, context.seed))
    rows += [row for row, _ in differences]
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    return Comparison(frame, [told for _, told in differences])


def _promoted(settings: Distill, cores: Mapping[str, Cores]) -> dict[str, Core]:
    """Return the core of every SAE by its id; of the first cycle that by attribution."""
    return {
        sae_id(group, seed): cores[part][arm, seed]
        for group, arm, part in _groups(settings)
        for seed in settings.sweep.seeds
    }


def _groups(settings: Distill) -> Iterator[tuple[str, str, str]]:
    """Yield group, arm and part of all SAEs."""
    for part in settings.parts:
        for group, arm in settings.groups_in(part).items():
            yield group, arm, part


def _figures(saes: Sequence[_Measured], seed: int) -> Iterator[tuple[str, Interval]]:
    """Yield figures of an SAE, or means over several, with intervals over contexts."""
    sums = saes[0].passed.kept
    residual = np.mean([each.residual for each in saes], axis=0)
    core = np.mean([each.core for each in saes], axis=0)
    rest = np.mean([each.rest for each in saes], axis=0)
    statistics: dict[str, Statistic] = {
        "explained_variance": lambda w: explained_variance(sums, residual, w),
        "l0": lambda w: (w @ (core + rest)) / (w @ sums.count),
        "l0_core": lambda w: (w @ core) / (w @ sums.count),
        "l0_rest": lambda w: (w @ rest) / (w @ sums.count),
    }
    yield from bootstrap_together(statistics, len(sums.count), seed=seed).items()
    gaps = [each.gap for each in saes if each.gap is not None]
    if len(gaps) == len(saes):
        gap, predicted = np.mean(gaps, axis=0), saes[0].predicted
        gaps_of: dict[str, Statistic] = {
            "ce_gap": lambda w: (w @ gap) / (w @ predicted)
        }
        yield from bootstrap_together(gaps_of, len(predicted), seed=seed).items()


def _core_figures(
    settings: Distill,
    cores: Mapping[str, Cores],
    arm: str,
    part: str,
    seeds: Sequence[int],
) -> Iterator[tuple[str, float, float | None]]:
    """Yield figures of the cores of SAEs, mean over seeds, each with what chance reaches."""
    own = [cores[part][arm, seed] for seed in seeds]
    yield "core_frozen", _mean(core.frozen for core in own), None
    yield "core_promoted", _mean(len(core.latents) for core in own), None
    yield "alive_on_ranking", _mean(core.alive for core in own), None
    yield "core_attribution", _mean(core.share for core in own), None
    if part in (cycle_part(1), MATCHED):
        return
    kept = _mean(core.kept / core.frozen for core in own)
    # a latent that fires is in a core of chance with this probability
    chance = _mean(len(core.latents) / core.alive for core in own)
    yield "core_kept", kept, chance
    by_attribution = _mean(core.kept_by_attribution for core in own)
    chance = _mean(core.kept_by_chance for core in own)
    yield "core_kept_by_attribution", by_attribution, chance
    until = settings.cycle(part)
    lasting = [
        [cores[cycle_part(cycle)][arm, seed] for cycle in range(1, until + 1)]
        for seed in seeds
    ]
    yield "core_in_all_cycles", _mean(map(survivors, lasting)), None


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def _differences(
    settings: Distill, measured: Mapping[str, _Measured], seed: int
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the change of explained variance against each control, and a sentence on it."""
    last = settings.cycles
    group = settings.group(DISTILLED, last)
    seeds = list(settings.sweep.seeds)
    own = [measured[sae_id(group, each)] for each in seeds]
    sums = own[0].passed.kept
    others = [settings.group(DISTILLED, 1)]
    others += [settings.group(arm, last) for arm in settings.arms if arm != DISTILLED]
    others += [MATCHED] if MATCHED in settings.controls else []
    for other in others:
        theirs = [measured[sae_id(other, each)] for each in seeds]
        saved = np.mean(
            [b.residual - a.residual for a, b in zip(own, theirs, strict=True)], axis=0
        )

        def change(weights: Array, saved: Array = saved) -> Array:
            return 1 - explained_variance(sums, saved, weights)

        found = bootstrap_together({"": change}, len(sums.count), seed=seed)[""]
        yield (
            _row(group, None, f"variance_over_{other}", found, null=0.0),
            f"{group} explains {cell(found, '{:+.4f}'.format)} of the variance more than "
            f"{other}, at an effective L0 of {_l0(own):.1f} against {_l0(theirs):.1f}.",
        )


def _l0(saes: Sequence[_Measured]) -> float:
    """Return the mean L0, the core included."""
    return _mean(
        float((each.core + each.rest).sum() / each.passed.kept.count.sum())
        for each in saes
    )


def _add_losses(
    settings: Distill,
    context: RunContext,
    measured: dict[str, _Measured],
    contexts: int,
) -> None:
    """Add the cross-entropy gap of the first cycle, the last one and the matched SAEs."""
    ends = {cycle_part(1), cycle_part(settings.cycles), MATCHED}
    wanted = {group for group, _, part in _groups(settings) if part in ends}
    clean: Array | None = None
    for subject in context.subjects:
        if subject.group not in wanted:
            continue
        one = measured[subject.sae_id]
        tokens = one.passed.tokens[:contexts].long()
        if clean is None:
            clean = _clean_losses(context, subject, tokens)
        sae = subject.load_flat(context.device)
        measured[subject.sae_id] = replace(
            one,
            gap=patched_losses(context, sae, tokens) - clean,
            predicted=np.full(len(tokens), float(tokens.shape[1] - 1)),
        )


@torch.no_grad()
def _clean_losses(context: RunContext, subject: Subject, tokens: Tensor) -> Array:
    """Return the summed cross-entropy of each context without an SAE."""
    _, model = read_model(context, subject.load(context.device))
    losses = [
        model(batch.to(context.device), return_type="loss", loss_per_token=True)
        for batch in tokens.split(context.batch_size_prompts)
    ]
    return torch.cat(losses).double().sum(1).cpu().numpy()


def _one_or_none(seeds: Sequence[int]) -> int | None:
    return seeds[0] if len(seeds) == 1 else None


def _row(
    group: str,
    seed: int | None,
    figure: str,
    found: Interval,
    *,
    null: float | None = None,
) -> dict[str, Any]:
    values = (group, seed, None, figure, found.value, found.low, found.high, found.n)
    return dict(zip(COLUMNS, (*values, null), strict=True))
