"""Writer of the table of examples that ``reader`` describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from eval_recipes.examples.inputs import ROWS, InputTally
from eval_recipes.examples.logits import ExtremeLogits
from eval_recipes.examples.pile import Floats, Found, Ints, joined, ranks
from eval_recipes.examples.reader import EXAMPLES, LOWEST, TOP
from eval_recipes.examples.tally import ExamplesTally
from eval_recipes.results.subject import Subject
from eval_recipes.running.passes import Inputs

_TOP = 0
"""Rank of the top examples' band; the quantile bands follow, the highest first."""


class Chosen(NamedTuple):
    """Examples of all latents, sorted by latent, band and activation."""

    found: Found
    band: Ints
    activation: Floats


def band_names(n: int) -> list[str]:
    """
    Return the names of bands by rank: the top, then quantiles from the highest.

    >>> band_names(4)
    ['top', '75-100 %', '50-75 %', '25-50 %', '0-25 %']
    """
    edges = [round(100 * edge / n) for edge in range(n + 1)]
    quantiles = [f"{low}-{high} %" for low, high in zip(edges, edges[1:])]
    return [TOP, *reversed(quantiles)]


def chosen_examples(tally: ExamplesTally) -> Chosen:
    """
    Return the examples of an SAE after the last batch.

    Of those drawn, a band shows the first that the top or the lowest do not show already.
    """
    options = tally.options
    top, drawn, lowest = (
        pile.found() for pile in (tally.top, tally.drawn, tally.lowest)
    )
    lowest = lowest.at(~_is_among(lowest, top))
    drawn = drawn.at(~_is_among(drawn, joined([top, lowest])))
    value = tally.peak_values(drawn)
    rank = options.bands - tally.ranked.bands(drawn.latent, value, options.bands or 1)
    shown = np.argsort(drawn.latent * (options.bands + 1) + rank, kind="stable")
    drawn, rank = drawn.at(shown), rank[shown]
    first = ranks(drawn.latent * (options.bands + 1) + rank) < options.band_examples
    every = joined([top, drawn.at(first), lowest])
    ends = np.full(len(top.key), _TOP), np.full(len(lowest.key), options.bands + 1)
    band = np.concatenate([ends[0], rank[first], ends[1]])
    activation = tally.peak_values(every)
    order = np.lexsort((every.token, -activation, band, every.latent))
    return Chosen(every.at(order), band[order], activation[order])


def _is_among(found: Found, others: Found) -> NDArray[np.bool_]:
    """Return which latent and token are among others."""
    n_latents = 1 + max(found.latent.max(initial=0), others.latent.max(initial=0))
    mine, theirs = (each.token * n_latents + each.latent for each in (found, others))
    return np.isin(mine, theirs)


def examples_table(
    tally: ExamplesTally,
    chosen: Chosen,
    examples: Any,
    *,
    n_tokens: int,
    logits: ExtremeLogits,
    spelling: Any,
    subject: Subject,
    **settings: Any,
) -> Any:
    """
    Return the ``pyarrow.Table`` of one SAE.

    Args:
        tally: after the last batch.
        chosen: examples of all latents.
        examples: their column, of ``text_examples`` or ``input_examples``.
        n_tokens: tokens that are not special, or rows that are no padding.
        logits: of each latent.
        spelling: ids of tokens [n] -> their texts.
        subject: the SAE.
        settings: what else the table says of itself.
    """
    active = tally.histogram.counts.sum(1, dtype=np.int64)
    fires = active > 0
    maxima = np.zeros(len(active))
    np.maximum.at(maxima, chosen.found.latent, chosen.activation.astype(np.float64))
    edges, counts = tally.histogram.linear(maxima)
    mean = tally.sums / np.maximum(active, 1)
    columns = {
        "latent": pa.array(np.arange(len(active))),
        "active": pa.array(active),
        "density": pa.array(active / n_tokens),
        "mean_activation": pa.array(mean, mask=~fires),
        "max_activation": pa.array(maxima, mask=~fires),
        "histogram_edges": pa.array(edges, pa.list_(pa.float64())),
        "histogram_counts": pa.array(counts, pa.list_(pa.int64())),
        "top_tokens": _spelled(logits.top_ids, spelling),
        "top_logits": _rows(logits.top),
        "bottom_tokens": _spelled(logits.bottom_ids, spelling),
        "bottom_logits": _rows(logits.bottom),
        "examples": examples,
    }
    return EXAMPLES.of(columns, subject, tokens=n_tokens, **settings)


