"""The evaluation on a tiny vision model: figures, tables, what is refused, resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.base_eval_output import BaseEvalOutput

from eval_recipes.results.files import read_result, result_files
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.evaluation import schema_files
from eval_recipes.running.run import run_evals
from eval_recipes.vision.images import (
    chosen_images,
    judge_embeddings,
    pooled_output,
)
from eval_recipes.vision.options import VisionEvalConfig
from saereg_plugin.activations.opening import open_source
from saereg_plugin.errors import InputError
from saereg_plugin.sources.modules import load_module
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.eval_recipes.vision.tiny_images import (
    POINT,
    image_sae,
    source_config,
    write_images,
    write_model,
)
from tests.oracles import vision_oracle as oracle


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "colours")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return write_model(folder / "own"), write_model(folder / "judge", seed=1)


@pytest.fixture(scope="module")
def config(models: tuple[Path, Path], images: Path) -> dict[str, Any]:
    return source_config(models[0], images)


@pytest.fixture(scope="module")
def subjects(
    config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> list[Subject]:
    saes = {f"sae-seed{seed}": image_sae(config, seed=seed) for seed in (0, 1)}
    broken = image_sae(config, seed=2)
    broken.W_dec.data[:] = float("nan")
    return save_release(
        tmp_path_factory.mktemp("saes") / "images", {**saes, "broken": broken}
    )


def context_of(
    subjects: list[Subject], out: Path, judges: list[str], **options: Any
) -> RunContext:
    settings = {"n_blocks": 10, "judges": judges, **options}
    return RunContext(subjects, out, options={"vision": settings})


@pytest.fixture(scope="module")
def out(
    subjects: list[Subject],
    models: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Results of all SAEs by two judges, of which one is their own model."""
    folder = tmp_path_factory.mktemp("results")
    context = context_of(subjects, folder, [str(model) for model in models])
    outcome = run_evals(["vision"], context)
    assert [failure.sae_id for failure in outcome.failures] == ["broken"]
    assert "NaN or infinity" in outcome.failures[0].cause
    return folder


def records(out: Path) -> list[dict[str, Any]]:
    return [read_result(path) for path in sorted(result_files(out))]


