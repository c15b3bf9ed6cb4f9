"""Sweeps from flags, alone and on top of a file or a preset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from saereg_plugin import InputError
from saereg_plugin.config import MechanicConfig, RegularizerConfig
from saereg_plugin.presets import PRESETS
from saereg_plugin.registry import MECHANICS, REGULARIZERS
from saereg_plugin.sweeps import (
    SweepConfig,
    expand,
    is_regularized,
    read_sweep,
    sweep_from_flags,
)
from saereg_plugin.sweeps.config import group_fields
from saereg_plugin.sweeps.flags import components_from
from tests.cut_model import cut_model
from tests.sweeps.tiny import D_IN, HOOK, fields

DEFAULTS: dict[str, Any] = {
    "model": "smollm2-135m-instruct",
    "hook": HOOK,
    "corpus": "embedded",
    "architecture": ["regularized_topk"],
    "d_sae": 4608,
    "norm": "l2",
    "lr": 3e-4,
    "device": "auto",
}


def swept(
    config: Path | None = None, preset: str | None = None, **given: Any
) -> SweepConfig:
    """The sweep of a command line with these flags."""
    return sweep_from_flags({**DEFAULTS, **given}, given, config=config, preset=preset)


def regularizers(text: str) -> list[dict[str, Any]]:
    return components_from(text, RegularizerConfig, REGULARIZERS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "weight_penalty=0.005",
            [{"name": "weight_penalty", "coefficient": 0.005}],
        ),
        (
            "off_support_l1=.01,mask=none",
            [{"name": "off_support_l1", "coefficient": 0.01, "mask": "none"}],
        ),
        (
            "weight_penalty=1e+2+off_support_l1=1e-2",
            [
                {"name": "weight_penalty", "coefficient": 100.0},
                {"name": "off_support_l1", "coefficient": 0.01},
            ],
        ),
        (
            "weight_penalty:coefficient=1,schedule.warm_up_steps=5,schedule.anneal=none",
            [
                {
                    "name": "weight_penalty",
                    "coefficient": 1,
                    "schedule": {"warm_up_steps": 5, "anneal": "none"},
                }
            ],
        ),
        (
            "off_support_l1:coefficient=.01",
            [{"name": "off_support_l1", "coefficient": 0.01}],
        ),
        (
            ' {"name": "weight_penalty", "coefficient": 1, "norm": "l1"}',
            [{"name": "weight_penalty", "coefficient": 1, "norm": "l1"}],
        ),
        (
            '[{"name": "weight_penalty", "coefficient": 1}]',
            regularizers("weight_penalty=1"),
        ),
        ("weight_penalty=0", [{"name": "weight_penalty", "coefficient": 0}]),
        ("none", []),
    ],
)
def test_a_regulariser_is_read_from_its_short_form_or_json(
    text: str, expected: list[dict[str, Any]]
) -> None:
    assert regularizers(text) == expected


def test_the_value_of_a_mechanic_is_that_of_its_first_field() -> None:
    text = "weight_decay=0.01+gradient_clipping:max_norm=0.5"
    assert components_from(text, MechanicConfig, MECHANICS) == [
        {"name": "weight_decay", "decay": 0.01},
        {"name": "gradient_clipping", "max_norm": 0.5},
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "weight_penalti=1",
            "Unknown regulariser 'weight_penalti'. Did you mean 'weight",
        ),
        ("=1", "Unknown regulariser ''. Known: "),
        ("weight_penalty=l2", "coefficient is 'l2'; expected a finite number"),
        ("weight_penalty=-1", "coefficient is -1; expected a finite number, 0 or more"),
        (
            "weight_penalty:nrm=l1",
            "Regulariser 'weight_penalty' has no field 'nrm'. Did you mean 'norm'?",
        ),
        ("weight_penalty:l1", "has 'l1'; expected field=value. Several values of"),
        (
            "weight_penalty",
            "has no coefficient and would do nothing; write for example weigh",
        ),
        ('{"name": "weight_penalty"', "is no JSON"),
        ('{"coefficient": 1}', "has no name; expected for example"),
    ],
)
def test_a_regulariser_that_cannot_be_read_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        regularizers(text)
    assert message in str(caught.value)


def test_each_regulariser_is_a_group() -> None:
    both = "weight_penalty=0.01+off_support_l1=0.02"
    sweep = swept(
        regularizer=["none", "off_support_l1:coefficient=0.01,mask=none", both],
        coefficient=[0.005],
        mechanic=["gradient_clipping=0.5", "weight_decay=0.01"],
        k=[8, 16],
    )
    assert list(sweep.groups) == [
        "l2-0.005",
        "none",
        "off_support_l1-0.01-masknone",
        "weight_penalty-0.01+off_support_l1-0.02",
    ]
    assert sweep.groups["none"] == {"regularizers": []}
    assert sweep.sae["mechanics"][-1] == {"name": "weight_decay", "decay": 0.01}
    assert sweep.grid == {"k": [8, 16]}
    assert is_regularized(sweep)


def test_a_long_name_of_a_group_is_cut_and_stays_its_own() -> None:
    text = "weight_penalty=1,norm=l1,schedule.anneal=linear,schedule.anneal_steps="
    groups = list(swept(regularizer=[f"{text}7", f"{text}8"]).groups)
    assert len(set(groups)) == 2
    assert all(
        len(name) < 80 and name.startswith("weight_penalty-1-norml1") for name in groups
    )


def test_without_a_regulariser_there_is_one_plain_group() -> None:
    sweep = swept()
    assert sweep.groups == {"none": {"regularizers": []}}
    assert not is_regularized(sweep)
    assert not is_regularized(swept(coefficient=[0.0]))
    assert sweep.sae["normalize_activations"] == "expected_average_only_in"


def test_expansion_is_a_multiple_of_the_width() -> None:
    sweep = swept(model=str(cut_model()), expansion=4, k=[8])
    assert sweep.sae["d_sae"] == 4 * D_IN
    assert expand(sweep)[0].cfg.d_sae == 4 * D_IN


def test_flags_win_over_the_fields_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    groups = {"plain": {}, "wide": {"d_sae": 256, "regularizers": []}}
    path.write_text(yaml.safe_dump(fields(groups=groups, grid={"k": [4, 8]})))
    assert swept(path) == read_sweep(path)
    sweep = swept(path, lr=5e-4, k=[16], expansion=2, seed=[7], device="cpu")
    assert (sweep.lr, list(sweep.seeds), sweep.grid) == (5e-4, [7], {})
    assert {
        name: (each["k"], each["d_sae"]) for name, each in group_fields(sweep).items()
    } == {
        "plain": (16, 2 * D_IN),
        "wide": (16, 2 * D_IN),
    }
    assert sweep.batch_size == read_sweep(path).batch_size
    regularised = swept(path, regularizer=["off_support_l1=0.01"])
    assert list(regularised.groups) == ["off_support_l1-0.01"]
    assert regularised.grid == {"k": [4, 8]}


def test_a_file_needs_only_what_the_flags_leave_open(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("lr: 1e-3")
    with pytest.raises(InputError, match="the field 'sae' is missing"):
        swept(path)
    with pytest.raises(InputError, match="the field 'sae' is missing"):
        swept(path, hook=HOOK)
    sweep = swept(path, hook=HOOK, architecture=["regularized_topk"], k=[4])
    assert sweep == SweepConfig(
        hook_name=HOOK, sae={"architecture": "regularized_topk", "k": 4}, lr=1e-3
    )


@pytest.mark.parametrize("part", [{"groups": [1]}, {"sae": 5}, {"grid": "k"}, [1, 2]])
def test_a_malformed_file_is_refused_by_name(tmp_path: Path, part: Any) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(fields(**part) if isinstance(part, dict) else part))
    with pytest.raises(InputError, match=r"sweep\.yaml: "):
        swept(path, k=[4])


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_trained_where_the_flags_say(name: str) -> None:
    model = str(cut_model())
    sweep = swept(preset=name, model=model, hook=HOOK, d_sae=1024, lr=1e-4)
    assert (sweep.model, sweep.hook_name, sweep.lr) == (model, HOOK, 1e-4)
    assert list(sweep.groups) == [name]
    paper = PRESETS[name]()
    assert sweep.batch_size == paper.run.batch_size
    expected = paper.sae_fields(d_in=D_IN, d_sae=1024)
    assert {**sweep.sae, "d_sae": 1024} == {**expected, "d_sae": 1024}


VISION = {"kind": "module", "model": "dinov2-small", "point": "a", "data": "emoji"}


def test_flags_replace_fields_of_the_source_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"sae": {}, "source": VISION}))
    sweep = swept(path, hook=["b", "c"], model="squeezenet", rows="mean", image_size=64)
    assert sweep.source == {
        **VISION,
        "model": "squeezenet",
        "point": ["b", "c"],
        "rows": "mean",
        "image_size": 64,
    }
    sweep = swept(path, data=["mnist"], source="module")
    assert sweep.source == {**VISION, "data": "mnist"}
    assert swept(path, source="language_model").source is None


def test_flags_of_another_source_are_refused(tmp_path: Path) -> None:
    path, arrays = tmp_path / "sweep.yaml", tmp_path / "a.npy"
    arrays.touch()

    def refused(in_file: Any, **given: Any) -> str:
        path.write_text(yaml.safe_dump({"sae": {}, "source": in_file}))
        with pytest.raises(InputError) as caught:
            swept(path, **given)
        return str(caught.value)

    assert "--corpus is the text of a language" in refused(VISION, corpus="my-text")
    kept = {"kind": "arrays", "path": str(arrays)}
    for name, value in (("model", "gpt2"), ("rows", "cls"), ("image_size", 64)):
        flag = f"--{name.replace('_', '-')}: a source of kind 'arrays' has no such"
        assert flag in refused(kept, **{name: value})
        assert flag in refused(None, source=str(arrays), **{name: value})
    assert "--rows: a language model has no such" in refused(None, rows="cls")
    lacking = refused(None, source="module", hook=["a"], data=["emoji"])
    assert "--source module needs --model" in lacking


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "freq_sea"}, "Unknown preset 'freq_sea'. Did you mean 'freq_sae'?"),
        (
            {"config": Path("a"), "preset": "b"},
            "--config and --preset exclude one another",
        ),
        ({"d_sae": 64, "expansion": 2}, "--d-sae and --expansion exclude one another"),
        (
            {"norm": "l1"},
            "--norm is that of the weight penalty, which has no coefficient",
        ),
        (
            {"coefficient": [0.0], "regularizer": ["none"]},
            "The group 'none' is asked for twice",
        ),
        (
            {"mechanic": ["weight_decai=1"]},
            "Unknown mechanic 'weight_decai'. Did you mean",
        ),
    ],
)
def test_flags_that_contradict_one_another_are_refused(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        swept(**arguments)
    assert message in str(caught.value)


def test_groups_of_coefficients_that_differ_late_have_their_own_names() -> None:
    values = [0.0012345678, 0.0012345679]
    sweep = swept(coefficient=values)
    assert list(sweep.groups) == ["l2-0.0012345678", "l2-0.0012345679"]
