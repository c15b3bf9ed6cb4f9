"""Sweeps on sources other than a TransformerLens language model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE, SAETrainer, TrainingSAE
from sae_lens.training.multi_sae_trainer import MultiSAETrainer
from torch import nn
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from saereg_plugin.activations.opening import open_source
from saereg_plugin.errors import InputError
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.release import Release
from saereg_plugin.sweeps import SweepConfig, expand, open_trainer, run_sweep
from saereg_plugin.sweeps.config import group_fields, sae_ids, sweep_from
from saereg_plugin.sweeps.members import trainer_config
from saereg_plugin.sweeps.source import language_model_source, mixing_of, with_source
from tests.sweeps.tiny import D_IN, HOOK, PENALTY, state_of, tiny_sweep

SAE_FIELDS = {"architecture": "regularized_topk", "d_sae": 24, "k": 3}
FIELDS: dict[str, Any] = {
    "sae": SAE_FIELDS,
    "groups": {"plain": {}, "l2": {"regularizers": [PENALTY]}},
    "seeds": [0, 1],
    "tokens": 640,
    "batch_size": 32,
    "buffer_tokens": 128,
    "checkpoint_every": 5,
    "device": "cpu",
    "llm_dtype": "float32",
    "autocast": False,
}


def source(points: Any = "0", *, n: int = 50) -> sr.ModuleSource:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 6, 1))
    images = torch.randn(n, 3, 8, 8)
    return sr.ModuleSource(network, images, point=points, rows="patches")


def weights(release: Release, sae_id: str) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in release.load(sae_id).state_dict().items()}


def test_a_module_of_ones_own_is_trained_on_and_saelens_loads_the_saes(
    tmp_path: Path,
) -> None:
    trained = sr.train(source(), out=tmp_path / "own", **FIELDS)
    assert trained.release is not None
    loaded = SAE.load_from_disk(str(tmp_path / "own" / "saes" / "l2-seed1"))
    assert loaded.cfg.d_in == 8
    metadata = loaded.cfg.metadata
    assert (metadata.model_name, metadata.hook_name) == ("Sequential", "0")
    recorded = metadata["activation_source"]
    assert recorded["rows"] == "patches"
    assert recorded["digest"] == source().digest()


def test_saelens_own_trainer_on_the_batches_gives_the_sweeps_sae(
    tmp_path: Path,
) -> None:
    sweep = SweepConfig(**FIELDS)
    trained = sr.train(source(), out=tmp_path / "own", **FIELDS)
    assert trained.release is not None
    sae = sr.RegularizedTopKTrainingSAE(
        sr.RegularizedTopKTrainingSAEConfig(
            d_in=8, d_sae=24, k=3, init_seed=1, regularizers=[PENALTY]
        )
    )
    trainer: SAETrainer[Any, Any] = SAETrainer(
        trainer_config(sweep, tmp_path),
        sae,
        source().batches(32, buffer_rows=128, mixing_fraction=0.5, seed=0),
    )
    trainer.fit()
    sae.save_inference_model(tmp_path / "alone")
    expected = weights(trained.release, "l2-seed1")
    found = SAE.load_from_disk(str(tmp_path / "alone")).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_several_points_train_as_each_alone(tmp_path: Path) -> None:
    both = sr.train(source(["0", "1"]), out=tmp_path / "both", **FIELDS)
    assert both.release is not None
    assert [entry.group for entry in both.release.entries][::2] == [
        "plain-0",
        "plain-1",
        "l2-0",
        "l2-1",
    ]
    for point in ("0", "1"):
        alone = sr.train(source(point), out=tmp_path / point, **FIELDS)
        assert alone.release is not None
        one, other = (
            weights(alone.release, "l2-seed1"),
            weights(both.release, f"l2-{point}-seed1"),
        )
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_multi_sae_trainer_takes_the_stream(tmp_path: Path) -> None:
    sweep = SweepConfig(**FIELDS)
    stream = source(["0", "1"]).stream(mixing_of(sweep))
    saes: dict[str, TrainingSAE[Any]] = {
        point: sr.RegularizedTopKTrainingSAE(
            sr.RegularizedTopKTrainingSAEConfig(d_in=d_in, d_sae=24, k=3)
        )
        for point, d_in in (("0", 8), ("1", 6))
    }
    before = {point: sae.W_enc.detach().clone() for point, sae in saes.items()}
    MultiSAETrainer(
        cfg=trainer_config(sweep, tmp_path),
        saes=saes,
        hook_names={"0": "0", "1": "1"},
        data_provider=stream,
    ).fit()
    assert not any(torch.equal(before[p], saes[p].W_enc) for p in saes)


def test_an_interrupted_sweep_resumes_bit_for_bit(tmp_path: Path) -> None:
    sweep, facts = with_source(SweepConfig(**FIELDS), source())
    members = expand(sweep, facts)

    def trainer(folder: str) -> Any:
        return open_trainer(sweep, members, tmp_path / folder, facts, given=source())

    whole = trainer("whole")
    whole.train(StopFlag())
    first = trainer("halves")
    first.train(StopFlag(), steps=7)
    first.save_checkpoint()
    second = trainer("halves")
    assert second.resume() and second.step == 7
    second.train(StopFlag())
    expected, found = state_of(whole), state_of(second)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_changed_data_is_not_resumed_on(tmp_path: Path) -> None:
    sweep, facts = with_source(SweepConfig(**FIELDS), source())
    members = expand(sweep, facts)
    first = open_trainer(sweep, members, tmp_path, facts, given=source())
    first.train(StopFlag(), steps=7)
    first.save_checkpoint()
    other = source(n=49)
    second = open_trainer(sweep, members, tmp_path, facts, given=other)
    with pytest.raises(InputError, match="model or data changed since"):
        second.resume()
    with pytest.raises(InputError, match="holds another sweep: source.digest is"):
        sr.train(source(), out=tmp_path, **FIELDS)
        sr.train(other, out=tmp_path, **FIELDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 1000, "tokens": 1000, "buffer_tokens": 1000},
            "has 800 rows, fewer than batch_size=1,000",
        ),
        ({"sae": {**SAE_FIELDS, "d_in": 9}}, "d_in=9 does not fit '0'"),
        ({"groups": {"a": {"hook_name": "7"}}}, "Group 'a': no point '7'"),
        (
            {
                "groups": {
                    "a": {"regularizers": [{"name": "temporal_difference"}]},
                },
                "mixing_fraction": 0,
            },
            "it compares neighbouring tokens, and the rows of the source of kind 'given'",
        ),
        (
            {"groups": {"a": {"regularizers": [{"name": "vocabulary_anchor"}]}}},
            "the source of kind 'given' has no vocabulary",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_file_is_written(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sr.train(source(), out=tmp_path / "own", **{**FIELDS, **changes})
    assert not (tmp_path / "own").exists()


def test_a_source_of_python_cannot_be_opened_by_its_record(tmp_path: Path) -> None:
    sweep, _ = with_source(SweepConfig(**FIELDS), source())
    with pytest.raises(InputError, match="source that Python code gave"):
        run_sweep(sweep, tmp_path / "own")


def test_a_cached_source_is_of_the_kind_that_was_cached(tmp_path: Path) -> None:
    sr.write_cache(source(), tmp_path / "cache")
    given = sr.open_cache(tmp_path / "cache")
    assert with_source(SweepConfig(**FIELDS), given)[1].cached_kind == "module"


def test_a_language_model_has_no_fields_of_a_source() -> None:
    named = {"kind": "language_model"}
    assert SweepConfig(**FIELDS, source=named) == SweepConfig(**FIELDS)
    for wrong in ({**named, "model": "gpt2"}, {"path": "acts.npy"}):
        with pytest.raises(
            InputError, match="unknown field '(model|path)' of the kind"
        ):
            SweepConfig(**FIELDS, source=wrong)
    with pytest.raises(InputError, match="fields model, hook_name and corpus"):
        open_source(named)


def test_names_of_a_source_are_not_taken_for_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    named = SweepConfig(**FIELDS, source={"kind": "given"}, corpus="mnist")
    assert named.corpus == "mnist"
    on_text = SweepConfig(**FIELDS, corpus="mnist")
    assert on_text.corpus == str(tmp_path / "mnist")


def test_hooks_of_a_file_choose_among_the_points_of_arrays(tmp_path: Path) -> None:
    arrays = {"early": torch.randn(99, 8), "late": torch.randn(99, 6)}
    torch.save(arrays, tmp_path / "a.pt")
    named = {"kind": "arrays", "path": str(tmp_path / "a.pt")}
    values = {**FIELDS, "source": named, "hook_name": "late"}
    _, facts = with_source(sweep_from(values, source="x"))
    assert facts.points == {"late": 6}


# Several hooks of a language model


def test_hooks_of_a_language_model_share_one_pass(
    model: HookedTransformer,
) -> None:
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    sweep = tiny_sweep(hook_name=hooks, tokens=2 * 256)
    points = dict.fromkeys(hooks, D_IN)
    both = language_model_source(sweep, model, points).stream(mixing_of(sweep))
    alone = language_model_source(sweep, model, {HOOK: D_IN}).stream(mixing_of(sweep))
    for _ in range(5):
        found = next(both)
        torch.testing.assert_close(found[HOOK], next(alone)[HOOK], rtol=0, atol=0)
        assert not torch.equal(found[hooks[0]], found[hooks[1]])


def test_the_text_of_a_language_model_is_read_by_one_stream(
    model: HookedTransformer,
) -> None:
    opened = language_model_source(tiny_sweep(), model, {HOOK: D_IN})
    opened.batches(4)
    with pytest.raises(InputError, match="Open the source again"):
        opened.batches(4)


@pytest.mark.usefixtures("model_name")
def test_patterns_choose_hooks_and_each_group_is_trained_on_each() -> None:
    sweep, facts = with_source(tiny_sweep(hook_name="blocks.[01].hook_resid_post"))
    hooks = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert list(sweep.hook_name) == hooks
    assert facts.points == dict.fromkeys(hooks, D_IN)
    assert sae_ids(sweep)[::2] == [
        f"{group}-{hook}-seed0" for group in ("plain", "l2") for hook in hooks
    ]
    assert [member.point for member in expand(sweep, facts)][::2] == 2 * hooks
    assert set(group_fields(sweep)["l2-" + hooks[1]]) > {"hook_name"}
    with pytest.raises(InputError, match="No point 'blocks.9.*'"):
        with_source(tiny_sweep(hook_name="blocks.9.*"))