def activations_of(config: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out activations [images, rows, d_in] and labels, one image at a time."""
    source: Any = open_source(config, split="heldout")
    assert source.metadata(POINT)["activation_source"]["split"] == "heldout"
    rows = [
        next(source.passes(torch.tensor([n]))).activations[POINT]
        for n in range(source.n_inputs)
    ]
    return torch.cat(rows), source.labels


def test_results_have_the_schema_and_a_row_per_latent(out: Path) -> None:
    found = records(out)
    assert [record["sae_lens_id"] for record in found] == ["sae-seed0", "sae-seed1"]
    ((path, _),) = schema_files("vision").items()
    schema = json.loads(path.read_text(encoding="utf-8"))
    for record in found:
        TypeAdapter(BaseEvalOutput[Any, Any, Any]).validate_python(record)
        jsonschema.validate(record, schema)
        about = record["eval_result_unstructured"]["latents"]
        table = pd.read_parquet(out / "vision" / about["file"])
        assert about["rows"] == len(table) == 32
        assert record["eval_result_unstructured"]["images"] == 60


def test_figures_are_those_of_plain_loops(
    out: Path, config: dict[str, Any], models: tuple[Path, Path]
) -> None:
    record = records(out)[0]
    metrics = record["eval_result_metrics"]
    x, labels = activations_of(config)
    sae: Any = image_sae(config, seed=0)
    with torch.no_grad():
        acts = sae.encode(x)
        made = sae.decode(acts)
    whole, each = oracle.r2(x.flatten(0, 1).tolist(), made.flatten(0, 1).tolist())
    assert metrics["reconstruction"]["r2"] == pytest.approx(whole, rel=1e-5)
    assert metrics["reconstruction"]["r2_per_dimension"] == pytest.approx(each)
    codes = acts.amax(1)
    embeddings = {"own": x.double().mean(1), "judge": embedded_by(models[1], config)}
    for name, rows in embeddings.items():
        scores = [oracle.monosemanticity(c, rows.tolist()) for c in codes.T.tolist()]
        defined = [score for score in scores if score == score]
        mean, floor = sum(defined) / len(defined), oracle.mean_cosine(rows.tolist())
        found = metrics["monosemanticity"]
        assert found[f"{name}_score"] == pytest.approx(mean, rel=1e-5)
        assert found[f"{name}_floor"] == pytest.approx(floor, rel=1e-5)
        assert found[f"{name}_score_n"] == len(defined)
    pure = [oracle.purity(c, labels.tolist())[0] for c in codes.T.tolist()]
    active = [purity for purity in pure if purity == purity]
    assert metrics["purity"]["binary"] == pytest.approx(sum(active) / len(active))
    assert metrics["robustness"]["nmse_at_64"] is None
    assert metrics["robustness"]["probe_area"] > metrics["robustness"]["probe_chance"]


def embedded_by(model: Path, config: dict[str, Any]) -> torch.Tensor:
    """Class tokens of a model for the held-out images, by transformers itself."""
    source: Any = open_source(config, split="heldout")
    loaded = load_module(str(model))
    pictures = [source.input(n) for n in range(source.n_inputs)]
    with torch.no_grad():
        return loaded.module(**loaded.prepare(pictures).kwargs).pooler_output


def test_the_own_model_is_no_judge(out: Path, models: tuple[Path, Path]) -> None:
    for record in records(out):
        details = record["eval_result_details"]
        assert [detail["judge"] for detail in details] == [str(models[1])]
        scores = record["eval_result_metrics"]["monosemanticity"]
        assert details[0]["score"] == scores["judge_score"]


def test_the_own_model_by_another_name_is_no_judge(
    subjects: list[Subject], models: tuple[Path, Path], tmp_path: Path
) -> None:
    alias = tmp_path / "alias"
    alias.symlink_to(models[0])
    context = context_of(subjects[:1], tmp_path / "out", [str(alias)], probe=False)
    assert run_evals(["vision"], context).failures == []
    (record,) = records(tmp_path / "out")
    assert record["eval_result_details"] == []


def test_with_one_class_the_probe_is_null_and_says_why(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = write_images(tmp_path / "images", train=16, heldout=10)
    for name in ("blue", "green"):
        shutil.rmtree(folder / "test" / name)
    config = source_config(models[0], folder)
    sae = image_sae(config, seed=0)
    subjects = save_release(tmp_path / "one-class", {"sae": sae})
    context = context_of(subjects, tmp_path / "out", [], n_blocks=5)
    assert run_evals(["vision"], context).failures == []
    (record,) = records(tmp_path / "out")
    metrics = record["eval_result_metrics"]
    assert metrics["robustness"]["probe_area"] is None
    assert metrics["robustness"]["nmse_at_1"] is not None
    assert metrics["purity"]["binary"] == 1.0
    about = record["eval_result_unstructured"]
    assert about["without_probe"].endswith("are of one class")


def test_without_judges_and_probe_their_figures_are_null(
    subjects: list[Subject], tmp_path: Path
) -> None:
    context = context_of(subjects[:1], tmp_path, [], probe=False, part="test")
    assert run_evals(["vision"], context).failures == []
    (record,) = records(tmp_path)
    metrics = record["eval_result_metrics"]
    assert metrics["monosemanticity"]["judge_score"] is None
    assert metrics["robustness"]["probe_area"] is None
    assert metrics["monosemanticity"]["own_score"] is not None
    assert record["eval_result_unstructured"]["images"] == 30


def test_a_second_run_keeps_what_is_current(
    subjects: list[Subject], out: Path, models: tuple[Path, Path]
) -> None:
    told: list[str] = []
    judges = [str(model) for model in models]
    context = context_of(subjects, out, judges)
    run_evals(["vision"], context, resume=True, progress=told.append)
    assert any("2 of 3 results are current" in line for line in told)


def test_variants_are_in_one_part_one_block_and_one_half() -> None:
    from saereg_plugin.activations.module import ModuleSource

    class Pictures:
        """Forty pictures; variants of one are scattered among the others."""

        groups = torch.tensor([n % 13 for n in range(40)])

        def __len__(self) -> int:
            return 40

        def __getitem__(self, number: int) -> torch.Tensor:
            return torch.full((3,), float(number))

    source = ModuleSource(
        torch.nn.Sequential(torch.nn.Linear(3, 2)), Pictures(), point="0"
    )
    parts: dict[str, set[int]] = {}
    for part in ("validation", "test"):
        found = chosen_images(source, VisionEvalConfig(part=part, n_blocks=5))  # type: ignore[arg-type]
        groups = Pictures.groups[found.numbers]
        parts[part] = set(groups.tolist())
        for block in found.blocks:
            inside = set(groups[block].tolist())
            assert (
                groups[block.stop :].tolist()
                and inside & set(groups[block.stop :].tolist())
            ) in ([], set())
        first, second = groups[found.first], groups[~found.first]
        assert not set(first.tolist()) & set(second.tolist())
        assert abs(len(first) - len(second)) <= 4
    assert not parts["validation"] & parts["test"]
    assert parts["validation"] | parts["test"] == set(range(13))


def test_images_are_evenly_spaced_and_too_few_are_refused(
    config: dict[str, Any],
) -> None:
    few = VisionEvalConfig(n_images=10, n_blocks=5)
    source = open_source(config, split="heldout")
    found = chosen_images(source, few)
    assert found.numbers.tolist() == [0, 6, 12, 18, 24, 30, 36, 42, 48, 54]
    assert found.labels is not None and set(found.labels.tolist()) == {0, 1, 2}
    with pytest.raises(InputError, match="60 held-out images, which make 60 blocks"):
        chosen_images(source, VisionEvalConfig(n_blocks=100))


SOUND = {"kind": "module", "config": {"kind": "module", "model": "whisper-tiny.en"}}


@pytest.mark.parametrize(
    "source", [None, {"kind": "arrays", "config": {"kind": "arrays"}}, SOUND]
)
def test_saes_on_anything_else_are_refused(
    source: dict[str, Any] | None, tmp_path: Path
) -> None:
    sae = tiny_sae("smollm2-135m-instruct", "blocks.0.hook_mlp_out", torch.ones(4), 0)
    if source is not None:
        sae.cfg.metadata.activation_source = source
    subjects = save_release(tmp_path / "other", {"sae": sae})
    context = context_of(subjects, tmp_path / "out", [])
    with pytest.raises(InputError, match="which vision cannot serve"):
        run_evals(["vision"], context)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("judge", "message"),
    [("no-such-model", "Unknown model 'no-such-model'"), ("whisper-tiny.en", "clips")],
)
def test_a_wrong_judge_is_refused(
    judge: str, message: str, subjects: list[Subject], tmp_path: Path
) -> None:
    context = context_of(subjects, tmp_path / "out", [judge])
    with pytest.raises(InputError, match=message):
        run_evals(["vision"], context)


def test_judges_need_the_images(config: dict[str, Any]) -> None:
    source = open_source(config, split="heldout")
    found = chosen_images(source, VisionEvalConfig(n_blocks=5))
    bare: Any = type("Bare", (), {"kind": "cache", "source": found.source})()
    bare.source = bare
    with pytest.raises(InputError, match="needs the images"):
        judge_embeddings("squeezenet", bare, image_size=None, device="cpu")


def test_the_pooled_output_is_one_row_per_image(models: tuple[Path, Path]) -> None:
    loaded = load_module(str(models[1]))
    assert pooled_output(torch.ones(2, 5, 3, 3), loaded).shape == (2, 5)
    tokens = torch.arange(24.0).view(2, 4, 3)
    assert torch.equal(pooled_output(tokens, loaded), tokens[:, 0])
    assert pooled_output(torch.ones(2, 7), loaded).shape == (2, 7)
    with pytest.raises(InputError, match="returns str"):
        pooled_output("logits", loaded)
