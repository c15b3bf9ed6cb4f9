"""Texts, labels, SAE and features of one order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_lens import SAE

from eval_recipes.data_order.features import Features, read_features
from eval_recipes.data_order.options import OrderOptions
from eval_recipes.data_order.texts import Labels, Texts, read_labels, read_texts
from eval_recipes.running.activation_source import source_of
from eval_recipes.running.context import RunContext
from eval_recipes.steering.generate.backend import in_residual_stream
from eval_recipes.steering.generate.language_model import language_model
from eval_recipes.steering.options import SteeringEvalConfig
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.files import sha256
from saereg_plugin.releases.opening import register_release


@dataclass(frozen=True)
class Inputs:
    """Texts, their labels, and ``about``: plain JSON that identifies both."""

    texts: Texts
    labels: Labels
    about: dict[str, Any]


@dataclass(frozen=True)
class TextSAE:
    """An SAE of a language model, and its id."""

    sae_id: str
    sae: SAE[Any]


def read_inputs(
    texts: Path,
    labels: Path | None,
    *,
    difficulty: str,
    quality: str,
    options: OrderOptions,
) -> Inputs:
    """
    Read texts and labels; see ``read_texts`` and ``read_labels``.

    Raises:
        InputError: for unusable texts or labels, or more clusters than half of the texts.
    """
    found = read_texts(texts)
    if options.clusters is not None and options.clusters > len(found) // 2:
        raise InputError(
            f"clusters={options.clusters} of {len(found)} texts; expected at most "
            f"{len(found) // 2}. Ask for fewer, or leave it out."
        )
    about: dict[str, Any] = {"texts": str(texts), "texts_sha256": sha256(texts)}
    if labels is None:
        return Inputs(found, Labels.none(len(found)), about)
    known = read_labels(labels, found, difficulty=difficulty, quality=quality)
    about |= {"labels": str(labels), "labels_sha256": sha256(labels)}
    return Inputs(found, known, about)


def load_subject(
    release: str, sae_id: str | None, *, device: str, allow_pickle: bool = False
) -> TextSAE:
    """
    Load an SAE of a release that reads a language model.

    Args:
        release: a folder, or a public name.
        sae_id: the SAE; None if the release has one.
        device: of the SAE.
        allow_pickle: see ``open_release``.

    Raises:
        InputError: for an unknown release or SAE, several SAEs and none named, an SAE of another
            kind of activations, one whose metadata name no model, or one outside the residual stream.
    """
    found = register_release(release, allow_pickle=allow_pickle)
    if sae_id is None:
        if len(found.ids) != 1:
            raise InputError(
                f"Release {release!r} has {len(found.ids)} SAEs; expected --sae-id. "
                f"{suggest('', found.ids)}"
            )
        sae_id = found.ids[0]
    sae = found.load(sae_id, device=device)
    if sae.cfg.metadata.get("activation_source"):
        raise InputError(
            f"SAE {sae_id!r} reads no language model on text; expected one that does. Name "
            "another with --sae-id."
        )
    # refuses metadata without a model or hook
    source = source_of(sae, context_size=sae.cfg.metadata.context_size or 1)
    if not in_residual_stream(source.hook_name):
        raise InputError(
            f"SAE {sae_id!r} reads hook {source.hook_name!r}; expected one in the residual stream, such "
            "as 'blocks.4.hook_resid_post', where texts can be read. Name another with --sae-id."
        )
    return TextSAE(sae_id, sae)


def read_all(
    subject: TextSAE, texts: Texts, options: OrderOptions, *, device: str
) -> Features:
    """
    Load the model that an SAE reads, and return the features of all texts.

    Raises:
        InputError: if the model cannot be loaded, or lacks the hook.
    """
    context = RunContext(subjects=[], out=Path(), device=device)
    model = language_model(context, subject.sae, SteeringEvalConfig())
    return read_features(
        model,
        subject.sae,
        texts.texts,
        pool=options.pool,
        most_tokens=options.most_tokens,
    )
