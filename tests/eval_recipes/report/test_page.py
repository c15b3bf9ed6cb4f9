"""The report page: its numbers, its bytes, and folders that are not as they should be."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from eval_recipes import cli
from eval_recipes.commands.run import _write_page
from eval_recipes.report.page import docs_root, write_report
from eval_recipes.results.outdated import note_attempts
from eval_recipes.results.subject import Failure
from eval_recipes.running.run import Outcome
from eval_recipes.tables.table import digits
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import Entry, Release, read_release, write_release
from tests.eval_recipes.report.read_page import Page, unpacked
from tests.eval_recipes.report.result_files import (
    SEEDS,
    core,
    cross_seed,
    write,
    write_all,
)
from tests.eval_recipes.tables.upstream_files import write_core

HEX = {"none": "a", "l2": "b"}
HOSTILE = "<script>alert(1)</script>&amp;</td>\u202e\U0001f600"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("page") / "results")


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    shutil.copytree(results, tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture(scope="module")
def page(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(results, out=tmp_path_factory.mktemp("out") / "a.html"))


def test_sections_are_in_their_order(page: Page) -> None:
    found = [one.attributes["id"] for one in page.root.all("section")]
    assert found == [
        *("provenance", "verdicts", "pareto", "evaluations", "further"),
        *("latents", "distributions", "downloads"),
    ]
    links = [a.attributes["href"] for a in page.root.all("nav")[0].all("a")]
    assert links == [f"#{name}" for name in found]


@pytest.mark.parametrize("name", ["core", "cross_seed", "autointerp"])
def test_the_numbers_of_each_sae_are_those_of_the_summary(
    page: Page, results: Path, name: str
) -> None:
    summary = pd.read_csv(results / "summary.csv")
    heads = {
        head.text.strip(): head.attributes.get("title")
        for head in page.id(f"{name}-saes").all("thead")[0].all("th")
    }
    checked = 0
    for row in page.rows(f"{name}-saes"):
        for title, metric in heads.items():
            mine = summary[
                (summary["sae_id"] == row["SAE"].text.strip())
                & (summary["eval"] == name)
                & (summary["metric"] == metric)
            ]
            if metric is None or mine.empty:
                continue
            (found,) = mine.to_dict("records")
            shown = digits(found["value"])
            if not pd.isna(found["low"]):
                shown += f" [{digits(found['low'])}, {digits(found['high'])}]"
            assert " ".join(row[title].text.split()) == shown
            assert float(row[title].attributes["data-v"]) == found["value"]
            checked += 1
    assert checked >= len(SEEDS) * 2


def test_the_embedded_csv_is_the_summary(page: Page, results: Path) -> None:
    assert page.id("summary-csv").text.strip() == (
        (results / "summary.csv").read_text().strip()
    )


def test_the_groups_mean_and_pairs_are_shown(page: Page) -> None:
    (none,) = (r for r in page.rows("groups-1") if r["group"].text.startswith("none"))
    assert " ".join(none["shared"].text.split()) == "0.375".lstrip("0") + (
        " 3 seed pairs: .250, .375, .500"
    )
    (chance,) = (r for r in page.rows("groups-1") if "random" in r["group"].text)
    assert chance["shared"].text.strip() == "0"


def test_a_difference_below_five_seeds_has_no_verdict(page: Page) -> None:
    (row,) = page.rows("differences")
    assert row["verdict"].text.strip() == "too few seeds; pairs: .250, .250, .250"
    assert "These are too few seeds for a verdict" in page.id("verdicts").text


def test_upstreams_figure_is_next_to_the_corrected_one(page: Page) -> None:
    table = page.id("core-figures")
    rows = [
        [" ".join(cell.text.split()) for cell in row.children]
        for row in table.all("tbody")[0].all("tr")
    ]
    (row,) = (row for row in rows if row[0].startswith("Explained Variance 1 - "))
    # metric, group, SAEBench's, corrected, over
    assert row[1] == "l2"
    assert row[2].split()[0] == digits(0.8125 + 1 / 128 - 1 / 16 + 0.05)
    assert row[3].split()[0] == digits(0.8125 + 1 / 128 - 1 / 16)


def test_facts_hold_points_fronts_and_distributions(page: Page) -> None:
    facts = page.facts
    assert facts["latents"] == [sae["id"] for sae in facts["saes"]]
    assert facts["pareto"]["one_l0"] is True
    assert {sae["id"] for sae in facts["saes"]} == {
        f"{group}-seed{seed}" for group in ("l2", "none") for seed in SEEDS
    }
    key = "core/corrected/explained_variance"
    (point,) = (p for p in facts["pareto"]["points"] if p["sae"] == "none-seed1")
    assert point["values"][key] == pytest.approx([0.8203125, 0.8103125, 0.8303125])
    assert sorted(front["saes"] for front in facts["pareto"]["fronts"][key]) == [
        ["l2-seed2"],
        ["none-seed2"],
    ]
    plots = {plot["id"]: plot for plot in facts["distributions"]["plots"]}
    assert plots["stability"]["series"][0]["y"] == [5 / 8, 1 / 8, 2 / 8]
    matched = plots["matched-decoder"]["series"]
    assert [one["name"] for one in matched] == ["l2", "none", "random dictionaries"]
    assert matched[0]["y"] == [0.0625, 0.1875, 0.75, 0.0]
    points = plots["stability-score"]["series"][0]
    # every SAE's four latents, at the stability of each and its score
    assert points["x"][:4] == [0.0, 0.5, 1.0, 1.0]
    assert points["y"][:4] == [0.0, 0.25, 0.5, 0.75]
    assert points["text"][0] == "l2-seed0/0"


def test_every_plot_has_a_label_and_its_numbers_in_a_table(page: Page) -> None:
    figures = page.root.all("figure")
    assert len(figures) >= 4
    for one in figures:
        assert one.attributes["role"] == "img"
        assert one.attributes["aria-label"]
        beside = one.parent
        assert beside is not None
        assert beside.all("table")
    for table in page.root.all("table"):
        assert table.all("caption")[0].text.strip()
        assert all(h.attributes["scope"] for h in table.all("th"))


def test_equal_results_give_equal_bytes(results: Path, tmp_path: Path) -> None:
    first = write_report(results, out=tmp_path / "a.html").read_bytes()
    moved = shutil.copytree(results, tmp_path / "elsewhere" / "results")
    assert write_report(moved, out=tmp_path / "b.html").read_bytes() == first


def test_the_policy_allows_the_script_of_the_page_and_no_network(page: Page) -> None:
    (policy,) = (
        one.attributes["content"]
        for one in page.root.all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert "file:" not in policy
    # plotly runs as a blob, which needs no hash
    assert policy.count("'sha256-") == 1
    for one in page.root.all("script"):
        assert "src" not in one.attributes
        if "type" not in one.attributes:
            digest = base64.b64encode(hashlib.sha256(one.text.encode()).digest())
            assert f"'sha256-{digest.decode()}'" in policy


def test_hostile_names_are_text(copy: Path) -> None:
    one = core("none", 7)
    one |= {"sae_lens_id": HOSTILE, "sae_lens_release_id": "</script><b>lab"}
    one["eval_result_unstructured"]["saereg"]["group"] = (
        '"><img src=x onerror=alert(1)>'
    )
    write(copy, one, name="hostile")
    path = write_report(copy)
    page = Page(path)
    # nothing in a name became an element
    assert page.root.all("img") == page.root.all("b") == []
    scripts = [s for s in page.root.all("script") if "type" not in s.attributes]
    assert len(scripts) == 1
    shown = [row["SAE"].text.strip() for row in page.rows("saes")]
    # the mark that turns the direction of text is escaped
    assert HOSTILE.replace("\u202e", "\\u202e") in shown
    assert any(
        sae["id"] in shown and "<script>" in sae["id"] for sae in page.facts["saes"]
    )


def test_the_page_is_claimed_and_written_again(copy: Path) -> None:
    path = write_report(copy)
    assert path == copy / "report.html"
    assert "report.html" in json.loads((copy / ".saereg.json").read_text())["files"]
    assert write_report(copy) == path


def test_a_file_of_the_users_is_not_replaced(copy: Path, tmp_path: Path) -> None:
    for path in (copy / "report.html", tmp_path / "mine.html"):
        path.write_text("<p>my own page</p>")
        with pytest.raises(InputError, match=r"is no report page of this package"):
            write_report(copy, out=path)
        assert path.read_text() == "<p>my own page</p>"


def test_an_empty_and_a_missing_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no results"):
        write_report(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        write_report(tmp_path / "missing")
    assert not (tmp_path / "empty" / "report.html").exists()


def test_a_folder_of_damaged_results_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, core("none", 0)).write_text("{")
    with pytest.raises(InputError, match="none of them can be read"):
        write_report(tmp_path)


def test_what_is_missing_or_damaged_is_an_alert(copy: Path) -> None:
    path = write(copy, cross_seed("l2", 0))
    path.write_text(path.read_text()[:200])
    old = copy / "core" / "lab_none-seed0_eval_results.json"
    note_attempts(copy, failed={old: "no room"}, current=())
    failures = [Failure("tpp", "none-seed0", "too few <latents>")]
    alerts = Page(write_report(copy, failures=failures)).alerts
    said = "\n".join(alerts)
    assert alerts[0] == "Error tpp of none-seed0 failed: too few <latents>"
    assert "lab_l2-seed0_eval_results.json is left out, as it cannot be read" in said
    assert "cross_seed has no result of 1 of 6 SAEs: l2-seed0." in said
    assert "lab_none-seed0_eval_results.json is of an earlier run" in said
    assert "Fewer than 5 seeds: l2 (3), none (3)." in said
    assert "none: 12.5 % of latents never fired on the held-out text" in said
    assert [word.split()[0] for word in alerts] == sorted(
        (word.split()[0] for word in alerts), key=["Error", "Warning", "Note"].index
    )


def test_embedded_texts_and_damaged_tables_are_alerts(copy: Path) -> None:
    one = cross_seed("l2", 0)
    one["eval_result_unstructured"] |= {
        "stability_table": {"file": "gone.parquet", "rows": 8, "sha256": "0"},
        "data": "embedded",
    }
    write(copy, one)
    said = "\n".join(Page(write_report(copy)).alerts)
    assert "table 'gone.parquet' is missing" in said
    assert "not comparable with published ones" in said


def test_saebenchs_own_folder_has_a_page(tmp_path: Path) -> None:
    cfg: dict[str, Any] = {"d_in": 8, "d_sae": 16, "architecture": "jumprelu"}
    for number, l0 in enumerate((8.0, 16.0)):
        write_core(tmp_path / "core", "lab/run", f"sae-{number}", l0=l0, cfg=cfg)
    page = Page(write_report(tmp_path))
    assert [row["group"].text.strip() for row in page.rows("saes")] == ["jumprelu"] * 2
    values = [row["L0"].attributes["data-v"] for row in page.rows("pareto-table")]
    assert values == ["8.0", "16.0"]
    assert "No two groups are compared here" in page.id("verdicts").text
    # two SAEs of one kind are not two seeds
    (row,) = page.rows("groups-1")
    figures = [" ".join(cell.text.split()) for cell in row.values()]
    assert any(figure.endswith(" 2 SAEs") for figure in figures[1:])
    assert not any("[" in figure or "seed" in figure for figure in figures)
    (l0,) = [r for r in page.rows("core-all") if r["metric"].text == "sparsity/l0"]
    assert l0["jumprelu"].text.strip() == "12"
    assert page.facts["pareto"]["one_l0"] is False


def release_folder(folder: Path, name: str = "lab") -> Path:
    """A release of the results' SAEs and a fourth seed, with records."""
    entries = [
        Entry(
            f"{g}-seed{s}",
            f"saes/{g}{s}",
            g,
            s,
            {"sae_weights.safetensors": HEX[g] * 64},
        )
        for g, s in product(("none", "l2"), (*SEEDS, 3))
    ]
    about = {"command": "saereg-bench train <x>", "tokens": 4096}
    (folder / "records").mkdir(parents=True)
    write_release(Release(name, "tiny", tuple(entries), folder, about))
    lines = [{"step": n, "tokens": n * 8, "loss": 2.0**-n} for n in (1, 2)]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    for entry in entries:
        (folder / "records" / f"{entry.sae_id}.jsonl").write_text(text)
    return folder


