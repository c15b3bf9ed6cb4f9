"""The folder for Neuronpedia's bulk import, read back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sae_lens import SAE
from typer.testing import CliRunner

from eval_recipes.cli import app
from eval_recipes.examples.reader import read_examples
from eval_recipes.neuronpedia.export import write_export
from eval_recipes.neuronpedia.limits import feature
from saereg_plugin.errors import InputError
from saereg_plugin.files import folder_hashes
from tests.eval_recipes.neuronpedia.conftest import MOVED, NAME, Made

MODEL = "smollm2-135m-instruct"
SOURCE = "2-tiny-release-g-0"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def exported(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("np") / "export"
    arguments = ["export", "neuronpedia", str(made.results)]
    arguments += ["--release", str(made.release), "--out", str(out)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert f"explanations of g.0 to {out / MODEL / SOURCE}; " in said
    assert "2 that never fired are left out" in said
    return out / MODEL


def one(path: Path) -> dict[str, Any]:
    (line,) = path.read_text(encoding="utf-8").splitlines()
    return json.loads(line)


def rows(folder: Path, table: str) -> Rows:
    found: Rows = []
    for path in sorted((folder / table).iterdir()):
        assert path.name.startswith("batch-") and path.name.endswith(".jsonl.gz")
        lines = gzip.decompress(path.read_bytes()).decode().split("\n")
        found += [json.loads(line) for line in lines if line]
    return found


def test_each_sae_is_a_source_of_its_model_with_its_config(
    exported: Path, made: Made
) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "2-tiny-release-g-0",
        "2-tiny-release-g-1",
    ]
    folder = exported / SOURCE
    source, of_set = one(folder / "source.jsonl"), one(folder / "sourceset.jsonl")
    assert source["id"] == SOURCE
    assert source["setName"] == of_set["name"] == "tiny-release-g-0"
    assert source["modelId"] == of_set["modelId"] == one(folder / "model.jsonl")["id"]
    assert of_set["releaseName"] == one(folder / "release.jsonl")["name"] == NAME
    assert (source["saelensRelease"], source["saelensSaeId"]) == (NAME, "g.0")
    known = source["saelensConfig"]["metadata"]["neuronpedia_id"]
    assert known == f"{MODEL}/{SOURCE}"
    assert "neuronpedia_id" not in (made.release / "g.0" / "cfg.json").read_text()
    assert "2 of 256 latents fired on none" in source["notes"]
    assert "Stability: share of the other seeds (1)" in source["notes"]


def test_features_are_the_latents_that_fire_with_their_vectors(
    exported: Path, made: Made
) -> None:
    features = rows(exported / SOURCE, "features")
    examples = read_examples(made.results, "g.0")
    active = examples.scalars()["active"].to_numpy()
    assert [int(row["index"]) for row in features] == np.flatnonzero(active).tolist()
    sae = SAE.from_pretrained(str(made.release), "g.0")
    decoder = sae.W_dec.detach().numpy()
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    for row in features[:20]:
        index = int(row["index"])
        latent = examples.latent(index)
        np.testing.assert_allclose(row["vector"], decoder[index], rtol=1e-5)
        assert row["hookName"] == "blocks.2.hook_resid_post"
        assert row["frac_nonzero"] == latent.density
        assert row["maxActApprox"] == latent.max_activation
        assert row["freq_hist_data_bar_heights"] == latent.histogram_counts
        assert row["pos_str"] == [token for token, _ in latent.top_logits]
        near = row["topkCosSimIndices"]
        assert index not in near and set(near) <= {int(r["index"]) for r in features}
        cosines = unit[near] @ unit[index]
        np.testing.assert_allclose(row["topkCosSimValues"], cosines, atol=1e-5)
        assert list(cosines) == sorted(cosines, reverse=True)


def test_activations_are_the_examples_in_their_bands(
    exported: Path, made: Made
) -> None:
    activations = rows(exported / SOURCE, "activations")
    examples = read_examples(made.results, "g.0")
    assert len({row["id"] for row in activations}) == len(activations)
    seen = 0
    for index in sorted({int(row["index"]) for row in activations})[:20]:
        own = [row for row in activations if int(row["index"]) == index]
        latent = examples.latent(index)
        for row, example in zip(own, latent.examples, strict=True):
            assert row["tokens"] == [token or "∅" for token in example.tokens]
            np.testing.assert_allclose(row["values"], example.values, rtol=1e-5)
            assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"]
            assert row["qualifyingTokenIndex"] == example.peak
            bounds = (row["binMin"], row["binMax"], row["binContains"])
            if example.band == "top":
                assert bounds == (-1, -1, -1)
                continue
            seen += 1
            assert bounds[2] == 0.25
            # bounds come from a histogram
            width = latent.histogram_edges[1]
            assert bounds[0] - width <= example.activation <= bounds[1] + width
    assert seen > 10


def test_explanations_carry_stability_and_matches(exported: Path) -> None:
    found = {int(r["index"]): r for r in rows(exported / SOURCE, "explanations")}
    features = rows(exported / SOURCE, "features")
    assert sorted(found) == sorted(int(row["index"]) for row in features)
    text = found[7]["description"]
    note = f"Shared by 1 of 1 other seeds (seed 1: latent {7 + MOVED}, cosine 1.00"
    assert text.startswith(f"birds of prey [{note} decoder, 1.00 encoder")
    assert note in found[7]["notes"]
    assert len(found[9]["description"]) == 512
    assert note.replace("47", "49") in found[9]["description"]
    alone = found[200]["description"]
    assert alone.startswith("Shared by 0 of 1 other seeds (seed 1: not shared, nearest")


def test_equal_results_give_equal_bytes_and_the_folder_is_updated(
    exported: Path, made: Made, tmp_path: Path
) -> None:
    for _ in range(2):
        write_export(made.sources(sae_ids=["g.0"]), tmp_path / "again")
    again = folder_hashes(tmp_path / "again" / MODEL / SOURCE)
    assert again == folder_hashes(exported / SOURCE)
    assert "features/batch-0.jsonl.gz" in again


def test_an_example_over_a_limit_is_named(made: Made) -> None:
    (source,) = made.sources(sae_ids=["g.0"])
    latent = source.latent(7)
    latent.examples[0].values[0] = float("nan")
    with pytest.raises(InputError, match=r"Latent 7 .* an activation is not finite"):
        feature(source, latent)


def test_what_cannot_be_exported_is_refused(made: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean 'g.0'"):
        made.sources(sae_ids=["g-0"])
    with pytest.raises(InputError, match="takes no model named 'x'"):
        made.sources(model="x")
    (tmp_path / "results").mkdir()
    with pytest.raises(InputError, match="has no result of 'examples'"):
        Made(made.release, tmp_path / "results").sources()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds files that this package did not write"):
        write_export(made.sources(), tmp_path / "mine")
