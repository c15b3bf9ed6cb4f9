"""Held-out and latent figures of the SAEs of a study, on text."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.results.subject import Failure
from eval_recipes.results.tidy import frame_of_rows
from eval_recipes.running.artifacts import package_versions
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.heldout_pass import tally_heldout
from eval_recipes.running.plan import digest, subject_hashes
from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from saereg_plugin.sources import corpora

HELDOUT = "heldout"
LATENTS = "latents"
_CATEGORY = "figures"

Figures = dict[str, dict[str, dict[str, Any]]]
"""Values by SAE id, evaluation and figure."""


def measure(
    context: RunContext, target: Path, *, latents: bool = True
) -> tuple[pd.DataFrame, list[Failure]]:
    """
    Return held-out and latent figures of the subjects as tidy rows, and what failed.

    They are read from ``target`` if it is whole and of the same SAEs, text and settings.

    ``latents``: whether to measure the latent figures.
    """
    key = _key(context, latents=latents)
    kept = read_figures(target, key)
    if kept is not None:
        return frame_of_rows(_rows(context, kept)), []
    figures, failures = _measure(context, latents=latents)
    if not failures:
        write_figures(target, key, figures)
    return frame_of_rows(_rows(context, figures)), failures


def _measure(context: RunContext, *, latents: bool) -> tuple[Figures, list[Failure]]:
    table = heldout_of(context)
    failures = [Failure(HELDOUT, name, why) for name, why in table.failures.items()]
    figures: Figures = {}
    for name, found in table.items():
        values = dataclasses.asdict(found)
        values["frac_alive"] = found.alive / found.d_sae
        figures[name] = {HELDOUT: values}
    if latents:
        found, causes = latent_figures(context)
        failures += [Failure(LATENTS, name, why) for name, why in causes.items()]
        for name, values in found.items():
            figures.setdefault(name, {})[LATENTS] = dict(values)
    return figures, failures


def _key(context: RunContext, *, latents: bool) -> str:
    return digest(
        {
            "saes": sorted(
                [*dataclasses.astuple(subject), hashed]
                for subject, hashed in subject_hashes(context).items()
            ),
            "corpus": corpora.identity(context.corpus),
            "heldout_tokens": context.heldout_tokens,
            "dtype": context.dtype,
            "device": context.device,
            "seed": context.seed,
            "latents": latents,
            "packages": package_versions(),
        }
    )


def _rows(context: RunContext, figures: Figures) -> Iterator[dict[str, Any]]:
    for subject in context.subjects:
        for name, values in figures.get(subject.sae_id, {}).items():
            for figure, value in values.items():
                if "_ci_" in figure or figure.endswith("_n"):
                    continue
                yield {
                    "release": subject.release,
                    "group": subject.group,
                    "seed": subject.seed,
                    "sae_id": subject.sae_id,
                    "eval": name,
                    "metric": f"{_CATEGORY}/{figure}",
                    "value": value,
                    "low": values.get(f"{figure}_ci_low"),
                    "high": values.get(f"{figure}_ci_high"),
                    "n": values.get(f"{figure}_n"),
                }


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

    def figures(self) -> dict[str, float | None]:
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
        lambda tally, _: tally.figures(),
    )


def _bias(sae: SAE[Any]) -> Tensor:
    """The bias of the pre-activations; a gated SAE's is that of its magnitudes."""
    parameters = dict(sae.named_parameters())
    return parameters["b_enc" if "b_enc" in parameters else "b_mag"]


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator > 0 else None
