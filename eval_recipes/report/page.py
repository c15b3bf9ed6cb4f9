"""The report page: everything about a results folder in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from eval_recipes.report import LATENTS
from eval_recipes.report.distributions import Plot, read_distributions
from eval_recipes.report.embedding import (
    packed,
    policy,
    script_json,
    shard_name,
    shard_script,
)
from eval_recipes.report.evaluations import Section, read_sections
from eval_recipes.report.figures.finding import Further, read_further
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
from saereg_plugin.releases.release import Release

PAGE = "report.html"
GENERATOR = "saereg-plugin report"
"""What marks a file as a page of this package."""
SHARDS = "report data"
"""Kind of the folder of shards in its mark."""

MOST_BYTES = 8_000_000

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class _Content:
    """Everything on the page except the latents."""

    source: Source
    provenance: Provenance
    verdicts: Verdicts
    pareto: Pareto
    sections: list[Section]
    further: Further
    plots: list[Plot]


def write_report(
    results: str | Path,
    *,
    release: str | Path | Release | Iterable[str | Path | Release] | None = None,
    out: str | Path | None = None,
    latents: int = LATENTS,
    failures: Sequence[Failure] = (),
    figures: Iterable[str | Path] = (),
    most_bytes: int = MOST_BYTES,
) -> Path:
    """
    Write a page about a folder of results that opens offline; return its path.

    Example::

        import eval_recipes

        eval_recipes.write_report("results")

    Besides evaluations it shows what studies and the commands ``revive``, ``pool``, ``distill``,
    ``layers`` and ``data`` wrote there, and names what is not there.

    Args:
        results: folder of results, this package's or SAEBench's own.
        release: folder of the SAEs' release, or an opened one, or several: their commands,
            versions, hashes and training.
        out: file to write; by default ``report.html`` in ``results``.
        latents: latents of an SAE to show with their examples.
        failures: failures of the run that ends here, for the alerts.
        figures: JSON files of studies and commands in other places, or folders of them.
        most_bytes: size above which latents go to files next to the page.

    Raises:
        InputError: if there is no such folder or release, nothing to show, or the page
            would replace a file that this package did not write.
    """
    if latents < 0:
        raise InputError(
            f"latents = {latents}; expected 0 or more, such as {LATENTS} per SAE."
        )
    folder = Path(results)
    target = folder / PAGE if out is None else Path(out)
    require_page(target)
    further = read_further(folder, [Path(one) for one in figures])
    source = read_source(folder, _listed(release), may_be_empty=bool(further.found))
    content = _read(source, further, failures)
    payloads = {
        one.sae_id: packed(one.data) for one in latents_of(source, per_sae=latents)
    }
    page = _render(content, list(payloads), payloads)
    shards: dict[str, str] = {}
    if len(page.encode()) > most_bytes and payloads:
        shards = {
            shard_name(sae): shard_script(sae, data) for sae, data in payloads.items()
        }
        below = _shard_folder(target).name
        page = _render(content, list(payloads), {}, shards=list(shards), below=below)
    _write(page, shards, target)
    return target


def _listed(
    release: str | Path | Release | Iterable[str | Path | Release] | None,
) -> list[Path | Release]:
    if release is None:
        return []
    given = [release] if isinstance(release, (str, Path, Release)) else release
    return [Path(one) if isinstance(one, str) else one for one in given]


def _read(source: Source, further: Further, failures: Sequence[Failure]) -> _Content:
    verdicts = read_verdicts(source)
    training, unread = read_training(source)
    return _Content(
        source=source,
        provenance=read_provenance(
            source, failures, [*verdicts.trouble, *unread, *further.trouble]
        ),
        verdicts=verdicts,
        pareto=read_pareto(source),
        sections=read_sections(source),
        further=further,
        plots=[*read_distributions(source), *training],
    )


def _render(
    content: _Content,
    saes: Sequence[str],
    payloads: Mapping[str, str],
    *,
    shards: Sequence[str] = (),
    below: str = "",
) -> str:
    """
    Return the page with latents inside, or with scripts that bring them.

    ``saes`` are the labels of the SAEs with latents, ``shards`` files in the folder ``below``.
    """
    script = _text("report.js")
    environment = Environment(
        loader=PackageLoader("eval_recipes.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        vars(content),
        title=_title(content),
        sections=content.sections,
        generator=GENERATOR,
        documentation=docs_root(_project_urls()),
        policy=policy(script, shards=bool(shards)),
        style=Markup(_text("report.css") + _text("latents.css")),
        script=Markup(script),
        plotly=packed(get_plotlyjs()),
        facts=script_json(_facts(content, saes)),
        results=packed(_results(content.source)),
        payloads=payloads,
        # a name may hold what means something in an address
        shards=[f"{quote(below)}/{quote(name)}" for name in shards],
        below=below,
    )


def _title(content: _Content) -> str:
    """Return the names of the releases; without results, what else is shown."""
    named = (one.part.title for one in content.further.found)
    return content.provenance.title or ", ".join(dict.fromkeys(named))


def _text(name: str) -> str:
    """Return a file of the page that is next to this module."""
    return (_HERE / name).read_text(encoding="utf-8")


def _project_urls() -> list[str]:
    """Return the addresses in the installed package's metadata, each ``name, address``."""
    try:
        return [
            str(url) for url in metadata("saereg-plugin").get_all("Project-URL", [])
        ]
    except PackageNotFoundError:
        return []


def docs_root(urls: Iterable[str]) -> str:
    """
    Return the address that the folder ``docs`` is below, or "" where the package has none.

    >>> docs_root(["Documentation, https://lab.org/saes/blob/main/docs/index.md"])
    'https://lab.org/saes/blob/main/'
    """
    known = dict(url.split(", ", 1) for url in urls)
    address, index, _ = known.get("Documentation", "").rpartition("docs/index.md")
    return address if index else ""


def _facts(content: _Content, saes: Sequence[str]) -> dict[str, Any]:
    """Return what the script draws and selects; ``saes`` are those with latents."""
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
        "latents": list(saes),
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
