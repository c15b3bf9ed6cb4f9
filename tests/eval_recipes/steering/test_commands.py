"""Flags of the command line that concern steering become its options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import typer

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.commands.flags import contrast_flag, judge_flags
from eval_recipes.commands.run import run
from eval_recipes.commands.studies.steering import judge_settings, steering
from eval_recipes.running.options import read_options
from eval_recipes.steering.options import make_config, uses_chat
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved SAE whose model nobody loads."""
    folder = tmp_path_factory.mktemp("commands") / "commands-release"
    sae = tiny_sae("smollm2-135m-instruct", HOOK_NAME, torch.zeros(576), 0)
    save_release(folder, {"s0": sae})
    return str(folder)


@pytest.mark.parametrize("flag", ["judge_model", "judge_base_url"])
def test_a_named_chat_model_judges_steering(flag: str) -> None:
    given = judge_flags(["steering"], {flag: "http://here", "explainer": None})
    assert given == [f"steering.{flag}=http://here"]
    options = read_options(given, ["steering"])["steering"]
    config = make_config(options)
    assert config.judges == ["chat", "embedding", "log_probability"]
    assert uses_chat(config)
    chosen = [*given, "steering.judges=[log_probability]"]
    config = make_config(read_options(chosen, ["steering"])["steering"])
    assert config.judges == ["log_probability"] and not uses_chat(config)


def test_flags_of_a_judge_go_where_one_is() -> None:
    flags = {"judge_model": "m", "judge_base_url": None, "explainer": "tokens"}
    assert judge_flags(["core", "autointerp", "steering"], flags) == [
        "autointerp.judge_model=m",
        "autointerp.explainer=tokens",
        "steering.judge_model=m",
        "steering.explainer=tokens",
    ]
    # refused by read_options, since it does not run
    assert judge_flags(["core"], flags)[0] == "autointerp.judge_model=m"
    assert judge_flags(["steering"], dict.fromkeys(flags)) == []


def test_select_contrast_names_two_files() -> None:
    assert contrast_flag(None) == []
    given = contrast_flag(("contrast", "a b.txt", "c.txt"))
    options = read_options(given, ["steering"])["steering"]
    config = make_config(options)
    assert (config.select, config.contrast) == ("contrast", ["a b.txt", "c.txt"])
    with pytest.raises(InputError, match="--select 'best'; expected 'contrast'"):
        contrast_flag(("best", "a", "b"))


def test_the_study_asks_the_chat_model_that_is_named() -> None:
    offline = ["embedding", "embedding_published", "log_probability"]
    assert judge_settings(None, None, "tokens") == {
        "judges": offline,
        "explainer": "tokens",
    }
    for flags in ({"judge_model": "m"}, {"judge_base_url": "http://x"}):
        found = judge_settings(
            flags.get("judge_model"), flags.get("judge_base_url"), "judge"
        )
        assert found == {"judges": ["chat", *offline], "explainer": "judge", **flags}
    limited = judge_settings("m", None, "tokens", max_calls=3, max_tokens=500)
    config = make_config(limited)
    assert (config.judge_max_calls, config.judge_max_tokens) == (3, 500)


def refusal(command: object, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    app = typer.Typer()
    app.command()(command)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr(sys, "argv", ["saereg-bench", *arguments])
    with pytest.raises(InputError) as caught:
        app(standalone_mode=False)
    return str(caught.value)


def test_run_refuses_before_anything_is_loaded(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    shared = ["--sae-release", release, "--out", str(tmp_path), "--evals", "steering"]
    for arguments, message in (
        (["--judge-model", "m"], KEY_VARIABLE),
        (["--select", "contrast", "a.txt", "b.txt"], "'a.txt' cannot be read"),
        (["--select", "best", "a.txt", "b.txt"], "expected 'contrast'"),
        (["--explainer", "judges"], "explainer is 'judges'"),
        (["--option", "steering.random_seed=3"], "--seed"),
        (["--option", "steering.corpus=x"], "--corpus"),
    ):
        assert message in refusal(run, monkeypatch, *shared, *arguments)


def test_the_study_refuses_before_anything_is_trained(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    out = ["--out", str(tmp_path / "study")]
    for arguments, message in (
        (["--judge-model", "m"], KEY_VARIABLE),
        (["--judge-model", "m", "--judge-max-calls", "5"], KEY_VARIABLE),
        (["--paper-norm", "0"], "norm is 0.0; expected a number above 0"),
        (["--paper-norm", "-3"], "norm is -3.0"),
        (["--group", "l1"], "trains no group 'l1', but 'none', 'l2'"),
        (
            ["--sae-release", release, "--group", "l1"],
            "has no group 'l1'; it has 'tiny'",
        ),
        (["--group", "none"], "Both groups are 'none'"),
        (["--explainer", "nobody"], "explainer is 'nobody'"),
        (["--llm-dtype", "float3"], "float3"),
    ):
        assert message in refusal(steering, monkeypatch, *out, *arguments)
    assert not (tmp_path / "study" / "release").exists()
