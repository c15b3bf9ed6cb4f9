"""SAELens' command line with our architectures in it."""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sae_lens import SAE
from sae_lens.llm_sae_training_runner import _parse_cfg_args

import saereg_plugin as sr
from saereg_plugin.__main__ import main
from saereg_plugin.sources import corpora
from tests.forked import started
from tests.training import ARCHITECTURES

PENALTY = '{"name": "weight_penalty", "coefficient": 1e-5}'
SCHEDULED = (
    '{"name": "weight_penalty", "norm": "l1", "mode": "decoupled", "coefficient": 0.5, '
    '"schedule": {"warm_up_steps": 7}, "label": "sparse"}'
)


def parse(architecture: str, *arguments: str) -> Any:
    parsed = _parse_cfg_args(["--architecture", architecture, *arguments])
    return parsed.sae


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints before it ends with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_own_fields_are_read() -> None:
    sae = parse(
        "regularized_topk",
        *("--d_in", "576", "--d_sae", "64", "--k", "5"),
        *("--regularizers", PENALTY, SCHEDULED),
        *("--decoder_constraint", "unit_norm"),
        *("--initialization", "untied", "--b_dec_init", "geometric_median"),
        *("--init_seed", "4", "--max_norm_multiple", "10"),
    )
    assert type(sae) is sr.RegularizedTopKTrainingSAEConfig
    assert sae.regularizers == [
        sr.WeightPenalty(coefficient=1e-5),
        sr.WeightPenalty(
            norm="l1",
            mode="decoupled",
            coefficient=0.5,
            schedule=sr.Schedule(warm_up_steps=7),
            label="sparse",
        ),
    ]
    assert (sae.d_in, sae.d_sae, sae.k) == (576, 64, 5)
    assert sae.decoder_constraint == "unit_norm"
    assert sae.initialization == "untied"
    assert sae.b_dec_init == "geometric_median"
    assert sae.init_seed == 4
    assert sae.max_norm_multiple == 10.0
    assert sae.decoder_init_norm == 1.0
    assert sae.rescale_acts_by_decoder_norm is False


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defaults_are_those_of_python(architecture: str) -> None:
    extra = ("--matryoshka_widths", "64", "512") if "matry" in architecture else ()
    sae = parse(f"regularized_{architecture}", *extra)
    assert sae.regularizers == []
    again = type(sae).from_dict(
        {"d_in": 512, "d_sae": 1024}
        | ({"matryoshka_widths": [64, 512]} if extra else {})
        | {"architecture": sae.architecture()}
    )
    assert again.to_dict() == sae.to_dict()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (0.1, True)),
        (("--decoder_init_norm", "auto"), (0.1, True)),
        (("--decoder_init_norm", "none"), (None, True)),
        (("--decoder_init_norm", "0.25"), (0.25, True)),
        (("--rescale_acts_by_decoder_norm", "False"), (0.1, False)),
        (("--rescale_acts_by_decoder_norm", "true"), (0.1, True)),
        (("--rescale_acts_by_decoder_norm", "auto"), (0.1, True)),
    ],
)
def test_auto_and_none_are_read(
    arguments: tuple[str, ...], expected: tuple[float | None, bool]
) -> None:
    sae = parse("regularized_topk", *arguments)
    assert (sae.decoder_init_norm, sae.rescale_acts_by_decoder_norm) == expected


@pytest.mark.parametrize("architecture", ["standard", "topk", "gated", "jumprelu"])
def test_architectures_of_saelens_still_parse(architecture: str) -> None:
    sae = parse(architecture, "--d_in", "64")
    assert sae.architecture() == architecture
    assert sae.d_in == 64
    assert not isinstance(sae, sr.RegularizedConfigMixin)


@pytest.mark.parametrize(
    ("regularizer", "message"),
    [
        ('{"name": "weight_penalti"}', "Did you mean 'weight_penalty'"),
        ('{"name": "weight_penalty", "nrom": "l1"}', "Did you mean 'norm'"),
        ("weight_penalty", "is not JSON"),
        ('{"name": "weight_penalty", "coefficient": -1}', "a finite number, 0 or more"),
    ],
)
def test_bad_regularizer_is_an_argument_error(
    regularizer: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--architecture", "regularized_topk", "--regularizers", regularizer]
    with pytest.raises(argparse.ArgumentError, match=message):
        _parse_cfg_args(arguments)
    assert message in refusal(arguments, capsys)


def test_contradiction_is_reported_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        *("--architecture", "regularized_topk"),
        *("--decoder_constraint", "unit_norm", "--decoder_init_norm", "0.1"),
    ]
    printed = refusal(arguments, capsys)
    assert printed.startswith("error: decoder_init_norm=0.1 contradicts")


def test_run_that_cannot_work_is_refused_before_it_starts(
    model_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *("--architecture", "regularized_topk", "--model_name", model_name),
        *("--hook_name", "blocks.1.hook_resid_post"),
    ]
    printed = refusal(arguments, capsys)
    assert printed.startswith("error: d_in=512 does not fit 'blocks.1.hook_resid_post'")


def run_module(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "saereg_plugin", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        timeout=600,
    )


def as_program(*arguments: str) -> None:
    """Do what ``python -m saereg_plugin`` does with these arguments."""
    sys.argv = ["saereg_plugin", *arguments]
    runpy.run_module("saereg_plugin", run_name="__main__")


def test_unknown_regularizer_ends_the_process_with_its_text(tmp_path: Path) -> None:
    arguments = [
        *("--architecture", "regularized_topk"),
        *("--regularizers", '{"name": "weight_penalti"}'),
    ]
    process = started(tmp_path / "log", as_program, *arguments)
    process.join(600)
    printed = (tmp_path / "log").read_text()
    assert process.exitcode == 2, printed
    assert "Unknown regulariser 'weight_penalti'" in printed
    assert "Did you mean 'weight_penalty'?" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_command_trains_and_saves(model_name: str, tmp_path: Path) -> None:
    ran = run_module(
        *("--architecture", "regularized_topk"),
        *("--d_in", "576", "--d_sae", "128", "--k", "8"),
        *("--regularizers", PENALTY, "--decoder_constraint", "unit_norm"),
        *("--model_name", model_name),
        *("--hook_name", "blocks.0.hook_resid_post"),
        *("--dataset_path", corpora.ensure("embedded", "train")),
        *("--is_dataset_tokenized", "False", "--context_size", "32"),
        *("--store_batch_size_prompts", "4", "--n_batches_in_buffer", "4"),
        *("--train_batch_size_tokens", "64", "--training_tokens", "320"),
        *("--log_to_wandb", "False", "--checkpoint_path", "none"),
        *("--output_path", str(tmp_path / "out")),
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    saved = SAE.load_from_disk(tmp_path / "out")
    assert saved.cfg.architecture() == "topk"
    details = saved.cfg.metadata.training_architecture_details
    assert details["regularizers"][0]["coefficient"] == 1e-5
