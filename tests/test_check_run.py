"""What ``sr.check`` refuses before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sae_lens import MultiSAETrainingRunnerConfig
from typing_extensions import override

import saereg_plugin as sr
from tests.training import (
    D_IN,
    D_SAE,
    make_cfg,
    make_sae,
    make_stock_sae,
    runner_cfg,
)

pytestmark = pytest.mark.usefixtures("model_name")


def multi_cfg(saes: dict[str, Any], **fields: Any) -> MultiSAETrainingRunnerConfig:
    single = runner_cfg(make_cfg())
    values: dict[str, Any] = {
        "model_name": single.model_name,
        "hook_names": single.hook_name,
        "training_tokens": single.training_tokens,
        "train_batch_size_tokens": single.train_batch_size_tokens,
        "output_path": None,
        "checkpoint_path": None,
    }
    return MultiSAETrainingRunnerConfig(saes=saes, **(values | fields))


def test_a_good_configuration_passes(tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder"
    sr.check(runner_cfg(make_cfg(), output_path=str(output)))
    assert list(output.iterdir()) == []
    sr.check(multi_cfg({"a": make_cfg(), "b": make_cfg("gated")}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"hook_name": "blocks.1.hook_resid_pots"},
            "no hook 'blocks.1.hook_resid_pots'. Did you mean 'blocks.1.hook_resid_post'",
        ),
        ({"hook_name": "blocks.99.hook_resid_post"}, "has no hook 'blocks.99.hook_"),
        (
            {"hook_name": "blocks.0.mlp.hook_post"},
            "d_in=576 does not fit 'blocks.0.mlp.hook_post' .*which has 1536 dimensions. "
            "Set d_in=1536",
        ),
        (
            {"model_name": "smollm2-135m-instuct"},
            "Unknown model 'smollm2-135m-instuct'.*Did you mean 'smollm2-135m-instruct'",
        ),
        ({"model_name": "/no/such/model"}, "Model folder '/no/such/model' does not"),
        (
            {"training_tokens": 63},
            "training_tokens=63 is less than one batch of train_batch_size_tokens=64",
        ),
        (
            {"train_batch_size_tokens": 4096, "training_tokens": 10**6}
            | {"context_size": 128, "n_batches_in_buffer": 20},
            "2560 in all; expected at least .*=4096. Set n_batches_in_buffer=32 or more",
        ),
        (
            {"model_class_name": "HookedTransformr"},
            "Unknown model class 'HookedTransformr'. Did you mean 'HookedTransformer'",
        ),
    ],
)
def test_impossible_run_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        sr.check(runner_cfg(make_cfg(), **fields))


def test_one_head_is_narrower_than_all() -> None:
    heads = {"hook_name": "blocks.0.attn.hook_z", "hook_head_index": 0}
    with pytest.raises(sr.InputError, match="which has 64 dimensions. Set d_in=64"):
        sr.check(runner_cfg(make_cfg(), **heads))
    sr.check(runner_cfg(make_cfg(d_in=64), **heads))
    with pytest.raises(sr.InputError, match="has 9 heads; head 9 does not exist"):
        sr.check(runner_cfg(make_cfg(d_in=64), **(heads | {"hook_head_index": 9})))


def test_every_sae_of_a_multi_run_is_checked() -> None:
    hooks = {"good": "blocks.1.hook_resid_post", "bad": "blocks.0.mlp.hook_post"}
    saes = {"good": make_cfg(), "bad": make_cfg()}
    with pytest.raises(sr.InputError, match="does not fit 'blocks.0.mlp.hook_post'"):
        sr.check(multi_cfg(saes, hook_names=hooks))
    with pytest.raises(sr.InputError, match="training_tokens=1 is less than one batch"):
        sr.check(multi_cfg({"good": make_cfg()}, training_tokens=1))


def test_a_file_in_the_way_of_the_output_is_refused(
    tmp_path: Path,
) -> None:
    in_the_way = tmp_path / "out"
    in_the_way.write_text("kept")
    for output in (in_the_way, in_the_way / "below"):
        with pytest.raises(
            sr.InputError, match=rf"Output folder '{output}' is not writable"
        ):
            sr.check(runner_cfg(make_cfg(), output_path=str(output)))
    assert in_the_way.read_text() == "kept"


def test_starting_point_of_another_architecture_is_refused(
    tmp_path: Path,
) -> None:
    make_stock_sae().save_model(tmp_path / "stock")
    make_sae().save_model(tmp_path / "ours")
    with pytest.raises(
        sr.InputError,
        match=r"is a 'topk' SAE; SAELens would train that and ignore the "
        r"'regularized_topk' configuration.*regularize_checkpoint",
    ):
        sr.check(runner_cfg(make_cfg(), from_pretrained_path=str(tmp_path / "stock")))
    with pytest.raises(sr.InputError, match="holds no SAE; expected cfg.json and"):
        sr.check(runner_cfg(make_cfg(), from_pretrained_path=str(tmp_path / "none")))
    sr.check(runner_cfg(make_cfg(), from_pretrained_path=str(tmp_path / "ours")))


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka_batchtopk"])
@pytest.mark.parametrize("k", [0, -1, D_SAE + 1])
def test_impossible_k_is_refused_when_configured(architecture: str, k: int) -> None:
    with pytest.raises(
        sr.InputError,
        match=f"k={k} with d_sae={D_SAE}; expected d_sae of at least 1 and k from 1 to",
    ):
        make_cfg(architecture, k=k)
    assert make_cfg(architecture, k=D_SAE).d_in == D_IN


@sr.register_regularizer("test_whole_thousands")
@dataclass(frozen=True, kw_only=True)
class WholeThousands(sr.RegularizerConfig):
    """A regulariser of a user with a rule about the whole run."""

    @override
    def check_run(self, settings: sr.RunSettings) -> None:
        if settings.batch_size % 1000 != 0 or settings.others:
            raise sr.InputError(
                f"{self.name}: batch_size is {settings.batch_size} next to "
                f"{len(settings.others)} SAEs; expected thousands, and none."
            )

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> sr.Component:
        return sr.Component(label=label, seed=seed)


@pytest.mark.parametrize("batch_size", [64, 2000])
def test_a_regulariser_of_a_user_checks_the_run(batch_size: int) -> None:
    sae = make_cfg(regularizers=[{"name": "test_whole_thousands"}])
    batch = {
        "train_batch_size_tokens": batch_size,
        "training_tokens": 10_000,
        "n_batches_in_buffer": 100,
    }
    message = f"test_whole_thousands: batch_size is {batch_size} next to 1 SAEs"
    with pytest.raises(sr.InputError, match=message):
        sr.check(multi_cfg({"a": sae, "b": make_cfg()}, **batch))
    if batch_size == 2000:
        sr.check(runner_cfg(sae, **batch))
    else:
        with pytest.raises(sr.InputError, match="batch_size is 64 next to 0 SAEs"):
            sr.check(runner_cfg(sae, **batch))


def test_a_single_sae_has_nobody_to_share_features_with() -> None:
    sae = make_cfg(regularizers=[{"name": "mutual_features", "coefficient": 1.0}])
    for cfg in (runner_cfg(sae), multi_cfg({"a": sae, "b": make_cfg()})):
        with pytest.raises(sr.InputError, match="trains a single one with it"):
            sr.check(cfg)
    sr.check(multi_cfg({"a": sae, "b": sae}))


TEMPORAL = {"name": "temporal_difference", "coefficient": 0.1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "fraction of 0.5 .*Set activations_mixing_fraction=0"),
        ({"prepend_bos": False}, "Set prepend_bos=True"),
        ({"exclude_special_tokens": True}, "Set exclude_special_tokens=False"),
        ({"seqpos_slice": (0, 8)}, r"seqpos_slice is \(0, 8\)"),
        ({"train_batch_size_tokens": 80}, "80 rows, which is no multiple of context_s"),
    ],
)
def test_settings_that_break_the_order_of_tokens_are_refused(
    fields: dict[str, Any], message: str
) -> None:
    sae = make_cfg(regularizers=[TEMPORAL])
    mixing = {"activations_mixing_fraction": 0.0 if fields else 0.5}
    with pytest.raises(sr.InputError, match=message):
        sr.check(runner_cfg(sae, **mixing, **fields))
    saes = {"a": make_cfg(), "b": sae}
    with pytest.raises(sr.InputError, match=message):
        sr.check(multi_cfg(saes, context_size=32, **mixing, **fields))


def test_tokens_in_order_pass() -> None:
    sae = make_cfg(regularizers=[TEMPORAL])
    sr.check(runner_cfg(sae, activations_mixing_fraction=0.0))
    in_order = {"context_size": 32, "activations_mixing_fraction": 0.0}
    sr.check(multi_cfg({"a": sae}, **in_order))
