"""The list of what there is follows the tables, and each name can be shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.registry import RECIPES, UNAVAILABLE
from eval_recipes.tables.description import describe, descriptions_text
from eval_recipes.tables.listing import (
    DESCRIPTIONS,
    LISTING,
    listing_text,
    public_releases,
    sections,
    stored_descriptions,
)
from saereg_plugin.errors import InputError
from saereg_plugin.presets import PRESETS
from saereg_plugin.registry import ARCHITECTURES, MECHANICS, REGULARIZERS
from saereg_plugin.sources.models import EMBEDDED

TABLES = {
    "Architectures": [
        name
        for name, (sae, _) in ARCHITECTURES.items()
        if sae.__module__.startswith("saereg_plugin")
    ],
    "Regularisers": [
        name
        for name, cls in REGULARIZERS.items()
        if cls.__module__.startswith("saereg_plugin")
    ],
    "Training mechanics": [
        name
        for name, cls in MECHANICS.items()
        if cls.__module__.startswith("saereg_plugin")
    ],
    "Presets": list(PRESETS),
    "Evaluations": list(RECIPES),
    "Unavailable evaluations": list(UNAVAILABLE),
    "Embedded models": list(EMBEDDED),
}
SHOWN = [name for title in list(TABLES)[:5] for name in TABLES[title]]


def described(title: str) -> dict[str, str]:
    return {row[0]: row[1] for row in sections()[title]}


def test_the_stored_listing_is_that_of_the_registries() -> None:
    """Otherwise run ``saereg-bench schemas --write``."""
    assert LISTING.read_text(encoding="utf-8") == listing_text()


def test_the_stored_descriptions_are_those_of_the_classes() -> None:
    """Otherwise run ``saereg-bench schemas --write``."""
    assert DESCRIPTIONS.read_text(encoding="utf-8") == descriptions_text()


@pytest.mark.parametrize("name", SHOWN)
def test_all_but_architectures_are_shown_from_what_is_stored(name: str) -> None:
    stored = stored_descriptions(name)
    assert stored == ([] if name in TABLES["Architectures"] else describe(name))


def test_sections_hold_every_registered_name() -> None:
    found = sections()
    shown = {title: [row[0] for row in found[title]] for title in TABLES}
    # what was imported first in this process was registered first
    assert {k: sorted(v) for k, v in shown.items()} == {
        k: sorted(v) for k, v in TABLES.items()
    }
    assert len(TABLES["Architectures"]) >= 6
    assert not set(UNAVAILABLE) & set(RECIPES)
    assert all(row[1] for rows in found.values() for row in rows)


def test_architecture_says_what_saelens_loads_it_as() -> None:
    rows = described("Architectures")
    assert rows["regularized_topk"] == "saved as SAELens' topk"
    assert rows["regularized_batchtopk"] == "saved as SAELens' jumprelu"
    assert rows["regularized_gated"] == "saved as SAELens' gated"


def test_a_summary_names_the_paper() -> None:
    assert "arXiv 2603.04198" in described("Regularisers")["weight_penalty"]


def test_entry_points_of_other_packages_are_listed_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tiny_own-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-own\nVersion: 1"
    )
    (folder / "entry_points.txt").write_text(
        "[saereg_plugin.regularizers]\nround_rows = no_such_module:RoundRows\n"
        "[saereg_plugin.mechanics]\northogonality = no_such_module\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert described("Regularisers")["round_rows"] == "of the package tiny-own"
    # another package has something of this name, too
    assert stored_descriptions("orthogonality") == []


def test_an_evaluation_of_ones_own_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    place = "tests.eval_recipes.running.counting:CountingEvaluation"
    monkeypatch.setitem(RECIPES, "counting", place)
    assert described("Evaluations")["counting"] == "a throwaway"
    assert "counting" not in listing_text()
    monkeypatch.setitem(RECIPES, "core", place)
    assert stored_descriptions("core") == []


@pytest.mark.parametrize("name", SHOWN)
def test_each_name_is_shown_with_its_fields(name: str) -> None:
    for found in describe(name):
        assert found.title.endswith(name)
        assert found.text and found.fields
        assert (Path(__file__).parents[3] / found.file).is_file()


def test_a_regularizer_is_shown_with_types_defaults_formula_and_source() -> None:
    (found,) = describe("weight_penalty")
    fields = {row[0]: row[1:3] for row in found.fields}
    assert fields["norm"] == ("'l1' | 'l2' | 'frobenius'", "'l2'")
    assert fields["coefficient"][0] == "float"
    assert "coefficient * R(W_enc)" in found.text
    assert found.sources == ("https://arxiv.org/abs/2603.04198",)
    assert found.file == "saereg_plugin/regularizers/weight_penalty.py"


def test_fields_inside_a_field_are_shown_as_flags_name_them() -> None:
    for name, warm_up in (("weight_penalty", "0"), ("mutual_features", "100")):
        (found,) = describe(name)
        rows = {row[0]: row[1:] for row in found.fields}
        assert "schedule" not in rows
        assert rows["schedule.anneal"][0] == "'none' | 'linear' | 'cosine'"
        assert rows["schedule.warm_up_steps"][1] == warm_up
        assert rows["schedule.warm_up_steps"][2] == "Steps of the linear rise from 0."


def test_allowed_values_of_an_architectures_fields_are_shown() -> None:
    (found,) = describe("regularized_topk")
    kinds = {row[0]: row[1] for row in found.fields}
    assert kinds["sparse_step"] == "'auto' | 'screened' | 'always' | 'never'"
    assert kinds["auxk_scaling"].startswith("'sae_lens' | 'openai' | ")


def test_an_option_is_shown_with_its_meaning() -> None:
    (found,) = describe("autointerp")
    (row,) = (row for row in found.fields if row[0] == "dead_latent_threshold")
    assert row[2] == "15" and row[3].startswith("Activations that a latent needs")


def test_a_preset_is_shown_with_what_its_paper_states() -> None:
    (found,) = describe("off_support_topk")
    assert found.sources == ("https://arxiv.org/abs/2606.27321",)
    assert "stated in the paper" in {row[3] for row in found.fields}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'weight_penalty'?"):
        describe("wieght_penalty")
    with pytest.raises(InputError, match="'ravel' is unavailable"):
        describe("ravel")


def test_command_prints_every_name() -> None:
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    printed = [name for names in TABLES.values() for name in names]
    assert [name for name in printed if name not in result.output] == []


def test_command_shows_one_name() -> None:
    result = CliRunner().invoke(
        app, ["list", "gradient_clipping"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0
    assert "max_norm" in result.output
    assert "File: saereg_plugin/mechanics/gradient_clipping.py" in result.output


def test_releases_are_listed_where_they_are_asked_for() -> None:
    directory = get_pretrained_saes_directory()
    assert [row[0] for row in public_releases()] == list(directory)
