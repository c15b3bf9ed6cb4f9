"""Sources of Neuronpedia: SAEs with their latents from results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from sae_lens import SAE

from eval_recipes.cross_seed.stability import read_stability
from eval_recipes.examples.reader import (
    EVAL,
    TEXT,
    LatentExamples,
    SAEExamples,
    read_examples,
)
from eval_recipes.results.files import result_name
from eval_recipes.results.reading import read_result, result_files
from eval_recipes.saebench.autointerp.figures import Explanation, read_explanations
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.releases.neuronpedia_id import NeuronpediaId, neuronpedia_id
from saereg_plugin.releases.release import Entry, Release


@dataclass(frozen=True)
class Source:
    """One SAE with what the results know of its latents."""

    id: NeuronpediaId
    release: Release
    entry: Entry
    examples: SAEExamples
    made: int
    """Time of the examples' result, in milliseconds of the epoch."""
    stability: pd.DataFrame | None = None
    """Table of cross_seed, if there is one."""
    explanations: Mapping[int, Explanation] = field(
        default_factory=dict[int, Explanation]
    )
    """Of autointerp, by latent."""

    @cached_property
    def sae(self) -> SAE[Any]:
        """The SAE itself, on the CPU."""
        return self.release.load(self.entry.sae_id)

    @cached_property
    def living(self) -> list[int]:
        """Latents that fired; Neuronpedia takes none without an example."""
        scalars = self.examples.scalars()
        return [int(index) for index in scalars.loc[scalars["active"] > 0, "latent"]]

    @property
    def n_dead(self) -> int:
        """Latents that are left out."""
        return len(self.examples) - len(self.living)

    @property
    def other_seeds(self) -> list[str]:
        """Seeds with which the stability was measured."""
        if self.stability is None:
            return []
        found = (str(name) for name in self.stability.columns)
        return [
            name.removeprefix("shared_")
            for name in found
            if name.startswith("shared_") and not name.startswith("shared_alive_")
        ]

    def latent(self, index: int) -> LatentExamples:
        """Return one latent's examples."""
        return self.examples.latent(index)

    def stability_note(self, index: int) -> str:
        """Return words on a latent's stability and its matches; empty if not measured."""
        if self.stability is None:
            return ""
        row = self.stability.iloc[index]
        shared = sum(bool(row[f"shared_{seed}"]) for seed in self.other_seeds)
        matches = [_match(row, seed) for seed in self.other_seeds]
        return (
            f"Shared by {shared} of {len(self.other_seeds)} other seeds"
            f" ({'; '.join(matches)})"
        )


def _match(row: Any, seed: str) -> str:
    """Return words on the latent of another seed that matches best."""
    partner = row[f"decoder_partner_{seed}"]
    if pd.isna(partner):
        return f"seed {seed}: no match"
    kind = "latent" if bool(row[f"shared_{seed}"]) else "not shared, nearest"
    cosines = [row[f"{side}_similarity_{seed}"] for side in ("decoder", "encoder")]
    decoder, encoder = (f"{value:.2f}" for value in cosines)
    return f"seed {seed}: {kind} {int(partner)}, cosine {decoder} decoder, {encoder} encoder"


def open_sources(
    results: Path,
    release: Release,
    *,
    sae_ids: Sequence[str] = (),
    model: str | None = None,
) -> list[Source]:
    """
    Return the SAEs of a release that have examples in a results folder.

    Args:
        results: results of ``examples``; those of ``cross_seed`` and ``autointerp`` are used
            where they are there.
        release: an opened release.
        sae_ids: only these.
        model: the model's name on Neuronpedia, instead of one made from its own.

    Raises:
        InputError: if an SAE is unknown, none has examples, a result is damaged, or two SAEs
            would have one name on Neuronpedia.
    """
    for sae_id in sae_ids:
        if sae_id not in release.ids:
            raise InputError(
                f"No SAE {sae_id!r} in release {release.name!r}. {suggest(sae_id, release.ids)}"
            )
    paths = result_files(results)
    found = [
        source
        for entry in release.entries
        if not sae_ids or entry.sae_id in sae_ids
        if (source := _open(paths, release, entry, model)) is not None
    ]
    if not found:
        raise InputError(
            f"Folder {str(results)!r} has no result of {EVAL!r} of an SAE of release "
            f"{release.name!r}. Run 'saereg-bench run --evals {EVAL}' on the release into it."
        )
    _require_unique(found)
    return found


def _open(
    paths: Sequence[Path], release: Release, entry: Entry, model: str | None
) -> Source | None:
    """Return one SAE, or None if it has no examples."""
    name = result_name(release.name, entry.sae_id)
    own = {path.parent.name: path for path in paths if path.name == name}
    if EVAL not in own:
        return None
    examples = read_examples(own[EVAL])
    settings = examples.settings
    if examples.kind != TEXT:
        raise InputError(
            f"SAE {entry.sae_id!r} reads {examples.kind}; expected SAEs on a language model, which alone "
            "Neuronpedia shows. Leave it out with --sae-id."
        )
    found = neuronpedia_id(
        release.name,
        entry.sae_id,
        model=model or str(settings["model"]),
        hook_name=str(settings["hook_name"]),
    )
    crossed, explained = own.get("cross_seed"), own.get("autointerp")
    made = int(read_result(own[EVAL])["datetime_epoch_millis"])
    source = Source(found, release, entry, examples, made)
    if crossed is not None:
        source = replace(source, stability=_stability(crossed, examples))
    if explained is not None:
        source = replace(source, explanations=read_explanations(explained))
    return source


def _stability(path: Path, examples: SAEExamples) -> pd.DataFrame:
    table = read_stability(path)
    if len(table) != len(examples):
        raise InputError(
            f"Result {str(path)!r} is of {len(table)} latents, but the examples are of "
            f"{len(examples)}; expected results of one SAE. Run both evaluations again."
        )
    return table.sort_values("latent", ignore_index=True)


def _require_unique(sources: Sequence[Source]) -> None:
    """Refuse SAEs whose ids differ only in what Neuronpedia's names leave out."""
    by_name: dict[str, str] = {}
    for source in sources:
        other = by_name.setdefault(str(source.id), source.entry.sae_id)
        if other != source.entry.sae_id:
            raise InputError(
                f"SAEs {other!r} and {source.entry.sae_id!r} would both be {str(source.id)!r} on "
                "Neuronpedia; expected one. Export them one by one with --sae-id into folders of "
                "their own."
            )
