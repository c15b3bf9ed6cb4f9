"""Origin of the results, and warnings to read before the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from eval_recipes.report.cells import Cell, Column, PageTable, number, table, text
from eval_recipes.report.source import PageSAE, Source, mapping
from eval_recipes.results.headlines import Metric
from eval_recipes.results.sidecar import damaged_table
from eval_recipes.results.subject import Failure
from eval_recipes.results.tidy import data_of, one_line
from eval_recipes.statistics.seeds import FEWEST_SEEDS
from eval_recipes.tables.table import digits, last_values
from saereg_plugin.files import sha256
from saereg_plugin.releases.release import MANIFEST, Release

_SHOWN = 5
"""Most names in one alert."""
_HEX = 12
"""Digits of a hash that are shown."""

_ALIVE = Metric("core", "corrected/alive", "alive")


KINDS = ("error", "warning", "note")
"""Kinds of alerts, the worst first."""


@dataclass(frozen=True)
class Alert:
    """A warning above everything else; ``kind`` is one of ``KINDS``."""

    kind: str
    text: str


@dataclass(frozen=True)
class Provenance:
    """Everything that the first section shows."""

    title: str
    alerts: list[Alert]
    facts: list[tuple[str, str]]
    saes: PageTable
    files: PageTable


def read_provenance(
    source: Source, failures: Sequence[Failure] = (), trouble: Sequence[str] = ()
) -> Provenance:
    """
    Return alerts, facts, SAEs and files.

    ``failures`` are of the run that ends here, ``trouble`` what other sections could not read.
    """
    return Provenance(
        title=", ".join(dict.fromkeys(sae.release for sae in source.saes)),
        alerts=sorted(
            _alerts(source, failures, trouble), key=lambda one: KINDS.index(one.kind)
        ),
        facts=[(name, value) for name, value in _facts(source) if value],
        saes=_saes(source),
        files=_files(source),
    )


def _alerts(
    source: Source, failures: Sequence[Failure], trouble: Sequence[str]
) -> Iterator[Alert]:
    for failure in failures:
        name = one_line(failure.sae_id)
        yield Alert(
            "error", f"{failure.eval} of {name} failed: {one_line(failure.cause)}"
        )
    for path, cause in source.damaged.items():
        name = one_line(path.relative_to(source.folder))
        yield Alert(
            "error", f"{name} is left out, as it cannot be read: {source.told(cause)}"
        )
    for path, record in source.records:
        damage = damaged_table(path, record)
        if damage is not None:
            name = one_line(path.relative_to(source.folder))
            yield Alert("error", f"{name}: its {one_line(damage)}. Run it again.")
    for note in (*source.trouble, *trouble):
        yield Alert("error", source.told(note))
    yield from (Alert("warning", note) for note in source.outdated)
    yield from _incomplete(source)
    yield from _few_seeds(source)
    yield from _dead(source)
    if any(data_of(record) == "embedded" for _, record in source.records):
        yield Alert(
            "warning",
            "Labelled texts are from embedded data sets: these scores are not comparable with "
            "published ones.",
        )


def _incomplete(source: Source) -> Iterator[Alert]:
    """Yield an alert for each evaluation that lacks SAEs or has a partial result."""
    expected = {sae.label for sae in source.saes}
    known = {sae.key for sae in source.saes}
    for key in source.entries:
        if key not in known:
            expected.add(key[1] if len(source.releases) == 1 else "/".join(key))
    for release in source.releases:
        for cause in release.provenance.get("stopped") or ():
            yield Alert("warning", f"Training stopped early: {one_line(_said(cause))}")
    for name in source.evaluations:
        have = {sae.label for sae, _, _ in source.results(name)}
        missing = sorted(expected - have)
        if missing:
            yield Alert(
                "warning",
                f"{name} has no result of {len(missing)} of {len(expected)} SAEs: "
                f"{_listed(missing)}.",
            )
    for path in sorted(source.folder.rglob("*_partial_results.json")):
        name = one_line(path.relative_to(source.folder))
        yield Alert(
            "warning", f"{name} is partial: some replies are missing. Run it again."
        )


def _said(cause: Any) -> str:
    if isinstance(cause, dict):
        return ", ".join(f"{key} {value}" for key, value in cause.items())
    return str(cause)


def _few_seeds(source: Source) -> Iterator[Alert]:
    seeds = {
        group: {sae.seed for sae in source.of(group) if sae.seed is not None}
        for group in source.groups
    }
    few = {
        group: len(found) for group, found in seeds.items() if len(found) < FEWEST_SEEDS
    }
    if few:
        said = [f"{group} ({count})" for group, count in few.items()]
        yield Alert(
            "note",
            f"Fewer than {FEWEST_SEEDS} seeds: {_listed(said)}. Figures of pairs of seeds have no "
            "interval then; the pairs are listed, and no difference of them is decided.",
        )


def _dead(source: Source) -> Iterator[Alert]:
    """Yield an alert for each group with latents that never fired on held-out text."""
    rows = last_values(source.frame, _ALIVE)
    alive = {
        (row["release"], row["sae_id"]): row["value"] for row in rows.to_dict("records")
    }
    for group in source.groups:
        saes = [sae for sae in source.of(group) if sae.key in alive and _width(sae)]
        dead = [_width(sae) - alive[sae.key] for sae in saes]
        share = sum(dead) / max(sum(_width(sae) for sae in saes), 1)
        if share > 0:
            yield Alert(
                "warning" if share >= 0.1 else "note",
                f"{group}: {100 * share:.3g} % of latents never fired on the held-out text "
                f"({digits(min(dead))} to {digits(max(dead))} of {_width(saes[0])} in an SAE).",
            )


def _width(sae: PageSAE) -> int:
    width = sae.cfg.get("d_sae")
    return width if isinstance(width, int) else 0


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    """Yield name and value of what is known of the results as a whole."""
    groups = "1 group" if len(source.groups) == 1 else f"{len(source.groups)} groups"
    saes = "1 SAE" if len(source.saes) == 1 else f"{len(source.saes)} SAEs"
    seeds = sorted({sae.seed for sae in source.saes if sae.seed is not None})
    yield (
        "SAEs",
        f"{saes}, {groups}"
        + (f", seeds {_listed([*map(str, seeds)])}" if seeds else ""),
    )
    metadata = [mapping(sae.cfg.get("metadata")) or sae.cfg for sae in source.saes]
    on_text = not any(one.get("activation_source") for one in metadata)
    model, point = ("Language model", "Hook") if on_text else ("Model", "Point")
    yield model, _each(one.get("model_name") for one in metadata)
    yield point, _each(one.get("hook_name") for one in metadata)
    yield "Trained on", _each(one.get("dataset_path") for one in metadata)
    yield (
        "Held-out text" if on_text else "Held-out inputs of",
        _each(_config(source, "cross_seed", "corpus"))
        or _each(_config(source, "core", "dataset")),
    )
    yield (
        "Labelled texts",
        _each(
            "embedded: not comparable with published scores"
            for _, record in source.records
            if data_of(record) == "embedded"
        ),
    )
    yield "Evaluations", _each(source.evaluations)
    yield "Evaluated", _dates(source)
    yield (
        "SAELens",
        _each(record.get("sae_lens_version") for _, record in source.records),
    )
    yield (
        "SAEBench",
        _each(
            str(record.get("sae_bench_commit_hash") or "").removeprefix("sae-bench==")
            for _, record in source.records
        ),
    )
    for release in source.releases:
        of = "" if len(source.releases) == 1 else f" of {one_line(release.name)}"
        yield from ((f"{name}{of}", value) for name, value in _training(release))


def _config(source: Source, evaluation: str, name: str) -> Iterator[Any]:
    """Yield a setting of every result of an evaluation."""
    for _, _, record in source.results(evaluation):
        yield mapping(record.get("eval_config")).get(name)


def _each(values: Any) -> str:
    """Return different values as text, in their order."""
    found = dict.fromkeys(one_line(value) or "" for value in values if value)
    return ", ".join(name for name in found if name)


def _dates(source: Source) -> str:
    """Return the times of the first and the last result, in UTC."""
    times = [record.get("datetime_epoch_millis") for _, record in source.records]
    known = sorted(
        time for time in times if isinstance(time, int) and 0 < time < 1 << 43
    )
    if not known:
        return ""
    first, last = _date(known[0]), _date(known[-1])
    day, _, time = last.partition(" ")
    ends = (first, time if first.startswith(day) else last)
    return f"{first if first == last else ' to '.join(ends)} UTC"


def _date(millis: int) -> str:
    moment = datetime.fromtimestamp(millis / 1000, timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M")


def _training(release: Release) -> Iterator[tuple[str, str]]:
    """Yield name and value of what a release knows of its training."""
    assert release.folder is not None
    about = release.provenance
    yield "Training command", str(one_line(about.get("command")) or "")
    yield "Trained", str(one_line(about.get("created")) or "")
    versions = about.get("versions")
    if isinstance(versions, dict):
        yield (
            "Versions",
            ", ".join(f"{one_line(k)} {one_line(v)}" for k, v in versions.items()),
        )
    if isinstance(about.get("tokens"), int):
        yield "Training tokens", f"{about['tokens']:,}"
    if isinstance(about.get("training_seconds"), (int, float)):
        yield "Training time", f"{about['training_seconds'] / 60:.1f} minutes"
    yield "Manifest hash", sha256(release.folder / MANIFEST)


def _saes(source: Source) -> PageTable:
    heads = [
        *map(Column, ("SAE", "group", "seed", "architecture", "penalty", "latents")),
        Column("weights", "First digits of the SHA-256 in the release's manifest"),
    ]
    hashes: dict[tuple[str, str], str] = {}
    for key, (_, entry) in source.entries.items():
        weights = next(
            (
                v
                for k, v in entry.files.items()
                if k.endswith(".safetensors") and "weights" in k
            ),
            "",
        )
        hashes[key] = weights[:_HEX]
    rows = [
        [
            text(sae.label),
            text(sae.group, group=sae.group),
            number(sae.seed),
            text(sae.architecture),
            text(sae.penalty),
            number(_width(sae) or None),
            text(hashes.get(sae.key) or None, code=True),
        ]
        for sae in source.saes
    ]
    return table("saes", "SAEs", heads, rows)


def _files(source: Source) -> PageTable:
    rows: list[list[Cell]] = []
    for path, record in source.records:
        millis = record.get("datetime_epoch_millis")
        date = (
            _date(millis) if isinstance(millis, int) and 0 < millis < 1 << 43 else None
        )
        name = path.relative_to(source.folder).as_posix()
        rows.append([text(name), text(date), text(sha256(path), code=True)])
    caption = f"Result files ({len(rows)})"
    return table("files", caption, ["file", "written (UTC)", "SHA-256"], rows)
