"""Two sets of texts, and the mean activations of latents on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE

from eval_recipes.running.context import RunContext
from eval_recipes.select.halves import FEWEST_INPUTS
from eval_recipes.select.inputs import select_latents
from eval_recipes.select.separation import Selection
from eval_recipes.statistics.interval import Array
from eval_recipes.steering.generate.language_model import (
    LanguageModel,
    language_model,
    residuals,
)
from eval_recipes.steering.options import SteeringEvalConfig
from saereg_plugin.activations.passes import Pass
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256


@dataclass(frozen=True)
class TextSets:
    """Texts with the target property and texts without it."""

    a: tuple[str, ...]
    b: tuple[str, ...]

    @classmethod
    def read(cls, paths: Sequence[str]) -> TextSets:
        """
        Read two files, one text per line; empty lines and repeated texts are left out.

        Raises:
            InputError: if a file cannot be read or has too few texts, or they share a text.
        """
        a, b = (_lines(Path(path)) for path in paths)
        others = set(b)
        both = [text for text in a if text in others]
        if both:
            raise InputError(
                f"{len(both)} texts stand in {str(paths[0])!r} and in {str(paths[1])!r}, such "
                f"as {both[0][:60]!r}; expected different texts. Leave them out of one."
            )
        return cls(a, b)


def identity(paths: Sequence[str]) -> list[str]:
    """Return the SHA-256 of both files; raises InputError if a file is missing."""
    for path in paths:
        if not Path(path).is_file():
            raise InputError(
                f"File {path!r} does not exist; expected texts, one a line, for 'contrast'."
            )
    return [sha256(Path(path)) for path in paths]


@torch.no_grad()
def mean_activations(
    model: LanguageModel, sae: SAE[Any], texts: Sequence[str]
) -> Array:
    """
    Return each latent's mean activation over a text's tokens, shape (text, d_sae).

    Special tokens are left out; texts are cut at 128 tokens. A text of special tokens alone
    has zeros.
    """
    metadata = sae.cfg.metadata
    hook_name, prepend_bos = metadata.hook_name, metadata.prepend_bos is not False
    assert hook_name is not None
    found: list[Array] = []
    for vectors, kept in residuals(model, texts, hook_name, prepend_bos=prepend_bos):
        latents = sae.encode(vectors.to(sae.device, sae.dtype)).float().cpu()
        latents = latents.to_dense() if latents.layout != torch.strided else latents
        total = (latents * kept[..., None]).sum(1)
        mean = total / kept.sum(1, keepdim=True).clamp(min=1)
        found.append(mean.numpy().astype(np.float64))
    return np.concatenate(found)


def select_by_texts(
    sae: SAE[Any], first: str, second: str, *, device: str = "cpu", **options: Any
) -> Selection:
    """
    Choose the latents of a language model's SAE that separate two files of texts, one a line.

    ``options`` are those of ``select_latents``.

    Raises:
        InputError: if a file cannot be read or has too few texts, before the model is loaded.
    """
    sets = TextSets.read((first, second))
    context = RunContext(subjects=[], out=Path(), device=device)
    model = language_model(context, sae, SteeringEvalConfig())
    passes = [text_passes(model, sae, texts) for texts in (sets.a, sets.b)]
    return select_latents(sae, *passes, point=sae.cfg.metadata.hook_name, **options)


def text_passes(
    model: LanguageModel, sae: SAE[Any], texts: Sequence[str]
) -> Iterator[Pass]:
    """Yield passes over texts at an SAE's hook; special tokens do not count."""
    metadata, first = sae.cfg.metadata, 0
    hook_name, prepend_bos = metadata.hook_name, metadata.prepend_bos is not False
    assert hook_name is not None
    for vectors, keep in residuals(model, texts, hook_name, prepend_bos=prepend_bos):
        inputs = torch.arange(first, first + len(vectors))
        yield Pass({hook_name: vectors}, keep, inputs)
        first += len(vectors)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"File {str(path)!r} cannot be read ({error}); expected texts in UTF-8, one a line."
        ) from error
    texts = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(texts) < FEWEST_INPUTS:
        raise InputError(
            f"File {str(path)!r} has {len(texts)} different texts; expected {FEWEST_INPUTS} or "
            "more, one a line: half of them select latents, half of them measure."
        )
    return texts
