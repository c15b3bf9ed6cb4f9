"""The report page: everything about a results folder in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eval_recipes.report.distributions import Plot, read_distributions
from eval_recipes.report.embedding import (
    packed,
    policy,
    script_json,
    shard_name,
    shard_script,
)
from eval_recipes.report.evaluations import Section, read_sections
from eval_recipes.report.latents.payload import latents_of
from eval_recipes.report.pareto import Pareto, read_pareto
from eval_recipes.report.provenance import Provenance, read_provenance
from eval_recipes.report.source import Source, read_source
from eval_recipes.report.training import read_training
from eval_recipes.report.verdicts import Verdicts, read_verdicts
from eval_recipes.results.subject import Failure
from eval_recipes.results.tidy import saereg_block
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_text
from saereg_plugin.owned_folder import OwnedFolder, kind_of, open_owned

PAGE = "report.html"
GENERATOR = "saereg-plugin report"
"""What marks a file as a page of this package."""
SHARDS = "report data"
"""Kind of the folder of shards in its mark."""

MOST_BYTES = 8_000_000
LATENTS = 300
"""Latents of an SAE that are shown with their examples."""


_HERE = Path(__file__).parent


@dataclass(frozen=True)
class _Content:
    """Everything on the page except the latents."""

    source: Source
    provenance: Provenance
    verdicts: Verdicts
    pareto: Pareto
    sections: list[Section]
    plots: list[Plot]


def write_report(
    results: str | Path,
    *,
    release: str | Path | None = None,
    out: str | Path | None = None,
    latents: int = LATENTS,
    failures: Sequence[Failure] = (),
    most_bytes: int = MOST_BYTES,
) -> Path:
    """
    Write a page about a folder of results that opens offline; return its path.

    Example::

        import eval_recipes

        eval_recipes.write_report("results")

    Args:
        results: folder of results, this package's or SAEBench's own.
        release: folder of the SAEs' release: its command, versions, hashes and training.
        out: file to write; by default ``report.html`` in ``results``.
        latents: latents of an SAE to show with their examples.
        failures: failures of the run that ends here, for the alerts.
        most_bytes: size above which latents go to files next to the page.

    Raises:
        InputError: if there is no such folder or release, no readable result, or the page
            would replace a file that this package did not write.
    """
    if latents < 0:
        raise InputError(
            f"latents = {latents}; expected 0 or more, such as {LATENTS} per SAE."
        )
    folder = Path(results)
    target = folder / PAGE if out is None else Path(out)
    require_page(target)
    source = read_source(folder, None if release is None else Path(release))
    content = _read(source, failures)
    payloads = {
        one.sae_id: packed(one.data) for one in latents_of(source, per_sae=latents)
    }
    page = _render(content, payloads)
    shards: dict[str, str] = {}
    if len(page.encode()) > most_bytes and payloads:
        shards = {
            shard_name(sae): shard_script(sae, data) for sae, data in payloads.items()
        }
        page = _render(
            content, {}, shards=[f"{_shard_folder(target).name}/{n}" for n in shards]
        )
    _write(page, shards, target)
    return target


def _read(source: Source, failures: Sequence[Failure]) -> _Content:
    return _Content(
        source=source,
        provenance=read_provenance(source, failures),
        verdicts=read_verdicts(source),
        pareto=read_pareto(source),
        sections=read_sections(source),
        plots=[*read_distributions(source), *read_training(source)],
    )


def _render(
    content: _Content, payloads: Mapping[str, str], *, shards: Sequence[str] = ()
) -> str:
    """Return the page with latents inside, or with scripts that bring them."""
    script, plotly = _text("report.js"), get_plotlyjs()
    environment = Environment(
        loader=PackageLoader("eval_recipes.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        vars(content),
        sections=content.sections,
        policy=policy([script, plotly], shards=bool(shards)),
        style=Markup(_text("report.css") + _text("latents.css")),
        script=Markup(script),
        plotly=packed(plotly),
        facts=script_json(_facts(content)),
        results=packed(_results(content.source)),
        payloads=payloads,
        shards=shards,
    )


def _text(name: str) -> str:
    """Return a file of the page that is next to this module."""
    path = _HERE / name
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _facts(content: _Content) -> dict[str, Any]:
    """Return what the script draws and selects."""
    source = content.source
    return {
        "saes": [
            {
                "id": sae.label,
                "group": sae.group,
                "seed": sae.seed,
                "colour": source.colours[sae.group],
            }
            for sae in source.saes
        ],
        "pareto": content.pareto.facts,
        "distributions": {
            "plots": [
                {"id": plot.name, "title": plot.title, **plot.facts}
                for plot in content.plots
            ]
        },
    }


def _results(source: Source) -> list[dict[str, Any]]:
    """Return every result for the download: whose it is, its settings and its metrics."""
    names = ("eval_type_id", "sae_lens_release_id", "sae_lens_id", "eval_config")
    return [
        {name: record.get(name) for name in names}
        | {"metrics": record["eval_result_metrics"], **(saereg_block(record) or {})}
        for _, record in source.records
    ]


def _shard_folder(target: Path) -> Path:
    return target.with_name(f"{target.stem}_data")


def require_page(target: Path) -> None:
    """
    Refuse to replace a file that is no page of this package; write nothing.

    Raises:
        InputError: naming the file, or the folder of that name.
    """
    if target.is_dir():
        raise InputError(
            f"{str(target)!r} is a folder; expected a file, such as {str(target / PAGE)!r}."
        )
    if target.is_file() and GENERATOR.encode() not in target.read_bytes()[:1000]:
        raise InputError(
            f"{str(target)!r} is no report page of this package and would be replaced. Move it "
            "away, or choose another --out."
        )


def _write(page: str, shards: Mapping[str, str], target: Path) -> None:
    """Write the page and its shards; shards of an earlier page are removed."""
    kind = kind_of(target.parent)
    if kind is not None:
        OwnedFolder(target.parent, kind).claim([target.name])
    folder = _shard_folder(target)
    if shards or kind_of(folder) is not None:
        owned = open_owned(folder, SHARDS)
        owned.claim(shards)
        for name, script in shards.items():
            write_text(folder / name, script)
        owned.remove(owned.files() - set(shards))
        owned.abandon_if_empty()
    write_text(target, page)