def test_a_release_of_other_saes_is_left_out_with_an_alert(
    results: Path, tmp_path: Path
) -> None:
    folder = release_folder(tmp_path / "release", "elsewhere")
    page = Page(write_report(results, release=folder, out=tmp_path / "page.html"))
    assert page.alerts[0].startswith("Error Release 'elsewhere' is left out: no SAE of")
    assert "saereg-bench train" not in page.id("provenance").text
    assert {row["weights"].text.strip() for row in page.rows("saes")} == {"-"}
    plots = {plot["id"] for plot in page.facts["distributions"]["plots"]}
    assert not any(name.startswith("training") for name in plots)
    # outdated results are looked for all the same
    assert not any("seed3" in alert for alert in page.alerts)


def test_releases_may_be_several_and_named_as_they_were_opened(
    copy: Path, tmp_path: Path
) -> None:
    first = release_folder(tmp_path / "first")
    second = replace(
        read_release(release_folder(tmp_path / "second")), name="lab/saes@0123"
    )
    write(copy, core("none", 5) | {"sae_lens_release_id": second.name}, name="hub")
    one = core("none", 0) | {"sae_lens_release_id": second.name}
    write(copy, one, name="hub")
    page = Page(write_report(copy, release=[first, second]))
    said = page.id("provenance").text
    assert "Training command of lab/saes@0123" in said
    assert "Training command of lab\n" in said.replace("saereg", "\nsaereg")
    curves = {row["SAE"].text for row in page.rows("training-loss-table")}
    assert {"lab/saes@0123/none-seed0", "lab/none-seed0", "l2-seed1"} <= curves


