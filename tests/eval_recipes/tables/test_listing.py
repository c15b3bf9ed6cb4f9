"""The list of what there is follows the tables."""

from __future__ import annotations

from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.registry import RECIPES, UNAVAILABLE
from eval_recipes.tables.listing import sections
from saereg_plugin.registry import ARCHITECTURES, MECHANICS, REGULARIZERS
from saereg_plugin.sources.models import EMBEDDED


def names(title: str) -> list[str]:
    return [row[0] for row in sections()[title]]


def described(title: str) -> dict[str, str]:
    return {row[0]: row[1] for row in sections()[title]}


def test_sections_hold_every_registered_name() -> None:
    assert names("Architectures") == list(ARCHITECTURES)
    assert len(ARCHITECTURES) >= 6
    assert names("Regularisers") == list(REGULARIZERS)
    assert names("Training mechanics") == list(MECHANICS)
    assert {"resampling", "k_annealing"} < set(MECHANICS)
    assert names("Evaluations") == list(RECIPES)
    assert names("Unavailable evaluations") == list(UNAVAILABLE)
    assert not set(UNAVAILABLE) & set(RECIPES)
    assert names("Embedded models") == list(EMBEDDED)


def test_architecture_says_what_saelens_loads_it_as() -> None:
    rows = described("Architectures")
    assert rows["regularized_topk"] == "saved as SAELens' topk"
    assert rows["regularized_batchtopk"] == "saved as SAELens' jumprelu"
    assert rows["regularized_gated"] == "saved as SAELens' gated"


def test_regularizer_says_which_fields_it_takes() -> None:
    rows = described("Regularisers")
    for field in ("coefficient", "norm", "target", "schedule"):
        assert field in rows["weight_penalty"]


def test_mechanic_says_which_fields_it_takes() -> None:
    rows = described("Training mechanics")
    assert rows["gradient_clipping"] == "max_norm"
    assert rows["weight_decay"] == "decay, target"


def test_releases_are_counted_or_listed() -> None:
    directory = get_pretrained_saes_directory()
    assert sections()["Releases"][0][0].startswith(f"{len(directory)} public releases")
    rows = sections(public_releases=True)["Releases"]
    assert [row[0] for row in rows] == list(directory)


def test_command_prints_every_name() -> None:
    result = CliRunner().invoke(app, ["list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    printed = [*ARCHITECTURES, *REGULARIZERS, *MECHANICS, *RECIPES]
    printed += [*UNAVAILABLE, *EMBEDDED]
    assert [name for name in printed if name not in result.output] == []
