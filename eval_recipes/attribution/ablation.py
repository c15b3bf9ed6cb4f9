"""Changes of loss and logits when single latents are removed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from eval_recipes.attribution.cores import Cores, Figures
from eval_recipes.attribution.options import AttributionEvalConfig
from eval_recipes.attribution.passes import LossPasses
from eval_recipes.attribution.tally import Entries, EntryTally
from eval_recipes.statistics.blocks import blocks_of
from eval_recipes.statistics.interval import Interval
from eval_recipes.statistics.ranks import permuted_correlation, rank_correlation
from eval_recipes.statistics.seeds import bootstrap_mean_interval
from saereg_plugin.finetuning.frozen_model import CleanPass
from saereg_plugin.metrics.ablation import ablation_sparsity

PERMUTATIONS = 2000


@dataclass(frozen=True)
class Ablated:
    """
    Sampled latents and what their removal does.

    Attributes:
        latents: int64 [n].
        contexts: in how many contexts each was removed, int64 [n].
        share: of all contexts in which each fires, float64 [n].
        predicted: rise of the summed loss of a context, mean over them, to first order,
            float64 [n].
        true: the measured rise, float64 [n].
        sparsity: ablation sparsity, float64 [n]; NaN where there is none.
        sparsity_random: the same of random directions of equal length.
    """

    latents: Tensor
    contexts: Tensor
    share: Tensor
    predicted: Tensor
    true: Tensor
    sparsity: Tensor
    sparsity_random: Tensor


def sample_latents(cores: Cores, n: int, *, seed: int) -> Tensor:
    """
    Return ``n`` latents that fire, or all if there are fewer, int64.

    One is drawn of each of n equal parts of the ranking by score. Equal scores are ranked by
    contribution.
    """
    ids = cores.fires.nonzero().flatten()
    for name in ("contribution", "score"):
        ids = ids[cores.values[name][ids].argsort(descending=True, stable=True)]
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        ids[part][torch.randint(part.stop - part.start, (), generator=generator)]
        for part in blocks_of(len(ids), n)
    ]
    return torch.stack(drawn) if drawn else ids


@torch.no_grad()
def ablate(
    passes: LossPasses,
    tally: EntryTally,
    entries: Entries,
    cores: Cores,
    options: AttributionEvalConfig,
) -> Ablated:
    """Remove sampled latents, one at a time, at all tokens of a context or at one token."""
    latents = sample_latents(cores, options.n_latents, seed=options.random_seed)
    removal = _Removal(passes, tally, entries, options)
    true = torch.zeros(len(latents), dtype=torch.float64)
    predicted, share = true.clone(), true.clone()
    times = torch.zeros(len(latents), dtype=torch.int64)
    jobs: list[tuple[int, int]] = []
    for number, latent in enumerate(latents.tolist()):
        chosen, fires = removal.contexts_of(latent)
        jobs += [(context, number) for context in chosen]
        times[number], share[number] = len(chosen), fires / entries.n_contexts
        for context in chosen:
            effects = entries.effects[removal.entries_of(latent, context)]
            predicted[number] -= float(effects.double().sum())
    for batch in _batches(sorted(jobs), max(2, passes.at_once)):
        rises = removal.rises([(int(latents[n]), context) for context, n in batch])
        for (_, number), rise in zip(batch, rises, strict=True):
            true[number] += rise
    sparsity, by_chance = removal.sparsities(latents)
    n = times.clamp(min=1)
    return Ablated(latents, times, share, predicted / n, true / n, sparsity, by_chance)


def _batches(jobs: list[tuple[int, int]], size: int) -> list[list[tuple[int, int]]]:
    """Cut jobs (context, latent) such that each part and its contexts are ``size`` at most."""
    parts: list[list[tuple[int, int]]] = []
    for job in jobs:
        last = [*parts[-1], job] if parts else []
        if last and len(last) + len({context for context, _ in last}) <= size:
            parts[-1] = last
        else:
            parts.append([job])
    return parts


class _Removal:
    """Passes of the model without single latents of one SAE."""

    def __init__(
        self,
        passes: LossPasses,
        tally: EntryTally,
        entries: Entries,
        options: AttributionEvalConfig,
    ) -> None:
        self._passes, self._tally, self._entries = passes, tally, entries
        self._options = options
        self._generator = torch.Generator().manual_seed(options.random_seed)
        order = torch.randperm(entries.n_contexts, generator=self._generator)
        # latents are removed in the same contexts where they can be, which saves passes
        self._turn = order.argsort()
        self._first_row = functional.pad(passes.counts.cumsum(0), (1, 0))
        by_latent = entries.codes.latents.argsort(stable=True)
        counts = entries.codes.counts()
        self._of_latent = by_latent.split(counts.tolist())

    def contexts_of(self, latent: int) -> tuple[list[int], int]:
        """Return contexts in which a latent is removed, and in how many it fires."""
        found = self._entries.entry_contexts[self._of_latent[latent]].unique()
        chosen = found[self._turn[found].argsort()][: self._options.ablation_contexts]
        return chosen.tolist(), len(found)

    def entries_of(self, latent: int, context: int) -> Tensor:
        """Return the entries of a latent in a context, int64."""
        own = self._of_latent[latent]
        return own[self._entries.entry_contexts[own] == context]

    def rises(self, jobs: list[tuple[int, int]]) -> list[float]:
        """Return the rise of a context's summed loss without a latent, for (latent, context)."""
        passes = self._passes
        known = list(dict.fromkeys(context for _, context in jobs))
        contexts = known + [context for _, context in jobs]
        # with and without a latent in one pass, whose rounding is then the same
        clean = passes.clean(passes.tokens[contexts])
        rows = self._base(clean)
        firsts = functional.pad(clean.keep.sum(1).cumsum(0), (1, 0)).cpu()
        for number, (latent, context) in enumerate(jobs):
            entries = self.entries_of(latent, context)
            places = self._places(entries, context) + firsts[len(known) + number]
            rows[places.to(rows.device)] -= self._contributions(entries).to(rows.device)
        losses = passes.losses(clean, passes.with_rows(clean, rows)).cpu()
        return [
            float(losses[len(known) + number] - losses[known.index(context)])
            for number, (_, context) in enumerate(jobs)
        ]

    def sparsities(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean ablation sparsity of latents, and of random directions, float64."""
        options, entries = self._options, self._entries
        total = torch.zeros(2, len(latents), dtype=torch.float64)
        drawn: list[Tensor] = []
        owners: list[int] = []
        for number, latent in enumerate(latents.tolist()):
            own = self._of_latent[latent]
            order = torch.randperm(len(own), generator=self._generator)
            chosen = own[order[: options.sparsity_places]]
            drawn.append(chosen)
            owners += [number] * len(chosen)
        if not owners:
            return total[0] * torch.nan, total[1] * torch.nan
        chosen, owner = torch.cat(drawn), torch.tensor(owners)
        turn = entries.entry_contexts[chosen].argsort(stable=True)
        chosen, owner = chosen[turn], owner[turn]
        for part, of in zip(
            chosen.split(self._at_once), owner.split(self._at_once), strict=True
        ):
            total.index_add_(1, of, self._sparsities(part))
        times = torch.bincount(owner, minlength=len(latents))
        mean = total / times
        return mean[0], mean[1]

    @property
    def _at_once(self) -> int:
        # logits with and without a latent, and their difference
        return max(1, self._passes.at_once // 2)

    def _sparsities(self, entries: Tensor) -> Tensor:
        """Return the sparsity at each entry, and of a random direction, float64 [2, n]."""
        passes = self._passes
        contexts = self._entries.entry_contexts[entries]
        clean = passes.clean(passes.tokens[contexts])
        base = passes.with_rows(clean, self._base(clean))
        places = [
            int(clean.keep[number].nonzero()[self._places(entry, int(context))])
            for number, (entry, context) in enumerate(
                zip(entries, contexts, strict=True)
            )
        ]
        own = self._contributions(entries)
        noise = torch.randn(own.shape, generator=self._generator)
        length = own.norm(dim=1, keepdim=True)
        noise = functional.normalize(noise, dim=1) * length.cpu()
        before = passes.logits(clean, base)

        def logits(of_sae: Tensor) -> Tensor:
            # it asks for both again for each set of directions
            unchanged = torch.equal(of_sae, base)
            return before if unchanged else passes.logits(clean, of_sae)

        where = torch.stack([torch.arange(len(entries)), torch.tensor(places)], 1)
        return torch.stack(
            [
                ablation_sparsity(
                    logits,
                    base,
                    where.to(base.device),
                    directions.to(base.device),
                    future_tokens=self._options.future_tokens,
                    at_once=len(entries),
                )
                for directions in (own, noise)
            ]
        )

    def _base(self, clean: CleanPass) -> Tensor:
        """Return the rows from which latents are removed, float32 [rows, d_in]."""
        rows = self._passes.rows(clean)
        if self._options.at == "activations":
            return rows.clone()
        return self._tally.reconstructed(rows).to(rows.device)

    def _places(self, entries: Tensor, context: int) -> Tensor:
        """Return the row of each entry, counted in its context."""
        return self._entries.codes.images[entries] - self._first_row[context]

    def _contributions(self, entries: Tensor) -> Tensor:
        """Return ``z_j d_j`` of each entry, [n, d_in]."""
        codes = self._entries.codes
        directions = self._tally.directions
        rows = directions[codes.latents[entries].to(directions.device)]
        return codes.values[entries].to(rows)[:, None] * rows


def ablation_figures(
    found: Ablated, cores: Cores, options: AttributionEvalConfig
) -> Figures:
    """Return rank correlations over the sampled latents, and means of the sparsity."""
    figures: Figures = {"rho": rank_correlation(found.predicted, found.true, options)}
    chance = permuted_correlation(
        found.predicted,
        found.true,
        permutations=PERMUTATIONS,
        seed=options.random_seed,
    )
    n = len(found.latents)
    reason = "the 95 % quantile of |rho| over permutations"
    figures["rho_chance"] = (
        None if chance is None else Interval(chance, None, None, n, reason)
    )
    # a latent's effect on any context, not only on those where it fires
    size = (found.true * found.share).abs()
    for name, values in cores.values.items():
        figures[f"rho_{name}"] = rank_correlation(values[found.latents], size, options)
    sparsities = {
        "sparsity": found.sparsity,
        "sparsity_random": found.sparsity_random,
        "sparsity_excess": found.sparsity - found.sparsity_random,
    }
    for name, of_latents in sparsities.items():
        values = of_latents[of_latents.isfinite()]
        figures[name] = None
        if len(values):
            figures[name] = bootstrap_mean_interval(
                [values.numpy()],
                n_resamples=options.n_resamples,
                seed=options.random_seed,
            )
    return figures
