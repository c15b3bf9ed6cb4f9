"""Pictures of the MNIST study."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from eval_recipes.studies.mnist.finished import KEPT_SHARES
from eval_recipes.studies.mnist.pairs import Group
from eval_recipes.tables.plots import save_png
from saereg_plugin.metrics import ALIVE_THRESHOLD, encoder_decoder_cosines

SHOWN_LATENTS = 12
_SIDE = 28
_KEPT_COLUMNS = 3
_NO_IMAGES = 0.3

PICTURES = ("encoder-decoder-cosines.png", "shared-latents.png", "kept-latents.png")
"""Files of ``draw_pictures``."""


def draw_pictures(groups: Sequence[Group], folder: Path) -> None:
    """Write the three pictures of a study's settings into ``folder``."""
    draws = (_cosine_histograms, _shared_latents, _kept)
    for name, draw in zip(PICTURES, draws, strict=True):
        save_png(draw(groups), folder / name, dpi=110)


def _cosine_histograms(groups: Sequence[Group]) -> Figure:
    """Draw the encoder-decoder cosines of every SAE, one panel per setting."""
    figure = Figure(figsize=(7, 1.9 * len(groups)), layout="constrained")
    bins = np.linspace(-1, 1, 101).tolist()
    for number, group in enumerate(groups):
        axes = figure.add_subplot(len(groups), 1, number + 1)
        for one in group.members:
            cosines = encoder_decoder_cosines(one.weights.enc, one.weights.dec)
            axes.hist(
                cosines.numpy(), bins, histtype="step", label=f"seed {one.run.seed}"
            )
        axes.axvline(ALIVE_THRESHOLD, color="grey", linestyle=":")
        axes.set_yscale("log")
        axes.set_title(group.setting.label, fontsize="medium")
        axes.set_ylabel("latents")
        axes.legend(fontsize="small", loc="upper left")
        if number == len(groups) - 1:
            axes.set_xlabel("cosine of encoder and decoder (dotted: alive above)")
    return figure


def _shared_latents(groups: Sequence[Group]) -> Figure:
    """
    Draw the most shared latents' decoder vectors as images, one row per seed.

    Columns are latents of a setting's first seed that all its pairs share, by falling
    least similarity; below each its partners in the other seeds. Signs are as they are;
    each image has its own scale, symmetric around 0.
    """
    shown = [most_shared(group) for group in groups]
    # a setting without shared latents is one line of text
    heights = [
        len(group.members) if len(chosen) else _NO_IMAGES
        for group, chosen in zip(groups, shown)
    ]
    figure = Figure(
        figsize=(SHOWN_LATENTS * 0.8, 0.9 * sum(heights) + 0.4 * len(groups)),
        layout="constrained",
    )
    grid = figure.add_gridspec(len(groups), 1, height_ratios=heights)
    for index, (group, chosen) in enumerate(zip(groups, shown)):
        panel = figure.add_subfigure(grid[index])
        panel.suptitle(
            f"{group.setting.label}: {chosen.shape[0]} shared latents shown",
            fontsize="medium",
        )
        for row, one in enumerate(group.members):
            for column, partners in enumerate(chosen):
                number = row * SHOWN_LATENTS + column + 1
                axes = panel.add_subplot(len(group.members), SHOWN_LATENTS, number)
                image = one.weights.dec[partners[row]].reshape(_SIDE, _SIDE).numpy()
                scale = float(np.abs(image).max()) or 1.0
                axes.imshow(image, cmap="RdBu_r", vmin=-scale, vmax=scale)
                axes.axis("off")
    return figure


def most_shared(group: Group) -> Tensor:
    """
    Return latent ids [shown, seeds] of one latent in every seed, most similar first.

    Its partners in the other seeds are also shared with each other. Empty without a pair.
    Similarity is the least of encoder's and decoder's over the pairs with the first seed.
    """
    first, *others = (one.run.seed for one in group.members)
    if not others:
        return torch.empty(0, 1, dtype=torch.int64)
    matches = [group.pairs[first, other].match for other in others]
    shared = torch.stack([match.shared for match in matches]).all(dim=0)
    partners = dict(zip(others, (match.decoder.partner for match in matches)))
    for low, high in combinations(others, 2):
        between = group.pairs[low, high].match
        mine = partners[low]
        shared &= between.shared[mine] & (
            between.decoder.partner[mine] == partners[high]
        )
    least = torch.stack(
        [torch.minimum(m.decoder.similarity, m.encoder.similarity) for m in matches]
    ).amin(dim=0)
    ranked = least.masked_fill(~shared, -1.0).argsort(descending=True, stable=True)
    chosen = ranked[: min(SHOWN_LATENTS, int(shared.sum()))]
    return torch.stack(
        [chosen, *(match.decoder.partner[chosen] for match in matches)], dim=1
    )


def _kept(groups: Sequence[Group]) -> Figure:
    """Draw the error against the share of latents kept: a panel per setting, a line per seed."""
    rows = -(-len(groups) // _KEPT_COLUMNS)
    figure = Figure(figsize=(10, 2.6 * rows), layout="constrained")
    panels = figure.subplots(
        rows, _KEPT_COLUMNS, sharex=True, sharey=True, squeeze=False
    ).flatten()
    for axes, group in zip(panels, groups):
        for one in group.members:
            found = one.evaluation
            drawn = np.mean(found.random_mse, axis=0)
            for curve, style, label in (
                (found.kept_mse, "C0.-", "most aligned"),
                (drawn, "C1.:", "at random"),
                (found.without_mse[:-1], "C2.--", "all but the most aligned"),
            ):
                shares = KEPT_SHARES[: len(curve)]
                named = label if one is group.members[0] else None
                axes.plot(shares, curve, style, linewidth=1, label=named)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.set_title(group.setting.label, fontsize="medium")
    for axes in panels[len(groups) :]:
        axes.axis("off")
    for axes in panels[max(0, len(groups) - _KEPT_COLUMNS) : len(groups)]:
        axes.tick_params(labelbottom=True)
    figure.supxlabel("share of latents, by size of the encoder-decoder cosine")
    figure.supylabel("mean squared error")
    place = "center" if len(panels) > len(groups) else "best"
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc=place)
    return figure
