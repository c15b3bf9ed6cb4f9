"""Rows of Neuronpedia's tables, as its bulk import reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from eval_recipes.examples.reader import Example, LatentExamples
from eval_recipes.neuronpedia.limits import (
    LONGEST_DESCRIPTION,
    explanation_text,
    feature,
    logits,
    quantile,
    significant,
    visible,
)
from eval_recipes.neuronpedia.source import Source
from saereg_plugin.errors import InputError
from saereg_plugin.sources.hook_shapes import model_facts

LOCAL_CREATOR = "clkht01d40000jv08hvalcvly"
"""User of a new local Neuronpedia, who owns what is imported."""
NEIGHBOURS = 10
"""Latents of the same SAE listed as the most similar."""
_CHUNK = 2048


@dataclass(frozen=True)
class Owner:
    """User whom the rows name."""

    id: str = LOCAL_CREATOR
    """Of a user in Neuronpedia's database."""
    name: str = "saereg-plugin"


def release_row(source: Source, owner: Owner) -> dict[str, Any]:
    """Return the row of the release."""
    return {
        "name": source.release.name,
        "description": source.release.name,
        "descriptionShort": source.release.name,
        "urls": [],
        "creatorName": owner.name,
        "creatorNameShort": owner.name,
        "creatorId": owner.id,
        "visibility": "PUBLIC",
        "createdAt": _made(source),
    }


def model_row(source: Source, owner: Owner) -> dict[str, Any]:
    """Return the row of the language model."""
    return {
        "id": source.id.model,
        "instruct": False,
        "displayName": source.id.model,
        "displayNameShort": source.id.model,
        "creatorId": owner.id,
        "visibility": "PUBLIC",
        "inferenceEnabled": False,
        "layers": layers(source),
        "neuronsPerLayer": 0,
        "owner": "",
        "createdAt": _made(source),
        "updatedAt": _made(source),
    }


def layers(source: Source) -> int:
    """Return the model's number of layers, or those up to the SAE's if it is not known here."""
    least = source.id.layer + 1
    try:
        return max(least, model_facts(str(source.examples.settings["model"])).layers)
    except InputError:
        # the model may be out of reach, and Neuronpedia needs no more layers than this
        return least


def set_row(source: Source, owner: Owner) -> dict[str, Any]:
    """Return the row of the set, which holds this SAE alone."""
    return {
        "modelId": source.id.model,
        "name": source.id.set_name,
        "description": description(source),
        "type": "",
        "creatorName": owner.name,
        "creatorId": owner.id,
        "urls": [],
        "releaseName": source.release.name,
        "visibility": "PUBLIC",
        "hasDashboards": True,
        "createdAt": _made(source),
    }


def description(source: Source) -> str:
    """Return a line on an SAE, of at most 128 characters."""
    hook = source.examples.settings["hook_name"]
    return f"{source.entry.sae_id}, {hook}"[:LONGEST_DESCRIPTION]


