"""Exact selection that rules out latents by a bfloat16 product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch.nn import functional

from saereg_plugin.kernels.bounds import (
    STORED,
    LatentSizes,
    RowSizes,
    error_terms,
    latent_sizes,
    row_sizes,
    upper_norms,
)
from saereg_plugin.kernels.selected import Selected, select_rows, transposed
from saereg_plugin.kernels.top_k import (
    PreActivations,
    batch_selection,
    select_batch_top_k,
    select_top_k,
    top_k_of_all,
)
from saereg_plugin.machine import fast_dtype

_LEAST_INPUTS = 512
_LEAST_LATENTS = 8192
_LEAST_WIDTH_PER_K = 512
_LEAST_ROWS = 2048
"""Fewest rows that were measured; a screen is prepared for each batch, which few rows do not repay."""

_GROUPS = (16, 8, 4, 2, 1)
"""Sizes of the groups of latents whose largest value is compared first."""

_PADDING = -3e38
"""Bias of columns that stand for no latent."""

_BIAS_TERMS = 3
"""Numbers in bfloat16 that add up to a float32."""

_ALIGNMENT = 32
"""Terms of a sum that matrix hardware multiplies together."""

_MAXIMA = 8
"""Groups for each wanted one that show the k-th largest value nearly."""

_OVERFLOW = 1e37
"""Below the largest number of float32 and bfloat16."""

_BLOCK_ROWS = 1024
_BLOCK_ENTRIES = 2**25
_STRIP = 256
_MOST_CANDIDATES = 16
"""Candidates for each latent that is selected, above which a row is computed whole."""

_FEWEST_CANDIDATES = 512


def can_screen(pre: PreActivations, k: float) -> bool:
    """Return whether the selection of ``k`` latents a row can be screened at all."""
    return (
        pre.exact
        and pre.W_enc.dtype == torch.float32
        and pre.sae_in.shape[0] > 0
        and 8 * k <= pre.d_sae
    )


def screening_wins(pre: PreActivations, k: float, *, prepared: bool = False) -> bool:
    """
    Return whether a screened selection is faster, by the size and the device alone.

    The rule is that of the measurements in ``docs/speed.md``. It takes no measurement of
    its own, so that the same run makes the same choice every time. GPUs were not measured.

    Args:
        pre: for which ``can_screen`` holds.
        k: latents to select in a row.
        prepared: whether one screen serves many batches.
    """
    return (
        pre.W_enc.device.type == "cpu"
        and pre.W_enc.shape[0] >= _LEAST_INPUTS
        and pre.d_sae >= max(_LEAST_LATENTS, _LEAST_WIDTH_PER_K * k)
        and (prepared or pre.sae_in.shape[0] >= _LEAST_ROWS)
        and fast_dtype("cpu") == "bfloat16"
    )


@dataclass(frozen=True)
class Screen:
    """
    An encoder in float32 and in bfloat16, and what their difference can amount to.

    Attributes:
        vectors: encoder vectors as rows, times the norms, float32 [d_sae, d_in].
        bias: times the norms, float32 [d_sae].
        coarse: the same in bfloat16 with the bias as further inputs, [columns, terms].
        group: latents of a group; latent j is in group ``j % (columns / group)``.
        sizes: what bounds the error of a group.
        finite: whether all weights are finite.
    """

    vectors: torch.Tensor
    bias: torch.Tensor
    coarse: torch.Tensor
    group: int
    sizes: LatentSizes
    finite: bool

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return self.coarse.shape[0] // self.group

    @classmethod
    def of(cls, pre: PreActivations, k: float) -> Screen:
        """Prepare the weights for a selection of ``k`` latents a row."""
        d_in, d_sae = pre.W_enc.shape
        group = next(size for size in _GROUPS if d_sae >= 4 * k * size)
        columns = -(-d_sae // group) * group
        terms = -(-(d_in + _BIAS_TERMS) // _ALIGNMENT) * _ALIGNMENT
        vectors, bias = transposed(pre.W_enc), pre.b_enc
        coarse = vectors.new_empty(columns, terms, dtype=torch.bfloat16)
        coarse[:, d_in:], coarse[d_sae:] = 0, 0
        norms, lost = vectors.new_zeros(columns), vectors.new_zeros(columns)
        # on the CPU strips stay in the cache, on a GPU each would be several launches
        size = _STRIP if vectors.device.type == "cpu" else d_sae
        for start in range(0, d_sae, size):
            strip = slice(start, min(start + size, d_sae))
            rows = vectors[strip]
            if pre.norms is not None:
                rows *= pre.norms[strip, None]
            rounded = coarse[strip, :d_in].copy_(rows)
            norms[strip] = upper_norms(rows)
            lost[strip] = upper_norms(rows - rounded)
        if pre.norms is not None:
            bias = bias * pre.norms
        padded = functional.pad(bias, (0, columns - d_sae), value=_PADDING)
        _split(padded, coarse[:, d_in : d_in + _BIAS_TERMS])
        sizes = latent_sizes(
            norms, lost, functional.pad(bias, (0, columns - d_sae)), terms
        )
        finite = bool((norms.sum() + bias.sum()).isfinite())
        return cls(vectors, bias, coarse, group, sizes.of_groups(group), finite)

    def inputs(self, sae_in: torch.Tensor) -> torch.Tensor:
        """Return ``sae_in`` [batch, d_in] in bfloat16 with the inputs of the bias."""
        batch, d_in = sae_in.shape
        found = sae_in.new_zeros(batch, self.coarse.shape[1], dtype=torch.bfloat16)
        found[:, :d_in] = sae_in
        found[:, d_in : d_in + _BIAS_TERMS] = 1
        return found

    def bounded(self, rows: RowSizes) -> torch.Tensor:
        """Return the rows whose values can neither be NaN nor infinite, bool [batch]."""
        return rows.norms * self.sizes.norms.max() + self.bias.abs().max() < _OVERFLOW

    def values(self, sae_in: torch.Tensor, selected: Selected) -> torch.Tensor:
        """Return the float32 pre-activations of the selected pairs, [n]."""
        return selected.dots(sae_in, self.vectors) + self.bias[selected.latents]


def _split(values: torch.Tensor, parts: torch.Tensor) -> None:
    """Fill ``parts``, bfloat16 [n, 3], with numbers that add up to ``values`` [n]."""
    left = values
    for part in parts.T:
        part.copy_(left)
        left = left - part.float()


@dataclass(frozen=True)
class _Block:
    """
    Approximate values of some rows, and the bounds of their groups.

    Attributes:
        values: bfloat16 [rows, columns].
        maxima: largest value of each group, float32 [rows, groups]; if none of a group is
            positive, some value of it.
        left, right: matrices whose product bounds the error of the values of each group
            before they are stored, [rows, 3] and [3, groups].
        bounded: rows whose values can neither be NaN nor infinite, bool [rows].
    """

    values: torch.Tensor
    maxima: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    bounded: torch.Tensor

    @classmethod
    def of(cls, screen: Screen, sae_in: torch.Tensor, out: torch.Tensor) -> _Block:
        inputs = screen.inputs(sae_in)
        with _sums_in_float32():
            values = torch.mm(inputs, screen.coarse.T, out=out)
        sizes = row_sizes(sae_in, inputs[:, : sae_in.shape[1]])
        return cls(
            values,
            _some_maxima(values, screen.group),
            *error_terms(sizes, screen.sizes),
            screen.bounded(sizes),
        )

    @property
    def lower(self) -> torch.Tensor:
        """Lower bound of each group's largest value where positive, [rows, groups]."""
        return torch.addmm(
            self.maxima, self.left, self.right, beta=1 - STORED, alpha=-1
        )

    def screened(self, threshold: torch.Tensor) -> torch.Tensor:
        """
        Return the rows where no negative value can reach a threshold, bool [rows].

        Args:
            threshold: [rows] or [].
        """
        largest = self.left @ self.right.amax(dim=1)
        return self.bounded & (threshold > largest)

    def candidates(
        self, threshold: torch.Tensor, screened: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Return row and latent of all entries that may reach a threshold, rows ascending.

        Args:
            threshold: [rows] or [].
            screened: rows to look at, bool [rows].
        """
        n_groups, columns = self.maxima.shape[1], self.values.shape[1]
        threshold = torch.where(screened, threshold, torch.inf)
        upper = torch.addmm(self.maxima, self.left, self.right, beta=1 + STORED)
        found = (upper >= threshold[:, None]).view(-1).nonzero().squeeze(1)
        rows = found // n_groups
        # what the values of these groups must reach
        reach = (1 + STORED) * self.maxima.take(found) - upper.take(found)
        reach += threshold[rows]
        first = found + rows * (columns - n_groups)
        members = torch.arange(0, columns, n_groups, device=found.device)
        positions = first[:, None] + members
        values = self.values.take(positions).float()
        kept = values * (1 + STORED) >= reach[:, None]
        positions = positions[kept]
        rows = rows.repeat_interleave(kept.sum(dim=1), output_size=len(positions))
        return rows, positions - rows * columns


@contextmanager
def _sums_in_float32() -> Iterator[None]:
    """Keep CUDA from adding parts of a sum in bfloat16, which no bound covers."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


def _some_maxima(values: torch.Tensor, group: int) -> torch.Tensor:
    """
    Return the largest of each strided group, float32 [rows, groups].

    If no value of a group is positive, it is any of them: as integers, positive bfloat16
    numbers have the order of their sizes and lie above all negative ones, and integers are
    compared faster.
    """
    rows, columns = values.shape
    bits = values.view(torch.int16).view(rows, group, columns // group)
    return bits.amax(dim=1).view(torch.bfloat16).float()


def screen_top_k(
    pre: PreActivations, k: int, screen: Screen | None = None
) -> tuple[Selected, torch.Tensor]:
    """
    Select as ``select_top_k`` does, with most of the product in bfloat16.

    The k-th largest lower bound of a row's groups is a lower bound of its k-th largest
    value. Only latents whose upper bound reaches it are computed in float32. Rows with many
    such latents are computed whole.

    Args:
        pre: for which ``can_screen`` holds.
        k: at least 1.
        screen: of the weights and k, if it was made for an earlier batch.

    Returns:
        The selection and its entries of the matrix, [n]; negative ones stay.
    """
    screen = screen or Screen.of(pre, k)
    if not screen.finite:
        return select_top_k(pre, k)
    batch = pre.sae_in.shape[0]
    latents = torch.empty(batch, k, dtype=torch.int64, device=pre.sae_in.device)
    values = pre.sae_in.new_empty(batch, k)
    whole = torch.ones(batch, dtype=torch.bool, device=pre.sae_in.device)
    for part, selected, few in _candidates(pre.sae_in, k, screen):
        exact = screen.values(pre.sae_in[part], selected)
        values[part], latents[part] = _largest(exact, selected, k)
        whole[part] = ~few
    left = whole.nonzero().squeeze(1)
    if len(left):
        rest, found = select_top_k(replace(pre, sae_in=pre.sae_in[left]), k)
        latents[left], values[left] = rest.latents.view(-1, k), found.view(-1, k)
    latents, order = latents.sort(dim=1)
    return select_rows(latents, pre.d_sae), values.gather(1, order).view(-1)


def _kth_at_least(values: torch.Tensor, k: int) -> torch.Tensor:
    """
    Return a number that the k-th largest of each row of ``values`` is not below, [rows].

    It is the k-th largest of the maxima of groups: nearly the same where there are many
    groups for each that is wanted.
    """
    rows, n = values.shape
    while n % 2 == 0 and n >= 2 * _MAXIMA * k:
        values, n = values.view(rows, 2, n // 2).amax(dim=1), n // 2
    return values.topk(k, dim=1, sorted=False).values.amin(dim=1)


def most_candidates(k: float) -> int:
    """Return the most latents of a row that are computed one by one."""
    return max(_FEWEST_CANDIDATES, int(_MOST_CANDIDATES * k))


def candidate_counts(pre: PreActivations, k: int) -> torch.Tensor:
    """
    Return how many latents of each row are computed in float32, int64 [batch].

    That is d_sae for rows that are computed whole.

    Args:
        pre: for which ``can_screen`` holds.
        k: at least 1.
    """
    screen = Screen.of(pre, k)
    counts = torch.full((pre.sae_in.shape[0],), pre.d_sae)
    if screen.finite:
        for part, selected, few in _candidates(pre.sae_in, k, screen):
            found = selected.row_offsets.diff()
            counts[part] = torch.where(few, found, pre.d_sae).cpu()
    return counts


def _candidates(
    sae_in: torch.Tensor, k: int, screen: Screen
) -> Iterator[tuple[slice, Selected, torch.Tensor]]:
    """
    Yield blocks of rows, their candidates, and which rows have few enough, bool [rows].

    Other rows have no candidates.
    """
    columns, d_sae = screen.coarse.shape[0], len(screen.bias)
    rows = max(1, min(len(sae_in), _BLOCK_ROWS, _BLOCK_ENTRIES // columns))
    buffer = screen.coarse.new_empty(rows, columns)
    for start in range(0, len(sae_in), rows):
        part = slice(start, min(start + rows, len(sae_in)))
        block = _Block.of(screen, sae_in[part], buffer[: part.stop - start])
        threshold = _kth_at_least(block.lower, k)
        screened = block.screened(threshold)
        owners, latents = block.candidates(threshold, screened)
        counts = torch.bincount(owners, minlength=part.stop - start)
        few = screened & (counts <= most_candidates(k))
        if not bool(few.all()):
            latents, counts = latents[few[owners]], counts * few
        offsets = functional.pad(counts.cumsum(0), (1, 0))
        yield part, Selected(latents, offsets, d_sae), few


def _largest(
    values: torch.Tensor, selected: Selected, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return the k largest of each row's pairs and their latents, [batch, k].

    Rows without pairs are filled with -inf.
    """
    rows = selected.rows
    widest = max(k, int(selected.row_offsets.diff().max()))
    places = torch.arange(len(rows), device=rows.device) - selected.row_offsets[rows]
    places += rows * widest
    table = values.new_full((selected.batch, widest), -torch.inf)
    table.view(-1).index_copy_(0, places, values)
    names = torch.zeros_like(table, dtype=torch.int64)
    names.view(-1).index_copy_(0, places, selected.latents)
    top = table.topk(k, dim=1, sorted=False)
    return top.values, names.gather(1, top.indices)


def screen_batch_top_k(
    pre: PreActivations, count: int, screen: Screen | None = None
) -> tuple[Selected, torch.Tensor]:
    """
    Select as ``select_batch_top_k`` does, with most of the product in bfloat16.

    The threshold is a lower bound for the whole batch. Rows whose bound exceeds it, such as
    those of very large inputs, are computed whole.

    Args:
        pre: for which ``can_screen`` holds with ``count / batch``.
        count: at least 1.
        screen: of the weights and ``count / batch``, if it was made for an earlier batch.

    Returns:
        The selection and its entries of the matrix, [n]; fewer than ``count`` if fewer are
        positive.
    """
    batch = pre.sae_in.shape[0]
    screen = screen or Screen.of(pre, count / batch)
    # what it needed is free again before a batch is computed whole
    found = _batch_candidates(pre, count, screen) if screen.finite else None
    if found is None:
        return select_batch_top_k(pre, count)
    return batch_selection(*found, count, (batch, pre.d_sae))


def _batch_candidates(
    pre: PreActivations, count: int, screen: Screen
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """
    Return values and flat positions of all entries that may be selected, [n] each.

    None if there are so many that the batch had better be computed whole.
    """
    batch = pre.sae_in.shape[0]
    out = screen.coarse.new_empty(batch, screen.coarse.shape[0])
    block = _Block.of(screen, pre.sae_in, out)
    lower = top_k_of_all(block.lower, count)[0]
    if not bool(block.bounded.all()) or len(lower) < count:
        return None
    threshold = lower.min()
    screened = block.screened(threshold)
    rows, latents = block.candidates(threshold, screened)
    left = (~screened).nonzero().squeeze(1)
    if len(left) > batch // 4 or len(rows) > most_candidates(count / batch) * batch:
        return None
    counts = torch.bincount(rows, minlength=batch)
    selected = Selected(latents, functional.pad(counts.cumsum(0), (1, 0)), pre.d_sae)
    values = screen.values(pre.sae_in, selected)
    positions = rows * pre.d_sae + latents
    if len(left):
        (matrix,) = replace(pre, sae_in=pre.sae_in[left]).blocks(len(left))
        own, columns = (matrix >= threshold).nonzero(as_tuple=True)
        values = torch.cat([values, matrix[own, columns]])
        positions = torch.cat([positions, left[own] * pre.d_sae + columns])
    return values, positions
