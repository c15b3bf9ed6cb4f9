"""Latents that fired in a step, for dense and sparse activations."""

from __future__ import annotations

import torch

from saereg_plugin.component import Step


def firing_counts(step: Step) -> torch.Tensor:
    """
    Return in how many rows of the batch each latent is above 0, int64 [d_sae].

    The same for a dense step, a sparse one, and SAELens' sparse activations
    (``use_sparse_activations``) of the same values.
    """
    d_sae = step.sae.cfg.d_sae
    fired = _fired_pairs(step)
    if fired is not None:
        return torch.bincount(fired, minlength=d_sae)
    return (step.feature_acts.detach() > 0).reshape(-1, d_sae).sum(dim=0)


def fired_latents(step: Step) -> torch.Tensor:
    """Return which latents are above 0 in at least one row of the batch, bool [d_sae]."""
    d_sae = step.sae.cfg.d_sae
    fired = _fired_pairs(step)
    if fired is not None:
        mask = torch.zeros(d_sae, dtype=torch.bool, device=fired.device)
        return mask.index_fill_(0, fired, True)
    # the largest value of a column: no matrix of comparisons
    return step.feature_acts.detach().reshape(-1, d_sae).amax(dim=0) > 0


def dense(acts: torch.Tensor) -> torch.Tensor:
    """Return SAELens' activations as a dense matrix (``use_sparse_activations`` makes others)."""
    return acts.to_dense() if acts.is_sparse else acts


def _fired_pairs(step: Step) -> torch.Tensor | None:
    """Return the latent of each (row, latent) that fired, or None if activations are dense."""
    if step.active is not None:
        return step.active.selected.latents[step.active.acts.detach() > 0]
    acts = step.feature_acts.detach()
    if not acts.is_sparse:
        return None
    acts = acts.coalesce()
    return acts.indices()[-1][acts.values() > 0]