def test_the_page_after_a_run_knows_a_release_of_the_hub(
    copy: Path, tmp_path: Path
) -> None:
    # a commit of the hub is in a folder, under another name than its manifest's
    folder = release_folder(tmp_path / "release", "manifest")
    release = replace(read_release(folder), name="lab")
    outcome = Outcome(pd.DataFrame(), [], [], copy / "summary.csv")
    _write_page(copy, release, outcome, Console(quiet=True))
    page = Page(copy / "report.html")
    assert "saereg-bench train <x>" in page.id("provenance").text


def test_training_records_that_cannot_be_read_are_an_alert(
    results: Path, tmp_path: Path
) -> None:
    folder = release_folder(tmp_path / "release")
    (folder / "records" / "none-seed0.jsonl").write_text("{")
    page = Page(write_report(results, release=folder, out=tmp_path / "page.html"))
    assert "Training curves are left out" in page.alerts[0]
    assert "none-seed0.jsonl' is damaged" in page.alerts[0]


def test_a_width_matched_control_and_a_damaged_result_have_a_page(copy: Path) -> None:
    for group, seed in product(("none", "l2"), SEEDS):
        one = cross_seed(group, seed)
        role = {
            "name": f"lab/{group}",
            "matched_to": "lab/l2" if group == "none" else None,
        }
        one["eval_result_unstructured"]["role"] = role
        write(copy, one)
    write(copy, core("l2", 0)).write_text("{")
    said = "\n".join(Page(write_report(copy)).alerts)
    assert "lab_l2-seed0_eval_results.json is left out, as it cannot be read" in said
    # the damaged file is not what stops the comparison
    assert "Error Width-matched controls are not compared: A result of group" in said


