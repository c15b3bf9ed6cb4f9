"""Results of one folder as the report page reads them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from eval_recipes.results.differences import GroupDifference, load_group_differences
from eval_recipes.results.files import read_results
from eval_recipes.results.outdated import are_outdated, outdated_notes
from eval_recipes.results.reading import SUFFIX, read_result, result_files
from eval_recipes.results.tidy import (
    architecture,
    frame_of,
    one_line,
    penalty,
    saereg_block,
)
from eval_recipes.tables.colours import group_colours
from eval_recipes.tables.table import group_names
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import Entry, Release, read_release

Record = dict[str, Any]


@dataclass(frozen=True)
class PageSAE:
    """One SAE of the page; ``label`` names it there and is unique."""

    release: str
    sae_id: str
    label: str
    group: str
    seed: int | None
    architecture: str | None
    penalty: str | None
    cfg: Mapping[str, Any] = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Release and id, as a tidy table has them."""
        return self.release, self.sae_id


@dataclass(frozen=True)
class Source:
    """
    What a page is made of.

    Attributes:
        folder: folder of the results.
        frame: tidy table of all results; groups are named as on the page.
        records: results with their paths, in the order of the paths.
        damaged: why files cannot be read, by path.
        saes: SAEs in the order of group and seed.
        differences: differences between groups.
        releases: named releases that SAEs of the results are from.
        outdated: notes on outdated results.
        trouble: what else could not be read, and named releases of other SAEs.
        csv: the tidy table as ``summary.csv`` has it, without damaged files.
    """

    folder: Path
    frame: pd.DataFrame
    records: list[tuple[Path, Record]]
    damaged: Mapping[Path, str]
    saes: list[PageSAE]
    differences: list[GroupDifference]
    releases: list[Release]
    outdated: list[str]
    trouble: list[str]
    csv: str = field(repr=False)

    @cached_property
    def groups(self) -> list[str]:
        """Names of the groups, in alphabetical order."""
        return sorted({sae.group for sae in self.saes})

    @cached_property
    def colours(self) -> dict[str, str]:
        """Colour of each group."""
        return group_colours(self.groups)

    @cached_property
    def evaluations(self) -> list[str]:
        """``eval_type_id`` of every evaluation with a result, in the order of the files."""
        return list(dict.fromkeys(self.frame["eval"]))

    @cached_property
    def entries(self) -> dict[tuple[str, str], tuple[Release, Entry]]:
        """Every SAE of the named releases, by release and id."""
        return {
            key: (release, entry)
            for release in self.releases
            for key, entry in entries_of(release)
        }

    def told(self, error: InputError | str) -> str:
        """Return a message in one line, with paths relative to the folder of the results."""
        return one_line(str(error).replace(f"{self.folder}/", "")) or ""

    def of(self, group: str) -> list[PageSAE]:
        """Return the SAEs of a group."""
        return [sae for sae in self.saes if sae.group == group]

    def results(self, evaluation: str) -> Iterator[tuple[PageSAE, Path, Record]]:
        """Yield SAE, path and record of each result of an evaluation."""
        known = {sae.key: sae for sae in self.saes}
        for path, record in self.records:
            if record["eval_type_id"] == evaluation:
                yield known[_key(record)], path, record


def read_source(
    results: Path,
    releases: Iterable[Path | Release] = (),
    *,
    may_be_empty: bool = False,
) -> Source:
    """
    Read a folder of results, this package's or SAEBench's own.

    Files that cannot be read are listed in ``damaged``. A release of which no SAE has a result
    is left out and named in ``trouble``.

    ``may_be_empty``: whether a page without results is of use.

    Raises:
        InputError: if there is no such folder, no readable result (unless it may be empty), two different results of
            one SAE, or no such release.
    """
    opened = [
        one if isinstance(one, Release) else read_release(one) for one in releases
    ]
    damaged = _damaged(results)
    found = list(read_results(results, without=damaged))
    records = [(path, _named(path, record)) for path, record in found]
    if not records and not may_be_empty:
        raise InputError(_nothing(results, damaged))
    saes = _saes(records)
    known, trouble = _known(opened, saes)
    frame, outdated, unknown = _marked(
        frame_of(record for _, record in records), results
    )
    csv = frame.to_csv(index=False)
    groups = {sae.key: sae.group for sae in saes}
    frame["group"] = [groups[key] for key in zip(frame["release"], frame["sae_id"])]
    return Source(
        folder=results,
        frame=frame,
        records=records,
        damaged=damaged,
        saes=saes,
        differences=list(_differences(results, damaged, saes)),
        releases=known,
        outdated=outdated,
        trouble=[*trouble, *unknown],
        csv=csv,
    )