def text_examples(
    tally: ExamplesTally, chosen: Chosen, tokens: Tensor, spelling: Any
) -> Any:
    """
    Return the list of examples of each latent, with the text around them.

    Args:
        tally: after the last batch.
        chosen: of all latents.
        tokens: ids of the text, (contexts, tokens).
        spelling: ids of tokens [n] -> their texts.
    """
    options = tally.options
    size = tokens.shape[1]
    context, position = np.divmod(chosen.found.token, size)
    offsets = np.arange(-options.tokens_before, options.tokens_after + 1)
    places = position[:, None] + offsets
    inside = (places >= 0) & (places < size)
    ids = tokens.numpy()[context[:, None], places.clip(0, size - 1)][inside]
    starts = _offsets(inside.sum(1))
    names = pa.array(band_names(options.bands or 1))
    fields = {
        "band": pa.DictionaryArray.from_arrays(chosen.band.astype(np.int32), names),
        "activation": pa.array(chosen.activation),
        "peak": pa.array(np.minimum(position, options.tokens_before)),
        "tokens": pa.ListArray.from_arrays(starts, _texts(ids, spelling)),
        "values": pa.ListArray.from_arrays(
            starts, pa.array(chosen.found.window[inside])
        ),
        "context": pa.array(context),
        "position": pa.array(position),
    }
    return _by_latent(fields, chosen, len(tally.sums))


def input_examples(tally: InputTally, chosen: Chosen, inputs: Inputs) -> Any:
    """
    Return the list of examples of each latent, with the activations of their rows.

    Args:
        tally: after the last batch.
        chosen: of all latents.
        inputs: that the SAE saw.
    """
    assert tally.grid is not None
    place, row = np.divmod(chosen.found.token, ROWS)
    lengths = inputs.lengths.numpy()[place]
    shown = -(-lengths // tally.grid.steps(lengths))
    if tally.grid.is_square:
        shown = np.full(len(lengths), tally.grid.width)
    inside = np.arange(tally.grid.width) < shown[:, None]
    names = pa.array([*band_names(tally.options.bands or 1), LOWEST])
    no_tokens = pa.ListArray.from_arrays(
        _offsets(np.zeros(len(place), int)), pa.array([], pa.string())
    )
    fields = {
        "band": pa.DictionaryArray.from_arrays(chosen.band.astype(np.int32), names),
        "activation": pa.array(chosen.activation),
        "peak": pa.array(tally.grid.places(row, lengths)),
        "tokens": no_tokens,
        "values": pa.ListArray.from_arrays(
            _offsets(shown), pa.array(chosen.found.window[inside])
        ),
        "context": pa.array(inputs.numbers.numpy()[place]),
        "position": pa.array(row),
    }
    return _by_latent(fields, chosen, len(tally.sums))


def _by_latent(fields: Mapping[str, Any], chosen: Chosen, n_latents: int) -> Any:
    """Return examples, which are sorted by latent, as a list for each latent."""
    structs = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
    counts = np.bincount(chosen.found.latent, minlength=n_latents)
    return pa.ListArray.from_arrays(_offsets(counts), structs)


def _offsets(counts: NDArray[np.integer[Any]]) -> Any:
    return pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())


def _rows(values: NDArray[Any]) -> Any:
    """Return a matrix as a list per row."""
    return pa.ListArray.from_arrays(
        _offsets(np.full(len(values), values.shape[1])), pa.array(values.ravel())
    )


def _spelled(ids: NDArray[np.int64], spelling: Any) -> Any:
    return pa.ListArray.from_arrays(
        _offsets(np.full(len(ids), ids.shape[1])), _texts(ids.ravel(), spelling)
    )


def _texts(ids: NDArray[np.integer[Any]], spelling: Any) -> Any:
    """Return the texts of tokens; each text is stored once."""
    known, place = np.unique(ids, return_inverse=True)
    # several ids may have one text; parquet pads a dictionary that repeats values with
    # whatever was in memory
    texts = pa.array(spelling(known), pa.string()).dictionary_encode()
    place = texts.indices.to_numpy()[place]
    return pa.DictionaryArray.from_arrays(place.astype(np.int32), texts.dictionary)
