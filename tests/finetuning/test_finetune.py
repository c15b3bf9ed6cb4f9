"""A fine-tune from a release to a release: loop, resumption, records, command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from typer.testing import CliRunner

import saereg_plugin as sr
from eval_recipes.cli import app
from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.contexts import BLOCK
from saereg_plugin.finetuning.run import _open_trainer, _prepared
from saereg_plugin.finetuning.settings import FineTune
from saereg_plugin.finetuning.trainer import FineTuner, FineTuneTrainer, places_of
from saereg_plugin.process import StopFlag
from saereg_plugin.releases.opening import open_release
from saereg_plugin.releases.release import Release
from saereg_plugin.sources import models
from saereg_plugin.sources.fingerprint import fingerprint
from saereg_plugin.sweeps import SweepConfig, matched_sweep, run_sweep
from tests.oracles.finetune_oracle import PlainTopK, finetune_plainly
from tests.sweeps.tiny import different, records_of, state_of
from tests.training import ARCHITECTURES, TOPK_ARCHITECTURES

pytestmark = pytest.mark.slow

STEP = 4 * 32
SHORT: dict[str, Any] = {
    "tokens": 6 * STEP,
    "context_size": 32,
    "contexts_per_step": 4,
    "lr": 1e-3,
    "log_every": 1,
    "checkpoint_every": 4,
    "skip_tokens": 0,
    "device": "cpu",
}
EXTRA: dict[str, dict[str, Any]] = {
    "standard": {"l1_coefficient": 0.5},
    "gated": {"l1_coefficient": 0.5},
    "jumprelu": {"l0_coefficient": 0.05},
    **{name: {"k": 8} for name in TOPK_ARCHITECTURES},
}
EXTRA["matryoshka_batchtopk"]["matryoshka_widths"] = [32, 64]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, calm_model_folder: Path) -> Path:
    """A release with every architecture, a penalty, unit norm, and a free decoder."""
    folder = tmp_path_factory.mktemp("finetune") / "release"
    penalty = {"name": "weight_penalty", "coefficient": 1e-3}
    groups = {
        name: {
            "architecture": f"regularized_{name}",
            "decoder_constraint": "unit_norm",
            **EXTRA[name],
        }
        for name in ARCHITECTURES
    }
    groups["l2"] = {**groups["topk"], "regularizers": [penalty]}
    groups["free"] = {"architecture": "regularized_topk", "k": 8}
    sweep = SweepConfig(
        model=str(calm_model_folder),
        hook_name="blocks.1.hook_resid_post",
        sae={"d_sae": 64, "normalize_activations": "expected_average_only_in"},
        groups=groups,
        seeds=[0],
        tokens=30 * 256,
        batch_size=256,
        context_size=64,
        prompts_per_pass=4,
        buffer_tokens=1024,
        llm_dtype="float32",
        autocast=False,
        device="cpu",
        lr=3e-3,
    )
    assert run_sweep(sweep, folder).release is not None
    return folder


def open_trainer(source: Path, folder: Path, **changes: Any) -> FineTuneTrainer:
    """The trainer of a fine-tune, as a new process would make it."""
    settings = FineTune(**{**SHORT, **changes})
    prepared, facts, _ = _prepared(str(source), settings, folder, None)
    return _open_trainer(prepared, settings, facts, prepared.sweep, folder=folder)


def tune(source: Path, folder: Path, **changes: Any) -> Release:
    result = sr.finetune(source, out=folder, **{**SHORT, **changes})
    assert result.release is not None
    assert result.stopped == []
    return result.release


def test_every_architecture_is_finetuned_with_every_loss(
    source: Path, tmp_path: Path
) -> None:
    before = open_release(str(source))
    some = ["topk-*", "gated-*", "free-*"]
    for loss, chosen in (("mse", []), ("kl", some), ("kl+mse", []), ("e2e", some)):
        after = tune(
            source, tmp_path / loss, loss=loss, sae_ids=chosen, tokens=3 * STEP
        )
        assert [(e.sae_id, e.group, e.seed) for e in after.entries] == [
            (e.sae_id, e.group, e.seed) for e in before.select(chosen)
        ]
        for name in after.ids:
            old, new = before.load(name), after.load(name)
            assert type(old) is type(new)
            assert not torch.equal(old.W_dec, new.W_dec)
            if not name.startswith("free"):
                norms = new.W_dec.norm(dim=-1)
                torch.testing.assert_close(norms, torch.ones_like(norms))
        records = sr.load_records(tmp_path / loss)
        assert {"loss", "losses/mse_loss", "explained_variance", "l0"} <= set(records)
        assert ("metrics/kl" in records) == (loss != "mse")
        assert ("metrics/later_error" in records) == (loss == "e2e")
        rates = records[records["sae_id"] == "topk-seed0"]["lr"].tolist()
        assert rates == pytest.approx([1e-3 * (1 - n / 3) for n in range(3)])


def test_the_loss_keeps_the_scale_of_the_mse_and_penalties_their_weight(
    source: Path, tmp_path: Path
) -> None:
    tune(source, tmp_path / "kl", sae_ids=["topk-*", "l2-*", "standard-*"])
    records = sr.load_records(tmp_path / "kl")
    scaled = records["metrics/kl"] * records["metrics/kl_scale"]
    assert scaled.tolist() == pytest.approx(
        records["losses/mse_loss"].tolist(), rel=1e-6
    )
    for name, penalty in (
        ("topk-seed0", None),
        ("l2-seed0", "losses/weight_penalty"),
        ("standard-seed0", "losses/l1_loss"),
    ):
        own = records[records["sae_id"] == name]
        wanted = own["losses/mse_loss"] + (0 if penalty is None else own[penalty])
        assert own["loss"].tolist() == pytest.approx(wanted.tolist(), rel=1e-4)


def test_steps_are_those_of_the_published_loop(source: Path, tmp_path: Path) -> None:
    trainer = open_trainer(source, tmp_path / "out", sae_ids=["topk-seed0"])
    trainer._begin()
    (start,) = [each.sae for each in trainer.trainers.values()]
    (scaler,) = [each.activation_scaler for each in trainer.trainers.values()]
    point = trainer.members[0].point
    passes = [next(trainer.stream) for _ in range(6)]
    plain = PlainTopK(
        *(
            getattr(start, name).detach()
            for name in ("W_enc", "W_dec", "b_enc", "b_dec")
        ),
        k=8,
    )

    def rest_of_model(step: int, rows: Tensor) -> Tensor:
        clean = passes[step]
        whole = clean.activations[point].clone()
        whole[clean.keep] = rows / scaler.scaling_factor
        model = trainer.source.frozen.model
        return model(whole, start_at_layer=2)[clean.keep]

    published = finetune_plainly(
        plain, [scaler(p.rows(point)) for p in passes], rest_of_model, lr=1e-3
    )
    trained = open_trainer(source, tmp_path / "trained", sae_ids=["topk-seed0"])
    assert trained.train(StopFlag())
    (sae,) = [each.sae for each in trained.trainers.values()]
    records = records_of(trained.folder)["topk-seed0"]
    found = [(each["loss"], each["metrics/kl"]) for each in records]
    assert [loss for loss, _ in found] == pytest.approx(
        [loss for loss, _ in published], rel=1e-4
    )
    assert [kl for _, kl in found] == pytest.approx(
        [kl for _, kl in published], rel=1e-3
    )
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        torch.testing.assert_close(
            getattr(sae, name).detach(),
            getattr(plain, name).detach(),
            rtol=1e-3,
            atol=1e-4,
        )


def test_interrupted_and_resumed_equals_uninterrupted(
    source: Path, tmp_path: Path
) -> None:
    whole = open_trainer(source, tmp_path / "whole")
    assert whole.train(StopFlag())
    first = open_trainer(source, tmp_path / "parts")
    assert first.train(StopFlag(), steps=2)
    flag = StopFlag()
    flag.requested = True
    assert not first.train(flag)
    assert first.step == 3
    second = open_trainer(source, tmp_path / "parts")
    assert second.resume()
    assert second.step == 3
    assert second.train(StopFlag())
    assert different(state_of(second), state_of(whole)) == []
    assert records_of(second.folder) == records_of(whole.folder)


def test_resumption_reads_the_text_of_a_later_block(
    source: Path, tmp_path: Path
) -> None:
    changes = {"sae_ids": ["topk-seed0"], "contexts_per_step": 1, "loss": "mse"}
    stream = open_trainer(source, tmp_path / "a", **changes).stream
    for _ in range(BLOCK + 3):
        last = next(stream)
    state = stream.state_dict()
    again = open_trainer(source, tmp_path / "b", **changes).stream
    again.load_state_dict(state)
    assert torch.equal(next(again).tokens, next(stream).tokens)
    assert not torch.equal(last.tokens, next(stream).tokens)


def test_the_seed_orders_the_contexts_and_skipped_text_is_not_read(
    source: Path, tmp_path: Path
) -> None:
    def tokens_of(name: str, count: int = BLOCK, **changes: Any) -> Tensor:
        stream = open_trainer(
            source, tmp_path / name, sae_ids=["topk-seed0"], loss="mse", **changes
        ).stream
        return torch.cat([next(stream).tokens for _ in range(count)])

    first, other = tokens_of("0"), tokens_of("1", seed=1)
    assert not torch.equal(first, other)
    assert sorted(first.tolist()) == sorted(other.tolist())
    later = tokens_of("2", skip_tokens=BLOCK * STEP)
    assert not {tuple(row) for row in later.tolist()} & {
        tuple(row) for row in first.tolist()
    }


def test_weights_of_the_language_model_stay(source: Path, tmp_path: Path) -> None:
    trainer = open_trainer(source, tmp_path / "out", sae_ids=["topk-seed0", "l2-*"])
    model = trainer.source.frozen.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert trainer.train(StopFlag())
    assert different(model.state_dict(), before) == []
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    fresh = models.load(trainer.sweep.model, dtype=trainer.sweep.llm_dtype)
    assert fingerprint(model) == fingerprint(fresh)


def test_a_kl_finetune_lowers_kl_more_than_the_control(
    source: Path, tmp_path: Path, contexts: Tensor
) -> None:
    changes = {"tokens": 40 * STEP, "sae_ids": ["topk-seed0"], "lr": 3e-3}
    before = open_release(str(source)).load("topk-seed0")
    after = tune(source, tmp_path / "kl", **changes).load("topk-seed0")
    control = tune(source, tmp_path / "mse", loss="mse", **changes).load("topk-seed0")
    model = models.load(str(open_release(str(source)).model)).eval()

    @torch.no_grad()
    def kl(sae: Any) -> float:
        return divergence(model, sae, contexts[-16:, :64])

    assert kl(after) < kl(control)
    assert kl(after) < kl(before)


def divergence(model: HookedTransformer, sae: Any, tokens: Tensor) -> float:
    """KL with the SAE in place of all tokens but BOS."""
    hook = "blocks.1.hook_resid_post"

    def put(value: Tensor, hook: Any) -> Tensor:
        del hook
        return torch.cat([value[:, :1], sae(value[:, 1:])], dim=1)

    p = model(tokens).log_softmax(-1)
    q = model.run_with_hooks(tokens, fwd_hooks=[(hook, put)]).log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1)[:, 1:].mean())


def test_rows_that_a_component_left_out_stay_clean(
    tmp_path: Path, calm_model_folder: Path
) -> None:
    sweep = SweepConfig(
        model=str(calm_model_folder),
        hook_name="blocks.1.hook_mlp_out",
        sae={
            "architecture": "regularized_topk",
            "d_sae": 64,
            "k": 8,
            "max_norm_multiple": 1.05,
        },
        seeds=[0],
        tokens=1024,
        batch_size=256,
        context_size=64,
        prompts_per_pass=4,
        buffer_tokens=512,
        llm_dtype="float32",
        autocast=False,
        device="cpu",
    )
    assert run_sweep(sweep, tmp_path / "release").release is not None
    trainer = open_trainer(tmp_path / "release", tmp_path / "out")
    assert trainer.train(StopFlag())
    (one,) = trainer.trainers.values()
    assert isinstance(one, FineTuner)
    assert 0 < one.n_frac_active_samples < one.n_training_samples


def test_places_of_rows() -> None:
    given = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([True, False, True, True, False, True, True, False, True])
    assert torch.equal(places_of(given, given[keep]), keep.nonzero().squeeze(1))
    assert torch.equal(places_of(given, given), torch.arange(9))


def test_the_manifest_says_what_was_done_and_a_second_finetune_goes_on(
    source: Path, tmp_path: Path
) -> None:
    release = tune(
        source, tmp_path / "kl", sae_ids=["l2-*"], skip_tokens=None, name="kl"
    )
    said: Any = release.provenance["sweep"]
    assert release.name == "kl"
    assert said["finetune"]["release"] == "release"
    assert said["finetune"]["loss"] == "kl+mse"
    assert said["finetune"]["trained_steps"] == 30
    assert said["finetune"]["skip_tokens"] == 29 * 256 + 1024
    assert said["groups"]["l2"]["regularizers"][0]["coefficient"] == 1e-3
    assert said["tokens"] == 6 * STEP
    again = tune(tmp_path / "kl", tmp_path / "again", skip_tokens=None)
    said = again.provenance["sweep"]
    assert said["finetune"]["trained_steps"] == 36
    assert said["finetune"]["skip_tokens"] == 29 * 256 + 1024 + 6 * STEP
    with pytest.raises(InputError, match="was fine-tuned from 'release'"):
        matched_sweep(str(tmp_path / "kl"))
    with pytest.raises(InputError, match="expected no field 'finetune'"):
        run_sweep(SweepConfig(**said), tmp_path / "trained")


def test_a_suffix_names_groups_and_saes_anew(source: Path, tmp_path: Path) -> None:
    release = tune(source, tmp_path / "mse", sae_ids=["l2-*"], loss="mse", suffix="-t")
    assert release.groups == {"l2-t": ["l2-t-seed0"]}
    assert list(release.provenance["sweep"]["groups"]) == ["l2-t"]
    assert release.load("l2-t-seed0").cfg.k == 8
    assert list((tmp_path / "mse" / "records").iterdir())[0].stem == "l2-t-seed0"


def test_a_finished_finetune_is_not_run_again_and_another_one_is_refused(
    source: Path, tmp_path: Path
) -> None:
    chosen = {"sae_ids": ["topk-seed0"], "loss": "mse"}
    tune(source, tmp_path / "out", **chosen)
    lines: list[str] = []
    tune(source, tmp_path / "out", **chosen, progress=lines.append)
    assert "trained already" in lines[0]
    with pytest.raises(InputError, match="finetune.loss is 'mse' there"):
        tune(source, tmp_path / "out", sae_ids=["topk-seed0"])
    for fresh in (False, True):
        with pytest.raises(InputError, match="is the release itself"):
            tune(source, source, fresh=fresh)
    assert open_release(str(source)).ids


def test_too_few_tokens_and_settings_twice_are_refused(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="less than one step"):
        tune(source, tmp_path / "out", tokens=5)
    with pytest.raises(InputError, match="settings and 'lr'"):
        sr.finetune(source, out=tmp_path / "out", settings=FineTune(), lr=1.0)
    with pytest.raises(InputError, match="trains nothing"):
        FineTune(
            loss="e2e", kl_coefficient=0, downstream_coefficient=0, mse_coefficient=0
        )
    assert not (tmp_path / "out").exists()


FLAGS = [
    *("--tokens", str(6 * STEP), "--context-size", "32", "--contexts-per-step", "4"),
    *("--lr", "1e-3", "--log-every", "1", "--device", "cpu"),
]


def test_the_command_writes_a_release_and_a_dry_run_none(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "release-kl"
    words = ["finetune", str(source), "--out", str(out), *FLAGS]
    words += ["--sae-id", "topk-seed0", "--loss", "kl"]
    dry = CliRunner().invoke(app, [*words, "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "1 SAEs" in dry.output
    assert "6 steps each" in dry.output
    assert not out.exists()
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Release 'release-kl' with 1 SAEs is in" in " ".join(done.output.split())
    assert json.loads((out / "sweep.json").read_text())["finetune"]["loss"] == "kl"


def test_ctrl_c_keeps_a_checkpoint_from_which_the_command_resumes(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ["finetune", str(source), "--out", str(out), *FLAGS]
    words[words.index("--tokens") + 1] = str(60 * STEP)
    command = [sys.executable, "-m", "eval_recipes.cli", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        record = out / "records" / "topk-seed0.jsonl"
        end = time.monotonic() + 180
        while process.poll() is None and time.monotonic() < end:
            if record.is_file() and len(record.read_text().splitlines()) > 3:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.05)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "Interrupted; the same command resumes" in " ".join(output.split())
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Resumes at step" in done.output
    assert [r["step"] for r in records_of(out)["topk-seed0"]] == list(range(1, 61))
