"""The command line: every bad input ends with one clear error before the model runs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from eval_recipes import cli
from saereg_plugin.releases.release import (
    MANIFEST,
    Release,
    read_release,
    write_release,
)
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

LOADED = "Loaded pretrained model"
"""What TransformerLens prints when it has read the weights (tests/sweeps/test_run.py)."""
SCRIPT = Path(sys.executable).with_name("saereg-bench")


@pytest.fixture
def refused(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run the command; it must end with status 2 and one error, which is returned."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["saereg-bench", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        out, err = capfd.readouterr()
        assert LOADED not in out
        assert err.count("error:") == 1
        return " ".join(err[err.index("error:") :].split())

    return run


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of two seeds of one group, and one seed of another."""
    folder = tmp_path_factory.mktemp("cli") / "cli-release"
    saes = {
        f"s{i}": tiny_sae("smollm2-135m-instruct", HOOK_NAME, torch.zeros(576), i)
        for i in range(3)
    }
    save_release(folder, saes)
    return folder


@pytest.fixture
def release(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "release"))


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--hook", "blocks.2.hook_resid_pots"],
            "Model 'smollm2-135m-instruct' has no hook 'blocks.2.hook_resid_pots'. Did you "
            "mean 'blocks.2.hook_resid_post'?",
        ),
        (
            ["--hook", "blocks.30.hook_resid_post"],
            "has no hook 'blocks.30.hook_resid_post'. Did you mean",
        ),
        (
            ["--model", "gpt3-small"],
            "Unknown model 'gpt3-small'; expected an embedded model "
            "('smollm2-135m-instruct'), a local Hugging Face folder, or a name that "
            "TransformerLens knows. Did you mean 'gpt2-small'?",
        ),
        (
            ["--model", "./no-such-model"],
            "Model folder './no-such-model' does not exist",
        ),
        (
            ["--d-sae", "64", "--k", "65"],
            "Group 'none': k=65 with d_sae=64; expected d_sae of at least 1 and k from 1 "
            "to d_sae.",
        ),
        (
            ["--coefficient", "-1"],
            "weight_penalty: coefficient is -1.0; expected a finite number, 0 or more.",
        ),
        (
            ["--coefficient", "nan"],
            "'coefficient' is nan (float); expected a finite number",
        ),
        (
            ["--coefficient", "inf"],
            "'coefficient' is inf (float); expected a finite number",
        ),
        (
            ["--coefficient", "1", "--norm", "l3"],
            "Group 'l3-1': weight_penalty: norm is 'l3'. Known: 'frobenius', 'l1', 'l2'.",
        ),
        (
            ["--architecture", "regularized_topc"],
            "Unknown architecture 'regularized_topc'. Did you mean 'regularized_topk'?",
        ),
        (
            ["--architecture", "topk"],
            "'topk' takes no seed of its own. Use 'regularized_topk'",
        ),
        (["--architecture", "regularized_gated", "--k", "8"], "has no field 'k'."),
        (["--k", "8", "--k", "8"], "occurs twice"),
        (["--seed", "1", "--seed", "1"], "seeds are [1, 1]; expected different seeds"),
        (["--seed", "-1"], "seeds has -1; expected at least 0."),
        (["--tokens", "100"], "tokens=100 is less than one batch of 2048"),
        (["--batch-size", "0"], "batch_size=0; expected at least 1."),
        (["--lr", "nan"], "lr=nan; expected a finite number."),
        (["--corpus", "./no-such"], "Corpus folder './no-such' does not exist"),
        (["--llm-dtype", "float31"], "Unknown dtype 'float31'"),
        (
            ["--config", "sweep.yaml"],
            "File 'sweep.yaml' cannot be read (No such file or directory)",
        ),
    ],
)
def test_train_refuses(
    refused: Callable[..., str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    small = [] if "--k" in arguments else ["--k", "8"]
    assert message in refused("train", "--out", str(out), *small, *arguments)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_train_names_a_configuration_that_is_missing(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    out, config = str(tmp_path / "out"), str(tmp_path / "no-such.yaml")
    error = refused("train", "--out", out, "--config", config)
    assert f"File {config!r} cannot be read (No such file or directory)" in error


def test_train_names_the_file_with_an_unknown_field(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(
        yaml.safe_dump({"hook_name": "a", "sae": {}, "learning_rate": 1.0})
    )
    error = refused("train", "--out", str(tmp_path / "out"), "--config", str(config))
    assert f"{config}: unknown field 'learning_rate'." in error


@pytest.mark.usefixtures("model_name")
def test_output_folder_with_a_file_in_the_way(
    refused: Callable[..., str], tmp_path: Path, release: Path
) -> None:
    (tmp_path / "file").touch()
    out = str(tmp_path / "file" / "out")
    for arguments in (
        ("train", "--k", "8", "--out", out),
        ("run", "--sae-release", str(release), "--evals", "core", "--out", out),
    ):
        error = refused(*arguments)
        assert f"Output folder {out!r} is not writable (Not a directory)" in error


def damage(release: Path) -> None:
    path = release / "s1" / "sae_weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 4
    path.write_bytes(content)


def leave_one_seed(release: Path) -> None:
    found = read_release(release)
    write_release(Release(found.name, found.model, found.entries[:1], release))


def remove_manifest(release: Path) -> None:
    (release / MANIFEST).unlink()


def remove_manifest_and_saes(release: Path) -> None:
    remove_manifest(release)
    for path in release.rglob("sae_weights.safetensors"):
        path.unlink()


def nothing(_: Path) -> None:
    """Leave the release as it is."""


@pytest.mark.usefixtures("model_name")
@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (remove_manifest_and_saes, [], f"no release folder: it has no {MANIFEST}, and"),
        (remove_manifest, [], "for example with --group-by '-seed"),
        (nothing, ["--sae-id", "s9"], "No SAE 's9' in release 'cli-release'. "),
        (nothing, ["--sae-id", "s0", "--sae-id", "ss1"], "Did you mean 's1'?"),
        (nothing, ["--sae-id", "x*"], "No SAE 'x*' in release 'cli-release'. Known: "),
        (damage, [], "s1/sae_weights.safetensors' is damaged: its SHA-256 is"),
        (leave_one_seed, [], "Group 'tiny' has a single seed ('s0'); expected two or"),
        (nothing, ["--evals", "cor"], "Unknown evaluation 'cor'. Did you mean 'core'?"),
        (nothing, ["--evals", " , "], "No evaluation was named. Known: core, cross_"),
        (nothing, ["--corpus", "./no-such"], "folder './no-such' does not exist"),
        (nothing, ["--group-by", "s[0-9]"], "does not say where the seed is"),
        (nothing, ["--group-by", "(?P<seed>z)"], "matches none of the 3 SAEs"),
        (nothing, ["--group-by", "g.yaml"], "File 'g.yaml' cannot be read"),
        (nothing, ["--llm-dtype", "float31"], "Unknown dtype 'float31'"),
        (nothing, ["--device", "gpu"], "Unknown device 'gpu'"),
        (nothing, ["--sae-id", "s0,s9"], "No SAE 's9' in release 'cli-release'. "),
        (nothing, ["--evals", "core", "--evals", "cor"], "Unknown evaluation 'cor'"),
        (nothing, ["--offline", "--data", "hub"], "--offline stands for --data embed"),
        (nothing, ["--fresh", "--resume"], "--fresh and --resume exclude each other"),
    ],
)
def test_run_refuses(
    refused: Callable[..., str],
    tmp_path: Path,
    release: Path,
    change: Callable[[Path], None],
    arguments: list[str],
    message: str,
) -> None:
    change(release)
    out = tmp_path / "out"
    error = refused("run", "--sae-release", str(release), "--out", str(out), *arguments)
    assert message in error
    assert not any(path.is_file() for path in out.rglob("*"))


@pytest.mark.slow
def test_unknown_release_is_told_with_status_2_by_the_installed_script(
    tmp_path: Path,
) -> None:
    result = subprocess.run(
        [SCRIPT, "run", "--sae-release", "gpt2-small-res-jbb", "--out", tmp_path / "o"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2
    assert "Did you mean 'gpt2-small-res-jb'?" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "o").exists()


def test_missing_option_is_told_with_status_2(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["saereg-bench", "run"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "--sae-release" in capfd.readouterr().err


def test_the_version_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert result.output == f"saereg-plugin {version('saereg-plugin')}\n"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("command", [[], ["run"], ["study", "mnist"]])
def test_h_is_help(command: list[str]) -> None:
    short, long = (CliRunner().invoke(cli.app, [*command, h]) for h in ("-h", "--help"))
    assert short.exit_code == 0 and short.output == long.output != ""


def test_the_flags_of_run_are_in_panels() -> None:
    text = CliRunner().invoke(cli.app, ["run", "-h"], env={"COLUMNS": "150"}).output
    panels = ("Model and data", "Evaluation", "Chat model", "Output")
    places = [text.index(f"─ {panel} ") for panel in panels]
    assert places == sorted(places)
    # accepted, for the scripts of 0.1
    assert "--fresh" in text and "--resume" not in text


@pytest.mark.parametrize(
    "command",
    [["-h"], ["train", "-h"], ["run", "-h"], ["demo", "-h"], ["list"], ["-q", "list"]],
)
def test_help_and_list_import_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['saereg-bench', *sys.argv[1:]]\n"
        "from eval_recipes.cli import main\n"
        "try: main()\n"
        "finally: print('IMPORTED', *sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command],
        capture_output=True,
        text=True,
        check=True,
        env={"COLUMNS": "200", "PATH": "/usr/bin"},
    )
    text, _, modules = result.stdout.partition("IMPORTED")
    assert re.search(r"Usage: .*saereg-bench|regularized_topk", text)
    heavy = {"torch", "sae_lens", "transformers", "sae_bench", "pandas", "datasets"}
    assert heavy & set(modules.split()) == set()