def source_row(source: Source, owner: Owner) -> dict[str, Any]:
    """
    Return the row of the SAE.

    ``saelensConfig`` is SAELens' configuration with ``metadata.neuronpedia_id``. The files of
    the release do not have it, since the release records their hashes.
    """
    settings = source.examples.settings
    context = settings.get("context_size")
    prompts = -(-int(settings["tokens"]) // int(context)) if context else None
    config = source.sae.cfg.to_dict()
    config["metadata"] = {**config["metadata"], "neuronpedia_id": str(source.id)}
    return {
        "id": source.id.source,
        "modelId": source.id.model,
        "setName": source.id.set_name,
        "creatorId": owner.id,
        "hasDashboards": True,
        "inferenceEnabled": False,
        "saelensConfig": config,
        "saelensRelease": source.release.name,
        "saelensSaeId": source.entry.sae_id,
        "visibility": "PUBLIC",
        "dataset": str(settings.get("corpus", "")),
        "num_prompts": prompts,
        "num_tokens_in_prompt": context,
        "notes": notes(source),
        "createdAt": _made(source),
    }


def notes(source: Source) -> str:
    """Return what there is no field for: dead latents, and how stability was measured."""
    lines = [
        f"SAE {source.entry.sae_id} of release {source.release.name}, group "
        f"{source.entry.group}, seed {source.entry.seed}; written by saereg-plugin "
        f"{version('saereg-plugin')}.",
        f"{source.n_dead} of {len(source.examples)} latents fired on none of "
        f"{source.examples.settings['tokens']} held-out tokens and are left out.",
    ]
    if source.stability is not None:
        mean = float(source.stability["stability"].mean())
        lines.append(
            f"Stability: share of the other seeds ({', '.join(source.other_seeds)}) that have the "
            f"latent, matched by cosines of decoder and encoder; mean over latents {mean:.3f}. "
            "Each latent's matches are in its explanation."
        )
    return "\n".join(lines)


def batch_rows(
    source: Source, owner: Owner, indices: Sequence[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Return the rows of features, activations and explanations of some latents.

    Raises:
        InputError: if a latent is over a limit of Neuronpedia's.
    """
    features: list[dict[str, Any]] = []
    activations: list[dict[str, Any]] = []
    explanations: list[dict[str, Any]] = []
    decoder = source.sae.W_dec.detach().float()
    near = neighbours(decoder, indices, source.living)
    vectors = significant(decoder[list(indices)].numpy())
    for index, similar, vector in zip(indices, near, vectors, strict=True):
        latent = source.latent(index)
        # the limits of the REST interface are those of the pages
        feature(source, latent)
        features.append(_feature(source, owner, latent, similar, vector))
        activations += _activations(source, owner, latent)
        explanations += _explanations(source, owner, index)
    return features, activations, explanations


def neighbours(
    decoder: Tensor, indices: Sequence[int], among: Sequence[int]
) -> Iterator[list[tuple[int, float]]]:
    """
    Yield the most similar other latents of each latent, by cosine of the decoder rows.

    Args:
        decoder: rows [d_sae, d_in].
        indices: latents.
        among: latents to choose from.
    """
    unit = torch.nn.functional.normalize(decoder, dim=1)
    others = torch.tensor(list(among))
    for start in range(0, len(indices), _CHUNK):
        own = torch.tensor(list(indices[start : start + _CHUNK]))
        cosines = unit[own] @ unit[others].T
        cosines[own[:, None] == others] = -2
        count = min(NEIGHBOURS, len(others) - 1)
        best = cosines.topk(count, dim=1)
        for values, places in zip(best.values, best.indices, strict=True):
            yield list(zip(others[places].tolist(), significant(values.numpy())))


def _feature(
    source: Source,
    owner: Owner,
    latent: LatentExamples,
    similar: Sequence[tuple[int, float]],
    vector: list[float],
) -> dict[str, Any]:
    edges = latent.histogram_edges
    return {
        **_place(source, latent.latent),
        "creatorId": owner.id,
        "createdAt": _made(source),
        "sourceSetName": source.id.set_name,
        "maxActApprox": latent.max_activation,
        "frac_nonzero": latent.density,
        "hasVector": True,
        "vector": vector,
        "vectorLabel": None,
        "vectorDefaultSteerStrength": latent.max_activation,
        "hookName": source.examples.settings["hook_name"],
        "topkCosSimIndices": [index for index, _ in similar],
        "topkCosSimValues": [value for _, value in similar],
        **_logits("pos", latent.top_logits),
        **_logits("neg", latent.bottom_logits),
        "freq_hist_data_bar_heights": latent.histogram_counts,
        "freq_hist_data_bar_values": [
            (low + high) / 2 for low, high in zip(edges, edges[1:])
        ],
    }


def _logits(side: str, found: Sequence[tuple[str, float]]) -> dict[str, Any]:
    kept = logits(found)
    return {
        f"{side}_str": [one["token"] for one in kept],
        f"{side}_values": [one["value"] for one in kept],
    }


def _activations(
    source: Source, owner: Owner, latent: LatentExamples
) -> Iterator[dict[str, Any]]:
    for number, example in enumerate(latent.examples):
        values = significant(example.values)
        highest = max(values)
        yield {
            "id": _id(source, f"activation {latent.latent} {number}"),
            **_place(source, latent.latent),
            "tokens": [visible(token) for token in example.tokens],
            "values": values,
            "maxValue": highest,
            "maxValueTokenIndex": values.index(highest),
            "minValue": min(values),
            **_bin(latent, example),
            "qualifyingTokenIndex": example.peak,
            "dataIndex": f"context {example.context}, token {example.position}",
            "dataSource": str(source.examples.settings.get("corpus", "")),
            "creatorId": owner.id,
            "createdAt": _made(source),
        }


def _bin(latent: LatentExamples, example: Example) -> dict[str, float]:
    """Return the interval of activations that an example is of; -1 marks the top examples."""
    bounds = quantile(latent, example.band) or (-1.0, -1.0, -1.0)
    return dict(zip(("binMin", "binMax", "binContains"), bounds, strict=True))


def _explanations(source: Source, owner: Owner, index: int) -> list[dict[str, Any]]:
    text = explanation_text(source, index)
    if not text:
        return []
    return [
        {
            "id": _id(source, f"explanation {index}"),
            **_place(source, index),
            "authorId": owner.id,
            "description": text,
            "notes": source.stability_note(index) or None,
            "createdAt": _made(source),
        }
    ]


def _place(source: Source, index: int) -> dict[str, str]:
    return {
        "modelId": source.id.model,
        "layer": source.id.source,
        "index": str(index),
    }


def _id(source: Source, what: str) -> str:
    """Return an id that is the same in each export, in the form of Neuronpedia's own."""
    digest = hashlib.sha256(f"{source.id} {source.made} {what}".encode()).hexdigest()
    return f"c{digest[:24]}"


def _made(source: Source) -> str:
    """Return the time of the examples, so that equal results give equal bytes."""
    when = datetime.fromtimestamp(source.made / 1000, timezone.utc)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
