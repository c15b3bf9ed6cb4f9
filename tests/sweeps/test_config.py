"""What a sweep refuses, and which SAEs a grid gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from sae_lens import TrainingSAE, TrainingSAEConfig
from transformer_lens import HookedTransformer

from saereg_plugin.errors import InputError
from saereg_plugin.sweeps import SweepConfig, expand, read_sweep, sweep_from
from saereg_plugin.sweeps.checkpoint import SWEEP_FILE, require_same_sweep
from saereg_plugin.sweeps.config import schema_text
from saereg_plugin.sweeps.members import (
    Member,
    build_sae,
    needs_token_order,
    sae_config,
)
from tests.cut_model import cut_model
from tests.sweeps.tiny import (
    D_IN,
    HOOK,
    PENALTY,
    SAE,
    fields,
    open_source,
    temporal_fields,
    tiny_sweep,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds=[]; expected 1 or more entries."),
        ({"seeds": [1, 1]}, "seeds are [1, 1]; expected different seeds"),
        ({"seeds": 3}, "seeds=3; expected a list"),
        ({"groups": {}}, "groups={}; expected 1 or more entries."),
        ({"groups": ["a"]}, "groups=['a']; expected a mapping"),
        ({"groups": {"a": 3}}, "groups: 'a' is 3; expected a mapping."),
        ({"sae": "topk"}, "sae='topk'; expected a mapping"),
        ({"grid": {"k": 16}}, "grid: 'k' is 16; expected a list."),
        ({"tokens": 0}, "tokens=0; expected at least 1."),
        ({"tokens": "many"}, "tokens='many'; expected a whole number."),
        ({"tokens": 1000.5}, "tokens=1000.5; expected a whole number."),
        ({"batch_size": 0}, "batch_size=0; expected at least 1."),
        ({"batch_size": -256}, "batch_size=-256; expected at least 1."),
        ({"context_size": 0}, "context_size=0; expected at least 1."),
        ({"prompts_per_pass": 0}, "prompts_per_pass=0; expected at least 1."),
        ({"dead_feature_window": 0}, "dead_feature_window=0; expected at least 1."),
        ({"log_every": 0}, "log_every=0; expected at least 1."),
        ({"checkpoint_every": 0}, "checkpoint_every=0; expected at least 1."),
        ({"lr_warm_up_steps": -1}, "lr_warm_up_steps=-1; expected at least 0."),
        (
            {"tokens": 255},
            "tokens=255 is less than one batch of 256; nothing would be trained.",
        ),
        (
            {"buffer_tokens": 255},
            "buffer_tokens=255 is less than one batch of 256.",
        ),
        (
            {"text_tokens": 9, "source": {"kind": "arrays", "path": "x"}},
            "text_tokens=9: a source of another kind than a language model has no text",
        ),
        (
            {"mixing_fraction": 1.0},
            "mixing_fraction=1.0; expected below 1.",
        ),
        (
            {"mixing_fraction": float("nan")},
            "mixing_fraction=nan; expected a finite number.",
        ),
        ({"lr": 0.0}, "lr=0.0; expected above 0."),
        ({"lr": float("nan")}, "lr=nan; expected a finite number."),
        ({"lr": float("inf")}, "lr=inf; expected a finite number."),
        ({"lr": "fast"}, "lr='fast'; expected a number."),
        (
            {"lr_decay_fraction": 1.0},
            "lr_decay_fraction=1.0; expected below 1.",
        ),
    ],
)
def test_bad_field_is_named_with_its_value(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        tiny_sweep(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["hook_name"], "sweep.yaml: expected a mapping of fields, got list."),
        (
            fields(batchsize=3),
            "sweep.yaml: unknown field 'batchsize'. Did you mean 'batch_size'?",
        ),
        (fields(zzz=3), "sweep.yaml: unknown field 'zzz'. Known: "),
        ({"hook_name": HOOK}, "sweep.yaml: the field 'sae' is missing."),
    ],
)
def test_source_is_named_if_fields_are_wrong(values: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        sweep_from(values, source="sweep.yaml")


def test_every_mistake_is_told_with_its_remedy() -> None:
    with pytest.raises(InputError) as caught:
        sweep_from(fields(tokens=0, hook_name=3, lr="1e-3"), source="sweep.yaml")
    assert str(caught.value) == (
        "sweep.yaml: hook_name=3; expected text, or a list of texts. Correct it, or leave it out. "
        "tokens=0; expected at least 1. Correct it, or leave it out. "
        "lr='1e-3'; expected a number. Correct it, or leave it out."
    )


def test_numbers_are_stored_as_they_were_written() -> None:
    sweep = tiny_sweep(lr=1, mixing_fraction=np.float32(0.25), seed=np.int64(3))
    stored = json.dumps(sweep.to_dict())
    assert '"lr": 1,' in stored
    assert '"mixing_fraction": 0.25,' in stored
    assert '"seed": 3,' in stored


def test_schema_for_editors_takes_what_a_sweep_takes() -> None:
    schema = json.loads(schema_text())
    jsonschema.validate({**fields(), "groups": {"plain": None}, "lr": 1}, schema)
    for wrong in (
        fields(tokens=0),
        fields(zzz=3),
        fields(lr="fast"),
        {"hook_name": HOOK},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)
    assert schema["properties"]["tokens"]["description"].startswith("Training tokens")


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in SAE.items() if key != name}


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (
            without("architecture"),
            "Group 'g' has no architecture; add for example 'regularized_topk'.",
        ),
        (
            {**SAE, "architecture": "regularised_topk"},
            "Unknown architecture 'regularised_topk'. Did you mean 'regularized_topk'?",
        ),
        (
            {**SAE, "architecture": "topk"},
            "Group 'g': 'topk' takes no seed of its own. Use 'regularized_topk', "
            "which without regularisers trains the same SAE.",
        ),
        (
            {**SAE, "d_sea": 3},
            "Group 'g': 'regularized_topk' has no field 'd_sea'. Did you mean 'd_sae'?",
        ),
        (without("d_sae"), "Group 'g': the field 'd_sae' is missing."),
        (
            {**SAE, "k": 129},
            "Group 'g': k=129 with d_sae=128; expected d_sae of at least 1 and k from 1 to d_sae.",
        ),
        ({**SAE, "k": 0}, "Group 'g': k=0 with d_sae=128"),
        ({**SAE, "k": "eight"}, "Group 'g': "),
        (
            {**SAE, "regularizers": [{**PENALTY, "coefficient": -1.0}]},
            "Group 'g': weight_penalty: coefficient is -1.0; expected a finite number",
        ),
        (
            {**SAE, "regularizers": [{**PENALTY, "coefficient": float("nan")}]},
            "Group 'g': weight_penalty: coefficient is nan; expected a finite number",
        ),
        (
            {**SAE, "regularizers": [{"name": "weight_penalti"}]},
            "Group 'g': Unknown regulariser 'weight_penalti'. Did you mean 'weight_penalty'?",
        ),
    ],
)
def test_bad_sae_is_refused_with_its_group(sae: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        sae_config({"d_in": D_IN, **sae}, seed=0, group="g")


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"sae": {**SAE, "d_in": 512}, "model": "smollm2-135m-instruct"},
            "Group 'plain': d_in=512 does not fit 'blocks.0.hook_resid_post' of model "
            "'smollm2-135m-instruct', which has 576 dimensions. Leave d_in out.",
        ),
        (
            {"hook_name": "blocks.0.hook_resid_pots"},
            "has no hook 'blocks.0.hook_resid_pots'. Did you mean 'blocks.0.hook_resid_post'?",
        ),
        (
            {"model": "smollm2-135m-instrukt"},
            "Unknown model 'smollm2-135m-instrukt'; expected",
        ),
        ({"grid": {"k": [8, 8]}}, "Group 'plain-k8' occurs twice"),
    ],
)
def test_sweep_that_does_not_fit_the_model_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        expand(tiny_sweep(**changes))


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"mixing_fraction": 0.25},
            "a fraction of 0.25 of the activations is kept back",
        ),
        ({"exclude_special_tokens": True}, "Set exclude_special_tokens=False"),
        ({"prepend_bos": False}, "Set prepend_bos=True"),
        ({"batch_size": 96}, "96 rows, which is no multiple of context_size=64"),
        ({"batch_size": 64}, "a batch is a single context of 64 tokens"),
    ],
)
def test_tokens_out_of_order_are_refused_with_the_group(
    changes: dict[str, Any], message: str
) -> None:
    members = expand(SweepConfig(**temporal_fields()))
    assert [needs_token_order(member) for member in members] == [False, True]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        expand(SweepConfig(**temporal_fields(**changes)))
    assert str(caught.value).startswith("Group 'slow': temporal_difference: ")


@pytest.mark.usefixtures("model_name")
def test_a_group_of_one_seed_has_nobody_to_share_features_with() -> None:
    shared = {"regularizers": [{"name": "mutual_features", "coefficient": 1.0}]}
    groups = {"plain": {}, "shared": shared}
    with pytest.raises(InputError, match="^Group 'shared': mutual_features pulls SAEs"):
        expand(tiny_sweep(groups=groups, seeds=[0]))
    assert len(expand(tiny_sweep(groups=groups, seeds=[0, 1]))) == 4


def test_yaml_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "hook_name: blocks.0.hook_resid_post\n"
        "lr: 1e-5\n"
        "tokens: 1e6\n"
        "sae: {architecture: regularized_topk, d_sae: 128}\n"
        "groups:\n"
        "  plain:\n"
        "  l2:\n"
        "    regularizers: [{name: weight_penalty, coefficient: 2e-3}]\n"
    )
    sweep = read_sweep(path)
    assert sweep.lr == 1e-5
    assert (sweep.tokens, type(sweep.tokens)) == (1_000_000, int)
    assert sweep.steps == 488
    assert sweep.groups["plain"] == {}
    assert sweep.groups["l2"]["regularizers"][0]["coefficient"] == 2e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read (No such file"), ("a: [", "is no YAML")],
)
def test_unreadable_yaml_is_named(
    tmp_path: Path, text: str | None, message: str
) -> None:
    path = tmp_path / "sweep.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_sweep(path)
    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("model_name")
def test_grid_is_combined_with_groups_and_seeds() -> None:
    members = expand(
        tiny_sweep(
            grid={"k": [8, 16], "architecture": ["regularized_batchtopk"]},
            groups={"plain": {}, "wide": {"d_sae": 256}},
        )
    )
    assert [member.sae_id for member in members] == [
        f"{group}-k{k}-architectureregularized_batchtopk-seed{seed}"
        for group in ("plain", "wide")
        for k in (8, 16)
        for seed in (0, 1)
    ]
    last: Any = members[-1].cfg
    assert (last.k, last.d_sae, last.d_in, last.init_seed) == (16, 256, D_IN, 1)
    assert last.architecture() == "regularized_batchtopk"
    assert {m.group for m in members[:2]} == {
        "plain-k8-architectureregularized_batchtopk"
    }


def test_lengths_are_floored_to_whole_steps() -> None:
    assert tiny_sweep(tokens=256 * 3 + 255).steps == 3


def built(
    model: HookedTransformer, seed: int, **changes: Any
) -> TrainingSAE[TrainingSAEConfig]:
    cfg = sae_config({"d_in": D_IN, **SAE}, seed=seed, group="g")
    sweep = tiny_sweep(**changes)
    member = Member(f"g-seed{seed}", "g", seed, cfg, HOOK)
    return build_sae(member, sweep, open_source(model, sweep))


def weights(model: HookedTransformer, seed: int) -> dict[str, torch.Tensor]:
    named = built(model, seed).named_parameters()
    return {key: value.clone() for key, value in named}


def test_seed_alone_decides_the_initial_weights(model: HookedTransformer) -> None:
    torch.manual_seed(0)
    alone = weights(model, 7)
    in_company = [weights(model, seed) for seed in (3, 7)]
    assert all(torch.equal(alone[key], in_company[1][key]) for key in alone)
    assert not torch.equal(alone["W_dec"], in_company[0]["W_dec"])


def test_metadata_says_what_the_sae_reads(model: HookedTransformer) -> None:
    metadata = built(model, 0, prepend_bos=False).cfg.metadata
    assert metadata.hook_name == HOOK
    assert metadata.model_name == str(cut_model())
    assert metadata.context_size == 64
    assert metadata.prepend_bos is False


def test_folders_of_model_and_text_are_recorded_by_their_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lm", "texts", "embedded", "smollm2-135m-instruct"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    own = tiny_sweep(model="lm", corpus="./texts")
    assert (own.model, own.corpus) == (str(tmp_path / "lm"), str(tmp_path / "texts"))
    # an embedded name wins over a folder, and a name of a hub stays as it is
    named = tiny_sweep(model="smollm2-135m-instruct", corpus="embedded")
    assert (named.model, named.corpus) == ("smollm2-135m-instruct", "embedded")
    assert tiny_sweep(model="gpt2").model == "gpt2"


def test_a_sweep_that_was_begun_with_a_relative_path_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lm").mkdir()
    monkeypatch.chdir(tmp_path)
    sweep, folder = tiny_sweep(model="lm"), tmp_path / "release"
    folder.mkdir()
    (folder / SWEEP_FILE).write_text(json.dumps({**sweep.to_dict(), "model": "lm"}))
    require_same_sweep(sweep, folder)
    with pytest.raises(InputError, match="holds another sweep: model is"):
        require_same_sweep(tiny_sweep(model="gpt2"), folder)
