"""Presets: conversions against the papers' losses in plain code, and who decided what."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.errors import InputError
from saereg_plugin.presets import (
    PRESETS,
    PaperLoss,
    Preset,
    freq_sae,
    loss_factor,
    mutual_feature,
    off_support_topk,
    ort_sae,
    sae_lens_coefficient,
    temporal_sae,
    vasae,
    weight_regularized_mnist,
    weight_regularized_topk,
)
from saereg_plugin.presets import page as presets_page
from saereg_plugin.presets.page import updated, write_page
from saereg_plugin.sweeps import SweepConfig

D_IN, D_SAE, BATCH = 6, 10, 5
PAGE = Path(__file__).parents[2] / "docs/presets.md"


def random_sae(seed: int) -> dict[str, torch.Tensor]:
    """Weights of a ReLU SAE and a batch, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "x": (BATCH, D_IN),
        "W_enc": (D_IN, D_SAE),
        "W_dec": (D_SAE, D_IN),
        "b_enc": (D_SAE,),
        "b_dec": (D_IN,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def forward(sae: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Activations and residual."""
    z = torch.relu((sae["x"] - sae["b_dec"]) @ sae["W_enc"] + sae["b_enc"])
    return z, sae["x"] - (z @ sae["W_dec"] + sae["b_dec"])


def scaled(sae: dict[str, torch.Tensor], by: float) -> dict[str, torch.Tensor]:
    """The same SAE for activations ``by`` times as large: weights stay, biases grow."""
    return {
        name: tensor if name.startswith("W_") else tensor * by
        for name, tensor in sae.items()
    }


def penalty_of(
    degree: int, sae: dict[str, torch.Tensor], z: torch.Tensor
) -> torch.Tensor:
    """A penalty that grows with the power ``degree`` of activations."""
    if degree == 0:
        return sae["W_enc"].square().sum() + sae["W_dec"].abs().sum()
    return z.sum(-1).mean() if degree == 1 else (z[1:] - z[:-1]).square().mean()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    degree=st.sampled_from([0, 1, 2]),
    error=st.sampled_from(["sum", "mean"]),
    scale=st.sampled_from(["unit_mean_square", "as_trained"]),
    coefficient=st.floats(1e-5, 1.0),
)
def test_sae_lens_loss_is_the_papers_times_the_factor(
    seed: int, degree: int, error: Any, scale: Any, coefficient: float
) -> None:
    paper = PaperLoss(error=error, scale=scale)
    theirs = random_sae(seed)
    z, residual = forward(theirs)
    squares = residual.square()
    reconstruction = squares.sum(-1).mean() if error == "sum" else squares.mean()
    published = reconstruction + coefficient * penalty_of(degree, theirs, z)

    ours = scaled(theirs, D_IN**0.5 if scale == "unit_mean_square" else 1.0)
    z, residual = forward(ours)
    converted = sae_lens_coefficient(coefficient, paper=paper, degree=degree, d_in=D_IN)
    loss = residual.square().sum(-1).mean() + converted * penalty_of(degree, ours, z)
    torch.testing.assert_close(loss, published * loss_factor(paper, d_in=D_IN))


def test_refuses_what_has_no_conversion() -> None:
    with pytest.raises(InputError, match="degree=3; expected 0, 1 or 2"):
        sae_lens_coefficient(1.0, paper=PaperLoss(), degree=3, d_in=4)
    with pytest.raises(InputError, match="d_in=0; expected at least 1"):
        sae_lens_coefficient(1.0, paper=PaperLoss(), degree=1, d_in=0)
    wrong: Any = "median"
    with pytest.raises(InputError, match="error is 'median'"):
        PaperLoss(error=wrong)


def coefficient_of(preset: Preset, index: int = 0, **widths: int) -> float:
    return preset.sae_fields(**widths)["regularizers"][index]["coefficient"]


def test_coefficients_at_the_papers_widths() -> None:
    assert coefficient_of(weight_regularized_topk()) == pytest.approx(1e-4 * 512)
    assert coefficient_of(freq_sae()) == pytest.approx(0.04 * 48)
    assert coefficient_of(vasae()) == pytest.approx(1e-4 * 768)
    assert coefficient_of(temporal_sae()) == 1e-4
    assert temporal_sae().sae_fields()["l1_coefficient"] == pytest.approx(
        0.04 * 2048**0.5
    )
    assert coefficient_of(off_support_topk(coefficient=1.0)) == pytest.approx(768**0.5)
    assert coefficient_of(weight_regularized_topk(), d_in=576) == pytest.approx(0.0576)


@pytest.mark.parametrize("make", [mutual_feature, ort_sae])
def test_cosine_penalties_are_converted_for_the_loss_they_are_given_for(
    make: Any,
) -> None:
    plain = coefficient_of(make(), d_in=64)
    assert plain == {mutual_feature: 1.0, ort_sae: 0.25}[make]
    for paper in (PaperLoss(scale="unit_mean_square"), PaperLoss(error="mean")):
        assert coefficient_of(make(paper_loss=paper), d_in=64) == plain * 64
        assert loss_factor(paper, d_in=64) == pytest.approx(64)
    both = PaperLoss(scale="unit_mean_square", error="mean")
    assert coefficient_of(make(paper_loss=both), d_in=64) == plain * 64**2


@pytest.mark.parametrize("penalty", ["none", "l1", "l2", "frobenius"])
def test_mnist_loss_is_d_in_times_the_papers(penalty: Any) -> None:
    sae = random_sae(3)
    z, residual = forward(sae)
    weights = [sae["W_enc"], sae["W_dec"]]
    strength, norm = {
        "none": (0.0, lambda w: w.sum() * 0),
        "l1": (1e-3, lambda w: w.abs().mean()),
        "l2": (1e-5, lambda w: w.square().sum()),
        "frobenius": (1e-5, lambda w: w.norm()),
    }[penalty]
    paper = (
        residual.square().mean()
        + 0.1 * z.abs().mean()
        + strength * sum(norm(w) for w in weights)
    )

    fields = weight_regularized_mnist(penalty=penalty).sae_fields(
        d_in=D_IN, d_sae=D_SAE
    )
    assert fields["l1_coefficient"] == 0
    activations, *others = fields["regularizers"]
    assert activations["beta"] == 0
    ours = residual.square().sum(-1).mean()
    ours = ours + activations["coefficient"] * z.sum(-1).mean()
    assert len(others) == (penalty != "none")
    for other in others:
        assert (other["norm"], other["target"]) == (penalty, "both")
        reduce = {
            ("l1", "mean"): lambda w: w.abs().mean(),
            ("l2", "sum"): lambda w: w.square().sum(),
            ("frobenius", "sum"): lambda w: w.norm(),
        }[other["norm"], other["reduction"]]
        ours = ours + other["coefficient"] * sum(reduce(w) for w in weights)
    torch.testing.assert_close(ours, D_IN * paper)


HOW_IT_RUNS = {
    # where and in what precision
    *("device", "dtype", "sparse_step", "use_sparse_activations"),
    # written by SAELens; shape of a hook; one of the run's seeds
    *("metadata", "reshape_activations", "init_seed"),
}
"""Fields that are no part of a method."""

NAMES_AND_PLACES = {"name", "label", "embeddings", "context_size"}
"""Of a regulariser or mechanic: names in logs, a file's place, what the run says itself."""


def open_questions(preset: Preset) -> set[str]:
    """Every field of the configuration as it is built, and of each of its parts, and of the run."""
    cfg: Any = preset.sae(d_in=48, d_sae=640)
    parts = [part.to_dict() for part in (*cfg.regularizers, *cfg.mechanics)]
    return (
        {"architecture"}
        | {item.name for item in dataclasses.fields(preset.run)}
        | ({item.name for item in dataclasses.fields(cfg)} - HOW_IT_RUNS)
        | {
            f"{part['name']}.{key}"
            for part in parts
            for key in part
            if key not in NAMES_AND_PLACES
        }
    )


@pytest.mark.parametrize("name", PRESETS)
def test_every_field_is_stated_or_chosen_for_a_reason(name: str) -> None:
    preset = PRESETS[name]()
    assert preset.name == name
    decided = {*preset.stated, *preset.chosen}
    asked = open_questions(preset)
    assert sorted(asked - decided) == []
    assert sorted(decided - asked) == []
    assert [field for field, why in preset.chosen.items() if not why.strip()] == []
    if preset.paper[0].isdigit():
        assert preset.paper in (PRESETS[name].__doc__ or "")


def test_the_page_is_generated_from_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == updated(text), (
        "docs/presets.md is not what the presets give. Write it anew: "
        "saereg_plugin.presets.page.write_page(Path('docs/presets.md'))"
    )
    for name, make in PRESETS.items():
        assert f"\n### {name}\n" in text
        fields = [*make().stated, *make().chosen]
        shown = [
            field for field in fields if f"`{field}`" in text or f"`{field}=" in text
        ]
        assert shown == fields


def test_the_page_follows_a_preset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "presets.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    changed = dataclasses.replace(freq_sae(), d_sae=12_345)
    monkeypatch.setattr(presets_page, "PRESETS", {"freq_sae": lambda: changed})
    write_page(page)
    assert "2,304, 12,345" in page.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="expected the lines '<!-- generated: over"):
        updated("# Presets")


@pytest.mark.parametrize("name", PRESETS)
def test_config_takes_the_widths_given_and_survives_json(name: str) -> None:
    preset = PRESETS[name]()
    cfg = preset.sae(d_in=32, d_sae=64 * 4)
    assert isinstance(cfg, RegularizedConfigMixin)
    assert (cfg.d_in, cfg.d_sae) == (32, 256)
    assert cfg.architecture() == preset.architecture
    fields = preset.sae_fields(d_in=32, d_sae=256)
    assert json.loads(json.dumps(fields)) == fields
    again = type(cfg).from_dict(json.loads(json.dumps(cfg.to_dict())))
    assert again == cfg
    paper = preset.sae()
    assert (paper.d_in, paper.d_sae) == (preset.d_in, preset.d_sae)


@pytest.mark.parametrize("name", PRESETS)
def test_sweep_fields_make_a_sweep(name: str) -> None:
    preset = PRESETS[name]()
    given: dict[str, Any] = {
        "model": "gpt2",
        "hook_name": "blocks.1.hook_resid_post",
        "corpus": "c",
    }
    sweep = SweepConfig(**preset.sweep_fields(d_in=768, **given, seeds=(0,)))
    assert sweep.model == "gpt2"
    assert sweep.seeds == (0,)
    assert sweep.lr == preset.run.lr
    assert sweep.steps == preset.run.steps
    assert sweep.sae["d_sae"] == preset.d_sae


def test_images_need_a_model_of_yours() -> None:
    with pytest.raises(InputError, match="give model, hook_name, corpus, and d_in"):
        weight_regularized_mnist().sweep_fields()


def test_single_fields_may_be_replaced_and_unknown_ones_are_refused() -> None:
    preset = weight_regularized_topk(k=40)
    cfg: Any = preset.sae(k=20, init_seed=3)
    assert (cfg.k, cfg.init_seed) == (20, 3)
    assert preset.sweep_fields(sae={"k": 7})["sae"]["k"] == 7
    with pytest.raises(InputError, match="'regularized_topk' has no field 'kk'"):
        preset.sae(kk=3)


def test_the_weight_regularized_run_is_the_papers() -> None:
    run = weight_regularized_topk().run
    assert run.steps == 24_414
    assert run.dead_feature_window == 4883
    mechanics = weight_regularized_topk().sae_fields()["mechanics"]
    assert [mechanics[0][key] for key in ("name", "steps")] == ["k_annealing", 244]
    assert temporal_sae().run.steps == 4882


def test_temporal_runs_differ_in_their_mechanics_only() -> None:
    def names(**switches: bool) -> list[str]:
        fields = temporal_sae(**switches).sae_fields()
        return [mechanic["name"] for mechanic in fields["mechanics"]]

    off = {"clipping": False, "resampling": False, "gradient_scaling": False}
    assert names(**off) == ["weight_decay"]
    assert names() == [
        *("weight_decay", "gradient_clipping"),
        *("resampling", "activation_rate_scaling"),
    ]
    fields = [temporal_sae(**switches).sae_fields() for switches in (off, {})]
    for one in fields:
        del one["mechanics"]
    assert fields[0] == fields[1]


def test_a_field_cannot_be_both_stated_and_chosen() -> None:
    preset = freq_sae()
    with pytest.raises(InputError, match=r"lists \['corpus'\] as stated and as chosen"):
        dataclasses.replace(preset, stated=(*preset.stated, "corpus"))