def test_half_a_surrogate_pair_in_a_result_is_shown_or_escaped(copy: Path) -> None:
    one = core("none", 0)
    one["eval_config"] = {"dataset": "half \ud800", "odd \udfff": "\\\ud800"}
    one["eval_result_metrics"]["corrected"]["odd \ud800"] = 0.5
    write(copy, one)
    page = Page(write_report(copy))
    metrics = [row["metric"].text for row in page.rows("core-all")]
    assert "corrected/odd \\ud800" in metrics
    configs = [r["eval_config"] for r in unpacked(page.id("results-json").text)]
    assert one["eval_config"] in configs


def test_pairs_that_are_no_list_are_left_out(copy: Path) -> None:
    for group, seed in product(("none", "l2"), SEEDS):
        one = cross_seed(group, seed)
        one["eval_result_unstructured"]["group_pairs"] = 5
        write(copy, one)
    (none, *_) = Page(write_report(copy)).rows("groups-1")
    assert " ".join(none["shared"].text.split()).endswith("3 seed pairs")


def test_a_release_adds_its_command_hashes_and_training(
    results: Path, tmp_path: Path
) -> None:
    folder = release_folder(tmp_path / "release")
    page = Page(write_report(results, release=folder, out=tmp_path / "page.html"))
    said = page.id("provenance").text
    assert "saereg-bench train <x>" in said
    assert "4,096" in said
    assert {row["weights"].text.strip() for row in page.rows("saes")} == {
        "a" * 12,
        "b" * 12,
    }
    # the release has a fourth seed, of which there is no result
    missing = "core has no result of 2 of 8 SAEs: l2-seed3, none-seed3."
    assert f"Warning {missing}" in page.alerts
    (row,) = (
        r for r in page.rows("training-loss-table") if r["SAE"].text == "l2-seed1"
    )
    assert [row[f"{end} step"].text.strip() for end in ("first", "last")] == [
        ".500",
        ".250",
    ]
    plots = {plot["id"]: plot for plot in page.facts["distributions"]["plots"]}
    curve = plots["training-loss"]["series"][1]
    assert (curve["name"], curve["seed"]) == ("l2", 1)
    assert (curve["x"], curve["y"]) == ([8, 16], [0.5, 0.25])


