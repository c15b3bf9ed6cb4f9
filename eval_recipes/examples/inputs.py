"""Counts and examples of one SAE's latents along images, clips or arrays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor
from torch.nn.functional import max_pool1d, max_pool2d, pad

from eval_recipes.examples import histogram
from eval_recipes.examples.histogram import Histogram
from eval_recipes.examples.options import ExamplesEvalConfig
from eval_recipes.examples.pile import Floats, Found, Ints, Pile, ranks
from eval_recipes.examples.tally import LARGEST_KEY, OVERHEAD, ExamplesTally, draws
from eval_recipes.running.passes import lengths_of
from saereg_plugin.errors import InputError

MOST_VALUES = 256
"""Activations kept of an example; those of more rows are joined, the largest of each stays."""

ROWS = 1 << 16
"""Numbers that an input's rows take up in ``Found.token``."""

# Latent activations held at once: 2^23 float32 are 32 MiB.
_CHUNK_VALUES = 1 << 23


class RowGrid:
    """
    How the rows of inputs are shown: patches that fill a square in it, others in a line.

    Args:
        rows: of an input.
        square: whether they are patches of an image.
    """

    def __init__(self, rows: int, *, square: bool) -> None:
        self._side = math.isqrt(rows)
        self.is_square = square and rows > 1 and self._side**2 == rows
        self._step = 1
        while self.is_square and self.side**2 > MOST_VALUES:
            self._step += 1
        self.width = self.side**2 if self.is_square else min(rows, MOST_VALUES)

    @property
    def side(self) -> int:
        """Values along one side of the square; 0 in a line."""
        return -(-self._side // self._step) if self.is_square else 0

    def steps(self, lengths: Ints) -> Ints:
        """Return how many rows of each input are joined to one value."""
        if self.is_square:
            return np.full(len(lengths), self._step**2)
        return np.maximum(1, -(-lengths // self.width))

    def joined(self, values: Tensor, lengths: Ints) -> Floats:
        """
        Return the largest activation of the rows that each shown value joins, [n, width].

        Args:
            values: activations [n, rows]; 0 in rows that are not kept.
            lengths: rows of each up to its last kept one, [n].
        """
        if self.is_square and values.shape[1] == self._side**2:
            square = values.view(-1, 1, self._side, self._side)
            pooled = max_pool2d(square, self._step, ceil_mode=True)
            return pooled.flatten(1).numpy()
        found = np.zeros((len(values), self.width), np.float32)
        steps = self.steps(lengths)
        for step in np.unique(steps):
            chosen = np.flatnonzero(steps == step)
            line = values[torch.from_numpy(chosen)][:, None]
            pooled = max_pool1d(line, int(step), ceil_mode=True)[:, 0, : self.width]
            found[chosen] = pad(pooled, (0, self.width - pooled.shape[1])).numpy()
        return found

    def places(self, rows: Ints, lengths: Ints) -> Ints:
        """Return the index of the value that joins each row."""
        if not self.is_square:
            return rows // self.steps(lengths)
        down, right = np.divmod(rows, self._side)
        return down // self._step * self.side + right // self._step


class InputTally(ExamplesTally):
    """
    Density, histogram, sums and examples of every latent; an example is an input.

    An input's activation is the largest of its rows. Its quantile band is among the inputs
    on which the latent is active. Padding counts nowhere.
    """

    def __init__(self, sae: SAE[Any], options: ExamplesEvalConfig) -> None:
        super().__init__(sae, options)
        self.peaks = Histogram(len(self.sums))
        self.grid: RowGrid | None = None
        self._square = _may_fill_square(sae)
        self._inputs = 0

    @property
    def ranked(self) -> Histogram:
        """Counts of the largest activations of inputs."""
        return self.peaks

    def peak_values(self, found: Found) -> Floats:
        """Return the largest activation of each input."""
        return found.window.max(1, initial=0)

    @property
    def shape(self) -> list[int] | None:
        """Rows and columns of the patches in a window; None if they are in a line."""
        if self.grid is None or not self.grid.is_square:
            return None
        return [self.grid.side, self.grid.side]

    def update(self, activations: Tensor, keep: Tensor) -> None:
        """
        Add one batch: activations (inputs, rows, d_in), keep (inputs, rows).

        Raises:
            ValueError: if an activation of a latent is not finite.
            InputError: if inputs have more rows than can be numbered.
        """
        rows = keep.shape[1]
        if rows > ROWS:
            raise InputError(
                f"An input has {rows:,} rows; expected at most {ROWS:,}, which examples can number. Cut "
                "the inputs into shorter ones."
            )
        if self.grid is None:
            self._start(rows)
        at_once = max(1, _CHUNK_VALUES // (rows * len(self.sums)))
        for x, kept in zip(
            activations.split(at_once), keep.split(at_once), strict=True
        ):
            latents = self.encoded(x.flatten(0, 1), kept.flatten())
            self._add_inputs(latents.view(*kept.shape, -1), kept)
            self._inputs += len(x)

    def _start(self, rows: int) -> None:
        """Make the piles, whose width is that of the inputs."""
        self.grid = RowGrid(rows, square=self._square)
        n_latents, width = len(self.sums), self.grid.width
        self.top = Pile(n_latents, self.options.top_examples, width)
        self.drawn = Pile(n_latents, self.options.drawn, width)
        lowest = self.options.band_examples if self.options.bands else 0
        self.lowest = Pile(n_latents, lowest, width)

    def _add_inputs(self, latents: Tensor, keep: Tensor) -> None:
        """Add some inputs, latent activations [inputs, rows, d_sae]."""
        found = (latents > 0).nonzero(as_tuple=True)
        value = latents[found].cpu().numpy()
        number, row, latent = (each.cpu().numpy() for each in found)
        self.histogram.add(latent, value)
        self.sums += np.bincount(latent, value, minlength=len(self.sums))
        # positive floats are in the order of their bits
        order = LARGEST_KEY - value.view(np.int32).astype(np.int64)
        pair = number * len(self.sums) + latent
        first = np.lexsort((row, order, pair))
        peak = first[ranks(pair[first]) == 0]
        number, row, latent, order = (
            each[peak] for each in (number, row, latent, order)
        )
        self.peaks.add(latent, value[peak])
        drawn = draws(latent, self._inputs + number, seed=self.options.random_seed)
        lengths = lengths_of(keep).numpy()
        for pile, key in (
            (self.top, order),
            (self.drawn, drawn),
            (self.lowest, LARGEST_KEY - order),
        ):
            wanted = pile.wants(latent, key)
            place = (number[wanted], row[wanted], latent[wanted])
            self._keep_inputs(pile, key[wanted], place, latents, lengths)

    def _keep_inputs(
        self,
        pile: Pile,
        key: Ints,
        place: tuple[Ints, Ints, Ints],
        latents: Tensor,
        lengths: Ints,
    ) -> None:
        number, row, latent = place
        if len(key) == 0:
            return
        assert self.grid is not None
        index = [torch.from_numpy(each).to(latents.device) for each in (number, latent)]
        values = latents[index[0], :, index[1]].cpu()
        window = self.grid.joined(values, lengths[number])
        pile.add(Found(latent, key, (self._inputs + number) * ROWS + row, window))


def _may_fill_square(sae: SAE[Any]) -> bool:
    """Return whether an SAE read patches, and no map whose height is not its width."""
    metadata: Any = sae.cfg.metadata
    recorded = metadata.get("activation_source") or {}
    return recorded.get("rows") == "patches" and len({*recorded.get("grid", ())}) < 2


def bytes_per_latent(options: ExamplesEvalConfig, rows: int) -> int:
    """Return the memory that a tally along inputs of so many rows takes for each latent."""
    entry = 3 * 8 + 4 * RowGrid(rows, square=False).width
    kept = options.top_examples + options.drawn + options.band_examples
    return 2 * histogram.BYTES + round(OVERHEAD * kept * entry)
