"""What a study needs of latents on held-out text: what TopK drops, how tokens change them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import Passed, tally_heldout

_ROWS = 4096


class LatentTally:
    """
    Running sums of one SAE over held-out text, special tokens left out.

    With ``a = relu(pre-activation)`` and z what the SAE keeps of it:

    - ``off_support_share``: sum (a - z) / sum a, where z is 0 (arXiv 2606.27321);
    - ``l1_l2_ratio``: mean over tokens of ||a||_1 / ||a||_2;
    - ``token_change``: sum ||z_t - z_(t-1)||^2 / sum (||z_t||^2 + ||z_(t-1)||^2) over
      neighbouring tokens of a context: 0 if nothing changes, 1 if nothing stays;
    - ``support_change``: the same of which latents are active.
    """

    def __init__(self, sae: SAE[Any]) -> None:
        if sae.hook_z_reshaping_mode:
            sae.turn_off_forward_pass_hook_z_reshaping()
        self.sae = sae
        self._sums: defaultdict[str, float] = defaultdict(float)

    @torch.no_grad()
    def update(self, activations: Tensor, keep: Tensor) -> None:
        """Add activations (contexts, tokens, d_in); ``keep`` is False at special tokens."""
        contexts = max(1, _ROWS // activations.shape[1])
        for x, kept in zip(
            activations.split(contexts), keep.split(contexts), strict=True
        ):
            latents = self._add_tokens(x.flatten(0, 1), kept.flatten())
            self._add_pairs(latents.unflatten(0, x.shape[:2]), kept)

    def _add_tokens(self, x: Tensor, kept: Tensor) -> Tensor:
        x = x.to(self.sae.dtype)
        latents = self.sae.encode(x)
        latents = (latents.to_dense() if latents.is_sparse else latents).float()
        a = torch.relu(self.sae.process_sae_in(x) @ self.sae.W_enc + _bias(self.sae))
        a = a.float()[kept]
        dropped = a.masked_fill(latents[kept] > 0, 0.0)
        norms = a.norm(dim=-1)
        fires = norms > 0
        self._add("dropped", dropped.sum())
        self._add("all", a.sum())
        self._add("ratio", (a.sum(-1)[fires] / norms[fires]).sum())
        self._add("tokens", fires.sum())
        return latents

    def _add_pairs(self, latents: Tensor, keep: Tensor) -> None:
        """Add neighbouring tokens of latents (contexts, tokens, d_sae)."""
        both = (keep[:, 1:] & keep[:, :-1]).to(latents.device)
        now, before = latents[:, 1:][both], latents[:, :-1][both]
        self._add("changed", (now - before).square().sum())
        self._add("squares", now.square().sum() + before.square().sum())
        on, was_on = now > 0, before > 0
        self._add("support_changed", (on ^ was_on).sum())
        self._add("supports", on.sum() + was_on.sum())

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] += float(value.double())

    def figures(self, _: Passed) -> dict[str, float | None]:
        """Return the figures; None where nothing fired."""
        sums = self._sums
        return {
            "off_support_share": _ratio(sums["dropped"], sums["all"]),
            "l1_l2_ratio": _ratio(sums["ratio"], sums["tokens"]),
            "token_change": _ratio(sums["changed"], sums["squares"]),
            "support_change": _ratio(sums["support_changed"], sums["supports"]),
        }


def latent_figures(
    context: RunContext,
) -> tuple[dict[str, dict[str, float | None]], dict[str, str]]:
    """Return the figures of every subject by SAE id, and causes where there are none."""
    return tally_heldout(
        context,
        context.subjects,
        lambda _, sae: LatentTally(sae),
        lambda tally, passed: tally.figures(passed),
    )


def _bias(sae: SAE[Any]) -> Tensor:
    """The bias of the pre-activations; a gated SAE's is that of its magnitudes."""
    bias = getattr(sae, "b_enc", None)
    return bias if isinstance(bias, Tensor) else sae.b_mag  # pyright: ignore[reportReturnType]


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