def test_groups_of_one_name_in_two_releases_stay_apart(copy: Path) -> None:
    one = core("none", 0) | {"sae_lens_release_id": "other"}
    write(copy, one)
    names = {row["group"].text.strip() for row in Page(write_report(copy)).rows("saes")}
    assert names == {"l2", "lab/none", "other/none"}


def test_above_the_limit_latents_go_to_files_next_to_the_page(copy: Path) -> None:
    whole = Page(write_report(copy))
    inside = {
        one.attributes["data-sae"]: unpacked(one.text)
        for one in whole.root.all("script")
        if one.attributes.get("class") == "latents"
    }
    path = write_report(copy, most_bytes=1_000)
    page = Page(path)
    scripts = page.root.all("script")
    sources = [s.attributes["src"] for s in scripts if "src" in s.attributes]
    assert len(sources) == len(inside) == 6
    assert page.facts["latents"] == whole.facts["latents"] == list(inside)
    for source in sources:
        call = (path.parent / source).read_text()
        assert call.startswith("saeregLatents(")
        sae, data = json.loads(f"[{call.strip()[len('saeregLatents(') : -2]}]")
        assert unpacked(data) == inside[sae]
    assert "too large with them" in page.id("latents").text
    # a page that fits again leaves no shards behind
    write_report(copy)
    assert not list((copy / "report_data").glob("*.js"))


def test_the_address_of_latents_next_to_the_page_is_quoted(copy: Path) -> None:
    path = write_report(copy, out=copy / "report #2 50%.html", most_bytes=1_000)
    page = Page(path)
    scripts = page.root.all("script")
    sources = [s.attributes["src"] for s in scripts if "src" in s.attributes]
    assert sources[0].startswith("report%20%232%2050%25_data/")
    for source in sources:
        assert (copy / unquote(source)).is_file()
    assert "report #2 50%_data" in page.id("latents").text


def test_docs_are_linked_where_the_package_knows_their_address() -> None:
    urls = ["Homepage, https://lab.org", "Documentation, https://lab.org/docs/index.md"]
    assert docs_root(urls) == "https://lab.org/"
    assert docs_root(["Homepage, https://lab.org"]) == docs_root([]) == ""


def test_the_command_prints_the_path(copy: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(cli.app, ["report", str(copy), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(out)
    assert out.is_file()


@pytest.mark.parametrize("latents", [-1])
def test_a_negative_number_of_latents_is_refused(results: Path, latents: int) -> None:
    with pytest.raises(InputError, match="expected 0 or more"):
        write_report(results, latents=latents)