def extra_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the unstructured part of a result; empty where it is no mapping."""
    return mapping(record.get("eval_result_unstructured"))


def mapping(value: Any) -> dict[str, Any]:
    """Return a mapping of a result; empty where it holds something else."""
    return value if isinstance(value, dict) else {}


def numbers(value: Any) -> list[float] | None:
    """Return a list of finite numbers; None where a result holds something else."""
    if not isinstance(value, list) or not all(map(_is_number, value)):
        return None
    return [float(one) for one in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _damaged(results: Path) -> dict[Path, str]:
    found: dict[Path, str] = {}
    for path in result_files(results):
        try:
            read_result(path)
        except InputError as error:
            found[path] = str(error)
    return found


def _nothing(results: Path, damaged: Mapping[Path, str]) -> str:
    if damaged:
        first = next(iter(damaged.values()))
        return (
            f"Folder {str(results)!r} holds {len(damaged)} result files and none of them can be "
            f"read; expected at least one. The first: {first}"
        )
    return (
        f"Folder {str(results)!r} holds no results; expected files named '*{SUFFIX}', in it "
        "or in folders below. Write some with 'saereg-bench run --out'."
    )


def entries_of(release: Release) -> Iterator[tuple[tuple[str, str], Entry]]:
    """Yield the SAEs of a release by release and id, as the tidy table writes them."""
    for entry in release.entries:
        yield (one_line(release.name) or "", one_line(entry.sae_id) or ""), entry


def _known(
    releases: Sequence[Release], saes: list[PageSAE]
) -> tuple[list[Release], list[str]]:
    """Return the releases that SAEs of the results are from, and a message on each other."""
    keys = {sae.key for sae in saes}
    names = ", ".join(dict.fromkeys(sae.release for sae in saes))
    known: list[Release] = []
    messages: list[str] = []
    for release in releases:
        if any(key in keys for key, _ in entries_of(release)):
            known.append(release)
        else:
            messages.append(
                f"Release {release.name!r} is left out: no SAE of these results is of it; they are "
                f"of {names}. Name the release that was evaluated."
            )
    return known, messages


def _marked(
    frame: pd.DataFrame, results: Path
) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Return the table with the column ``outdated``, notes, and what kept it from being known."""
    try:
        marked = frame.assign(outdated=are_outdated(frame, results))
        return marked, outdated_notes(results), []
    except InputError as error:
        return frame.assign(outdated=False), [], [str(error)]


def _named(path: Path, record: Record) -> Record:
    """Return a record that names its release and SAE; SAEBench's own may name neither."""
    stem = path.name.removesuffix(SUFFIX)
    return record | {
        "sae_lens_release_id": record.get("sae_lens_release_id") or "unnamed",
        "sae_lens_id": record.get("sae_lens_id") or stem,
    }


def _key(record: Record) -> tuple[str, str]:
    """Return release and id as the tidy table writes them."""
    names = (record["sae_lens_release_id"], record["sae_lens_id"])
    release, sae_id = (one_line(name) or "" for name in names)
    return release, sae_id


def _saes(records: list[tuple[Path, Record]]) -> list[PageSAE]:
    """Return every SAE, its facts by the first result that has them."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for _, record in records:
        block, cfg = saereg_block(record) or {}, mapping(record.get("sae_cfg_dict"))
        facts = {
            "group": one_line(block.get("group")),
            "seed": block.get("seed"),
            "architecture": one_line(architecture(cfg)),
            "penalty": one_line(penalty(cfg)),
            "cfg": cfg,
        }
        known = found.setdefault(_key(record), {})
        known.update({k: v for k, v in facts.items() if known.get(k) in (None, {})})
    ids = Counter(sae_id for _, sae_id in found)
    groups = group_names(
        {
            key: (facts["group"], facts["architecture"], facts["penalty"])
            for key, facts in found.items()
        }
    )
    for key, group in groups.items():
        found[key]["group"] = group
    saes = [
        PageSAE(
            release=key[0],
            sae_id=key[1],
            label=key[1] if ids[key[1]] == 1 else "/".join(key),
            **facts,
        )
        for key, facts in found.items()
    ]
    return sorted(saes, key=lambda sae: (sae.group, sae.seed or 0, sae.label))


def _differences(
    results: Path, damaged: Mapping[Path, str], saes: list[PageSAE]
) -> Iterator[GroupDifference]:
    """Yield the differences of each release, its groups named as on the page."""
    for release in dict.fromkeys(sae.release for sae in saes):
        names = {
            sae.group.removeprefix(f"{release}/"): sae.group
            for sae in saes
            if sae.release == release
        }
        for item in load_group_differences(results, [release], without=damaged):
            sides = (names.get(name, name) for name in (item.group, item.other))
            group, other = sides
            yield replace(item, group=group, other=other)
