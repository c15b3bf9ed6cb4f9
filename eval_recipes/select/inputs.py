"""Latents that separate texts, images or clips read through a source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from sae_lens import SAE
from torch import Tensor

from eval_recipes.select.separation import Method, Selection, Sides, separate
from eval_recipes.statistics.interval import Array
from saereg_plugin.activations.opening import open_source
from saereg_plugin.activations.source import InputSource, Pass
from saereg_plugin.checks import require_choice
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.inputs import Split

Mean = Literal["active", "all"]
"""
How the rows of an input become one vector.

- ``active``: each latent's mean over the rows where it is not zero (arXiv 2606.07473).
- ``all``: over all rows, as steering's ``--select contrast``.
"""

_USUAL: dict[Method, Mean] = {"auroc": "all", "logistic": "active"}


def select_latents(
    sae: SAE[Any],
    first: Iterable[Pass] | InputSource,
    second: Iterable[Pass] | InputSource,
    *,
    point: str | None = None,
    method: Method = "auroc",
    mean: Mean | None = None,
    n: int = 25,
    sides: Sides = "both",
    permutations: int = 100,
    seed: int = 0,
) -> Selection:
    """
    Choose the latents that best separate two sets of inputs.

    Args:
        sae: the SAE of these activations.
        first: inputs with the target property: a source, or passes.
        second: inputs without it.
        point: place in the model; by default the only one of the passes.
        method: ``auroc`` or ``logistic``; see ``separate``.
        mean: how rows become one vector; by default ``active`` for ``logistic``, else ``all``.
        n: most latents.
        sides: whether latents that are smaller on the first set count as well.
        permutations: of the labels, for p-values.
        seed: of the halves and the permutations.

    Raises:
        InputError: for an unknown point, method or mean, or too few inputs.
    """
    require_choice("method", method, get_args(Method))
    how = _USUAL[method] if mean is None else mean
    require_choice("mean", how, get_args(Mean))
    vectors = [
        input_vectors(sae, one, point=point, mean=how) for one in (first, second)
    ]
    return separate(
        *vectors, method=method, n=n, sides=sides, permutations=permutations, seed=seed
    )


def select_by_data(
    sae: SAE[Any],
    first: str,
    second: str,
    *,
    split: Split = "train",
    device: str = "cpu",
    **options: Any,
) -> Selection:
    """
    Choose the latents of a vision or audio SAE that separate two data sets.

    Args:
        sae: an SAE of a module that is opened by name.
        first: data by name or a folder, with the target property.
        second: data without it.
        split: part of the data that is read.
        device: of the model.
        options: see ``select_latents``.

    Raises:
        InputError: if the SAE's source cannot be opened by name, or the data cannot be read.
    """
    sets = [_own_source(sae, data, split, device) for data in (first, second)]
    return select_latents(sae, *sets, point=sae.cfg.metadata.hook_name, **options)


def _own_source(sae: SAE[Any], data: str, split: Split, device: str) -> InputSource:
    """Return the SAE's own source on other data."""
    recorded: Mapping[str, Any] = sae.cfg.metadata.get("activation_source") or {}
    settings = recorded.get("config")
    if recorded.get("kind") != "module" or settings is None:
        raise InputError(
            f"The SAE was trained on {recorded.get('kind')!r} activations that no name opens; "
            "expected those of a module by name, or of a language model. Call select_latents with "
            "your sources instead."
        )
    given = {**settings, "data": data, "point": sae.cfg.metadata.hook_name}
    source = open_source(given, split=split, device=device)
    assert isinstance(source, InputSource)
    return source


@torch.no_grad()
def input_vectors(
    sae: SAE[Any],
    inputs: Iterable[Pass] | InputSource,
    *,
    point: str | None = None,
    mean: Mean = "active",
) -> Array:
    """
    Return one vector of latents per input, float64 (inputs, d_sae), in the order of the passes.

    Rows that are padding or special tokens are left out.

    Raises:
        InputError: for an unknown point.
    """
    passes = (
        inputs.passes(torch.arange(inputs.n_inputs))
        if isinstance(inputs, InputSource)
        else inputs
    )
    found = [
        _vector(sae, rows[kept], mean)
        for one in passes
        for rows, kept in zip(
            one.activations[_point(one, point)], one.keep, strict=True
        )
    ]
    return np.stack(found) if found else np.zeros((0, sae.cfg.d_sae))


def _vector(sae: SAE[Any], rows: Tensor, mean: Mean) -> Array:
    """Return the vector of one input's rows (n, d_in), of zeros if there is no row."""
    codes = sae.encode(rows.to(sae.device, sae.dtype)).cpu().double()
    codes = codes.to_dense() if codes.layout != torch.strided else codes
    count = (codes != 0).sum(0) if mean == "active" else torch.tensor(len(codes))
    return (codes.sum(0) / count.clamp(min=1)).numpy()


def _point(one: Pass, point: str | None) -> str:
    points = list(one.activations)
    if point is None and len(points) == 1:
        return points[0]
    if point not in points:
        raise InputError(
            f"point is {point!r}; expected one of the passes' points. "
            f"{suggest(str(point), points)}"
        )
    return str(point)
