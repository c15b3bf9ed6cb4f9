"""The study on images: groups, choices on validation images, claims, caches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from eval_recipes.studies.framework.definition import Scale, Study
from eval_recipes.studies.framework.run import run_study, with_cache
from eval_recipes.studies.vision import figures
from eval_recipes.studies.vision import study as vision
from eval_recipes.studies.vision.figures import HELD_OUT, PURITY, R2
from eval_recipes.studies.vision.study import (
    KS,
    LAMBDAS,
    METHODS,
    PAIRS,
    SIZES,
    STUDY,
)
from saereg_plugin.activations.cache import open_cache
from saereg_plugin.activations.opening import open_source
from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig
from saereg_plugin.sweeps.config import group_fields
from tests.eval_recipes.studies.planted import planted_frame
from tests.eval_recipes.vision.tiny_images import (
    D_IN,
    POINT,
    source_config,
    write_images,
    write_model,
)

SCALES: tuple[Scale, ...] = ("small", "paper")
ROOT = Path(__file__).parents[4]


def candidates(scale: Scale) -> pd.DataFrame:
    """What the stages that choose may find: penalties below 1e-3 cost nothing."""
    frames = []
    for pair in PAIRS[scale]:
        sweep = vision._candidates(pair, SIZES[scale], pd.DataFrame())
        costs = {
            name: "lambda" in name and float(name.split("lambda")[1]) > 1e-3
            for name in sweep.groups
        }
        figures = {name: {R2: [0.7 if cost else 0.8]} for name, cost in costs.items()}
        frames.append(planted_frame(figures, stage=f"{pair.name}-choice"))
    return pd.concat(frames)


def groups_of(scale: Scale) -> dict[str, Any]:
    """Fields of the groups of the table."""
    frame = candidates(scale)
    stages = [stage for stage in STUDY.plan(scale).stages if stage.in_table]
    return {
        k: v for stage in stages for k, v in group_fields(stage.sweep(frame)).items()
    }


@pytest.mark.parametrize("scale", SCALES)
def test_claims_and_published_numbers_are_of_groups_that_exist(scale: Scale) -> None:
    groups = groups_of(scale)
    assert len(groups) == len(PAIRS[scale]) * len(KS) * 6
    titles = {column.title for column in STUDY.columns}
    claims = STUDY.claims(scale)
    assert len({claim.text for claim in claims}) == len(claims)
    for claim in claims:
        assert {claim.group, claim.other} <= set(groups)
        assert claim.figure in titles
    published = STUDY.published(scale)
    assert len({(n.group, n.column) for n in published}) == len(published)
    for number in published:
        assert number.group in groups
        assert number.column in titles
    encoders = {number.group.split("-")[0] for number in published}
    assert encoders == ({"mnist"} if scale == "small" else {"clip", "siglip2", "vit"})


def test_statements_on_purity_are_held_out_and_the_probe_has_enough_images() -> None:
    found = STUDY.claims("small")
    shown = {claim.figure for claim in found}
    assert HELD_OUT.title in shown and PURITY.title not in shown
    on_probe = {c.group for c in found if c.figure == figures.AREA.title}
    assert on_probe == {f"mnist-k{k}-ratio" for k in KS}
    stages = {stage.name: stage for stage in STUDY.plan("small").stages}
    assert stages["emoji-saes"].options["vision"]["probe"] is False
    assert stages["mnist-saes"].options["vision"]["probe"] is True


def test_autocast_is_a_setting_of_the_scale() -> None:
    wanted_of: dict[Scale, Any] = {"small": False, "paper": "auto"}
    for scale, wanted in wanted_of.items():
        size = replace(SIZES[scale], n_images=None)
        sweep = vision._candidates(PAIRS[scale][0], size, pd.DataFrame())
        assert sweep.autocast == wanted


def short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def shown(values: Iterable[float]) -> str:
    return "/".join(map(short, values))


def test_the_page_has_the_published_figures_of_the_code() -> None:
    page = (ROOT / "docs" / "studies" / "vision.md").read_text(encoding="utf-8")
    for name, title in (("clip", "CLIP"), ("siglip2", "SigLIP2"), ("vit", "ViT")):
        cells = [
            rf"{shown(binary)} \| {shown(weighted)}"
            for binary, weighted in figures.PURITIES[name].values()
        ]
        assert f"| {title} | {' | '.join(cells)} |" in page
        areas = [" → ".join(map(short, pair)) for pair in figures.AREAS[name].values()]
        assert ", ".join(areas) in page.replace("\n", " ")
    for name, title in (("siglip2", "SigLIP2"), ("vit", "ViT")):
        cells = [
            " → ".join(f"{shown(each[:2])}/{each[2]}" for each in methods)
            for methods in figures.RECONSTRUCTION[name].values()
        ]
        assert f"| {title}, ImageNet | {' | '.join(cells)} |" in page
    dead = [f"{a:,} → {b:,}" for a, b in figures.CLIP_DEAD.values()]
    assert f"CLIP on ImageNet {', '.join(dead)}" in page
    assert " and ".join(map(short, figures.MONO_LOSS)) in page


def test_lambda_is_the_largest_that_reaches_the_baseline_on_validation_images() -> None:
    pair, size = PAIRS["small"][0], SIZES["small"]
    found = vision.choices(pair, size, candidates("small"))
    assert [choice.name for choice in found] == [
        f"emoji-k{k}-{method}" for k in KS for method in METHODS
    ]
    chosen = {choice.name.split("-", 2)[2]: choice.coefficient for choice in found}
    assert chosen == {"off-support": 1e-3, "ratio": 1e-3, "mono": LAMBDAS["mono"][0]}
    first, second, *_ = STUDY.plan("small").stages
    assert first.options["vision"]["part"] == "validation"
    assert second.options["vision"]["part"] == "test"
    without = candidates("small").query("group != 'emoji-k32-baseline'")
    with pytest.raises(InputError, match="'emoji-k32-baseline' has no R2"):
        vision.choices(pair, size, without)


def test_methods_differ_from_the_baseline_in_their_penalty_only() -> None:
    groups = groups_of("small")
    for pair in PAIRS["small"]:
        for k in KS:
            base = groups[f"{pair.name}-k{k}-baseline"]
            for method in METHODS:
                found = groups[f"{pair.name}-k{k}-{method}"]
                assert {**found, "regularizers": []} == base
            mono = groups[f"{pair.name}-k{k}-mono"]["regularizers"]
            assert mono == [
                {"name": "mono_loss", "coefficient": LAMBDAS["mono"][0] * pair.d_in}
            ]
            masks = [
                groups[f"{pair.name}-k{k}-off-support{end}"]["regularizers"][0]["mask"]
                for end in ("", "-unmasked")
            ]
            assert masks == ["batch_active", "none"]


def test_the_width_of_each_encoder_is_that_of_the_penalties() -> None:
    from saereg_plugin.activations.opening import describe_source

    for pair in PAIRS["small"]:
        facts = describe_source(pair.source)
        assert list(facts.points.values()) == [pair.d_in]
        assert facts.model in SIZES["small"].judges


def test_the_papers_scale_needs_a_folder_of_imagenet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="imagenet|openai"):
        run_study(STUDY, "paper", tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "study.json").exists()


@pytest.fixture
def tiny_source(tmp_path: Path) -> dict[str, Any]:
    model, images = tmp_path / "model", tmp_path / "images"
    return source_config(write_model(model), write_images(images, train=16, heldout=32))


def test_a_module_is_read_from_a_cache_that_is_written_once(
    tiny_source: dict[str, Any], tmp_path: Path
) -> None:
    sweep = SweepConfig(
        source=tiny_source, sae={}, groups={"a": {}}, llm_dtype="float32"
    )
    told: list[str] = []
    found = [with_cache(sweep, tmp_path / "cached", "cpu", told.append) for _ in "ab"]
    assert found[0] == found[1] and len(told) == 1
    assert found[0] is not None and found[0].source is not None
    source: Any = open_cache(found[0].source["path"])
    direct: Any = open_source(tiny_source)
    numbers = torch.arange(5)
    assert torch.equal(
        next(source.passes(numbers)).activations[POINT],
        next(direct.passes(numbers)).activations[POINT],
    )
    text = SweepConfig(sae={}, groups={"a": {}})
    assert with_cache(text, tmp_path / "cached", "cpu", told.append) is text


@pytest.mark.slow
def test_a_tiny_study_runs_and_resumes(
    tiny_source: dict[str, Any], tmp_path: Path
) -> None:
    pair = vision.Pair("tiny", tiny_source, d_in=D_IN, image_size=None)
    size = vision.Size(
        d_sae=24,
        rows=96,
        batch_size=32,
        lr=1e-3,
        judges=(str(tiny_source["model"]),),
        ks=(2,),
        lambdas={"off-support": (1e-9,)},
        seeds=(1, 2),
    )
    plan = vision.plan([pair], size)
    study = Study(
        name="tiny-vision",
        paper="none",
        summary="A few steps.",
        plan=lambda _: plan,
        columns=STUDY.columns,
        claims=lambda _: (),
    )
    run = run_study(study, "small", tmp_path / "out", device="cpu")
    assert run.finished and run.failures == []
    assert [choice.name for choice in run.choices] == ["tiny-k2-off-support"]
    table = (tmp_path / "out" / "table.md").read_text()
    for end in ("baseline", "off-support", "off-support-unmasked"):
        assert f"| tiny-k2-{end} | 2 |" in table
    told: list[str] = []
    again = run_study(
        study, "small", tmp_path / "out", device="cpu", progress=told.append
    )
    assert again.finished
    assert "12 of 12 results are current and kept." in told
