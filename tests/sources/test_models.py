"""Models by name: the same numbers as transformers, clear refusals, no surprise downloads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformer_lens import HookedTransformer
from transformer_lens.loading_from_pretrained import (
    MODEL_ALIASES,
    OFFICIAL_MODEL_NAMES,
    get_official_model_name,
)
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from eval_recipes.running.context import ModelCache
from saereg_plugin import machine
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256
from saereg_plugin.sources import models
from saereg_plugin.sources.hook_shapes import hook_shape
from saereg_plugin.sources.models import is_inside, require_harmless, require_outside
from tests.forked import started

TEXT = "The capital of France is"


@pytest.fixture(scope="session")
def model(whole_model: HookedTransformer) -> HookedTransformer:
    return whole_model


@pytest.fixture(scope="module")
def small_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model's first two layers as a local Hugging Face folder."""
    folder = tmp_path_factory.mktemp("local") / "first-layers"
    model = AutoModelForCausalLM.from_pretrained(model_folder, num_hidden_layers=2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_folder).save_pretrained(folder)
    return folder


@pytest.fixture
def tables() -> Iterator[None]:
    """Undo what a test enters in TransformerLens' tables."""
    names = list(OFFICIAL_MODEL_NAMES)
    aliases = {name: list(found) for name, found in MODEL_ALIASES.items()}
    yield
    OFFICIAL_MODEL_NAMES[:] = names
    MODEL_ALIASES.clear()
    MODEL_ALIASES.update(aliases)


def test_logits_equal_those_of_transformers(
    model: HookedTransformer, model_folder: Path
) -> None:
    assert model.tokenizer is not None
    reference = AutoModelForCausalLM.from_pretrained(model_folder)
    tokens = torch.tensor(
        [[1, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]]
    )
    with torch.no_grad():
        expected = reference(tokens).logits
        actual = model(tokens)

    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=0)
    assert model.tokenizer.decode(actual[0, -1].argmax()) == " Paris"


def test_tokenizer_starts_texts_with_bos(model: HookedTransformer) -> None:
    assert model.tokenizer is not None
    assert (model.tokenizer.bos_token, model.tokenizer.bos_token_id) == (
        "<|im_start|>",
        1,
    )
    assert model.to_tokens(TEXT)[0, 0] == 1
    assert model.to_tokens(TEXT)[0, 1] != 1
    assert model.tokenizer.chat_template


def test_the_processing_loader_knows_the_name_too(model_name: str) -> None:
    with pytest.warns(DeprecationWarning):
        model = HookedTransformer.from_pretrained(
            model_name, first_n_layers=1, device="cpu"
        )
    assert model.cfg.d_model == 576


def test_ensuring_again_is_quick(model_name: str) -> None:
    start = time.monotonic()
    models.ensure(model_name)
    assert time.monotonic() - start < 2


_WIDTHS = [
    ("blocks.2.hook_resid_post", None, 576),
    ("blocks.0.mlp.hook_post", None, 1536),
    ("blocks.29.attn.hook_z", None, 576),
    ("blocks.29.attn.hook_z", 8, 64),
    ("blocks.0.attn.hook_k", None, 192),
]


@pytest.mark.parametrize(("hook_name", "head", "width"), _WIDTHS)
def test_hook_shape(
    model_name: str, hook_name: str, head: int | None, width: int
) -> None:
    assert hook_shape(model_name, hook_name, head) == width


def test_hook_shapes_are_those_of_the_real_model(model: HookedTransformer) -> None:
    names = [name for name, _, _ in _WIDTHS]
    _, cache = model.run_with_cache(torch.tensor([[1, 2]]), names_filter=names)
    for name, head, width in _WIDTHS:
        real = cache[name][0, 0]
        assert (real if head is None else real[head]).numel() == width


@pytest.mark.parametrize(
    ("hook_name", "width"),
    [("model.layers.3", 576), ("model.layers.3.mlp.gate_proj", 1536)],
)
def test_hook_shape_by_module_name(model_name: str, hook_name: str, width: int) -> None:
    found = hook_shape(model_name, hook_name, model_class_name="AutoModelForCausalLM")
    assert found == width


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blocks.2.hook_resid_pots",), "Did you mean 'blocks.2.hook_resid_post'?"),
        (("blocks.30.hook_resid_post",), "has no hook 'blocks.30.hook_resid_post'"),
        (
            ("blocks.2.attn.hook_pattern",),
            "has shape (1, 9, 11, 11) on one text of 11 tokens",
        ),
        (("blocks.2.attn.hook_result",), "is never run in a forward pass"),
        (("blocks.2.hook_resid_post", 0), "has no heads; head 0 does not exist"),
        (("blocks.2.attn.hook_z", 9), "has 9 heads; head 9 does not exist"),
        (("layer", None, "AutoModelForCausalLM"), "has no hook 'layer'"),
        (("layer", None, "HookedTransfomer"), "Did you mean 'HookedTransformer'?"),
    ],
)
def test_hook_shape_refuses(
    model_name: str, arguments: tuple[str], message: str
) -> None:
    with pytest.raises(InputError) as error:
        hook_shape(model_name, *arguments)
    assert message in str(error.value)


@pytest.mark.slow
@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("parent", ["plain", "Llama-3-gemma"])
def test_a_local_folder_loads_by_its_path(
    model: HookedTransformer,
    small_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parent: str,
) -> None:
    shutil.copytree(small_folder, tmp_path / parent / "model")
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    relative = f"{parent}/model"
    tokens = model.to_tokens(TEXT)
    expected = model.run_with_cache(tokens, names_filter="blocks.1.hook_resid_post")[1]

    assert models.ensure(relative) == tmp_path / relative
    for name in (relative, str(tmp_path / relative)):
        loaded = models.load(name)
        _, cache = loaded.run_with_cache(tokens)
        torch.testing.assert_close(
            cache["blocks.1.hook_resid_post"], expected["blocks.1.hook_resid_post"]
        )
    assert hook_shape(relative, "blocks.1.hook_resid_post") == 576


def test_bfloat16_by_choice(small_folder: Path) -> None:
    assert models.load(str(small_folder), dtype="bfloat16").W_E.dtype == torch.bfloat16
    with pytest.raises(InputError, match="Unknown dtype 'bf16'"):
        models.load(str(small_folder), dtype="bf16")


@pytest.mark.usefixtures("tables")
def test_a_path_that_misleads_transformer_lens_is_refused(
    small_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(small_folder, tmp_path / "robert" / "model")

    with pytest.raises(
        InputError, match="contains 'bert', from which TransformerLens infers"
    ):
        models.ensure(str(folder))
    assert models.ensure(str(folder), model_class_name="AutoModelForCausalLM") == folder


def test_a_cache_path_that_misleads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path / "llama"))
    with pytest.raises(InputError, match="set the environment variable SAEREG_CACHE"):
        models.ensure("smollm2-135m-instruct")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has no config\.json; expected a Hugging Face model"
    ):
        models.ensure(str(tmp_path))


def test_an_unsupported_architecture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "mamba", "architectures": ["Mamba"]}'
    )
    with pytest.raises(
        InputError, match="TransformerLens cannot read the model in folder"
    ):
        models.ensure(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpt2-smal", "Did you mean 'gpt2-small'?"),
        ("smollm2-135m-instruc", "Did you mean 'smollm2-135m-instruct'?"),
        ("./nowhere", "Model folder './nowhere' does not exist"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        models.ensure(name)
    assert message in str(error.value)


@pytest.mark.usefixtures("offline")
def test_a_hub_model_is_refused_in_seconds_without_a_hub() -> None:
    start = time.monotonic()
    with pytest.raises(InputError) as error:
        models.ensure("solu-1l")

    assert time.monotonic() - start < 10
    assert "'NeelNanda/SoLU_1L512W_C4_Code' is neither embedded" in str(error.value)
    assert "'smollm2-135m-instruct' works offline" in str(error.value)


@pytest.mark.usefixtures("tables")
def test_registering_follows_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        monkeypatch.setenv("SAEREG_CACHE", str(folder))
        models.register_names()
        models.register_names()
        expected = str(folder / "models" / "smollm2-135m-instruct")
        assert get_official_model_name("smollm2-135m-instruct") == expected
        sizes.append(len(OFFICIAL_MODEL_NAMES))
    # the second entry took the place of the first
    assert sizes[0] == sizes[1]
    assert (
        str(tmp_path / "one/models/smollm2-135m-instruct") not in OFFICIAL_MODEL_NAMES
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_importing_names_the_model_and_downloads_nothing(tmp_path: Path) -> None:
    code = (
        "import saereg_plugin\n"
        "from transformer_lens.loading_from_pretrained import get_official_model_name\n"
        "print(get_official_model_name('smollm2-135m-instruct'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"SAEREG_CACHE": str(tmp_path), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == str(tmp_path / "models" / "smollm2-135m-instruct")
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "archives").exists()


def convert() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    models.ensure("smollm2-135m-instruct")
    assert torch.rand(1) == expected, "converting draws from the user's random stream"


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_two_processes_redo_a_truncated_converted_model_once(
    model_folder: Path,
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SAEREG_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "archives").mkdir()
    shutil.copy(archive, tmp_path / "archives")
    copy = shutil.copytree(model_folder, tmp_path / "models" / model_folder.name)
    with (copy / "model.safetensors").open("r+b") as file:
        file.truncate(1_000_000)
    outputs = outputs_at_once(tmp_path)

    assert sum("Converting and de-quantizing" in output for output in outputs) == 1
    left = {path.name for path in (tmp_path / "models").iterdir()}
    assert left - {"smollm2-135m-instruct.lock"} == {"smollm2-135m-instruct"}
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert sha256(copy / name) == sha256(model_folder / name)


def outputs_at_once(folder: Path) -> list[str]:
    """What two processes say that convert the model at the same time."""
    logs = [folder / "one.log", folder / "two.log"]
    processes = [started(log, convert) for log in logs]
    for process in processes:
        process.join(600)
    outputs = [log.read_text() for log in logs]
    assert [process.exitcode for process in processes] == [0, 0], outputs
    return outputs


@pytest.mark.parametrize("dtype", ["int8", "bool", "complex64", "float8_e4m3fn"])
def test_dtypes_that_models_cannot_compute_in_are_refused(dtype: str) -> None:
    with pytest.raises(InputError, match=f"cannot compute in dtype '{dtype}'"):
        machine.torch_dtype(dtype)


@pytest.mark.parametrize("device", ["tpu9", "gpu", "", "cpu:x", "cuda:-1"])
def test_unknown_devices_are_refused(device: str) -> None:
    with pytest.raises(InputError, match="Unknown device"):
        machine.require_device(device)


def test_devices_that_this_machine_lacks_are_refused() -> None:
    assert machine.require_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="has 1 cpu device, counted from 0"):
        machine.require_device("cpu:7")
    with pytest.raises(InputError, match="'meta' is not available"):
        machine.require_device("meta")
    with pytest.raises(InputError, match="cuda:99"):
        machine.require_device("cuda:99")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="'cuda' is not available"):
            machine.require_device("cuda")


def test_a_device_may_be_left_to_the_machine() -> None:
    gpu = torch.cuda.is_available()
    mps = torch.backends.mps.is_available()
    expected = "cuda" if gpu else "mps" if mps else "cpu"
    assert machine.resolve_device("auto") == expected
    assert machine.resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:7", "meta"])
def test_a_refused_device_names_the_devices_of_this_machine(device: str) -> None:
    with pytest.raises(InputError, match=f"'{device}'.*'auto'.*'cpu'"):
        machine.resolve_device(device)


def test_code_in_a_model_folder_is_not_run(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TransformerLens trusts the tokenizer of any folder whose architecture is Qwen3's."""
    monkeypatch.chdir(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    Qwen3ForCausalLM(config).save_pretrained("lm")
    tokenizer.save_pretrained("lm")
    models.ensure("lm")
    expected = HookedTransformer.from_pretrained_no_processing("lm").tokenizer
    Path("lm/evil.py").write_text(
        "open('PWNED', 'w')\n"
        "from transformers import PreTrainedTokenizerFast as F, Qwen3Config as C\n"
        "from transformers import Qwen3ForCausalLM as M\n"
        "class T(F): pass\nclass EC(C): pass\nclass EM(M): config_class = EC\n"
    )
    for name, auto_map in (
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.T", "evil.T"]}),
        (
            "config.json",
            {"AutoConfig": "evil.EC", "AutoModelForCausalLM": "evil.EM"},
        ),
    ):
        path = Path("lm") / name
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "auto_map": auto_map}))
    model = models.load("lm")
    hook_shape("lm", "blocks.0.hook_resid_post")
    hook_shape("lm", "model.layers.0", model_class_name="AutoModelForCausalLM")
    assert not Path("PWNED").exists()
    assert model.tokenizer is not None and expected is not None
    assert model.tokenizer.encode("a text") == expected.encode("a text")
    assert model.tokenizer.padding_side == expected.padding_side


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"center_writing_weights": False, "fold_ln": True},
        {"default_padding_side": "left", "default_prepend_bos": None},
        {"first_n_layers": 3, "n_ctx": 512, "n_devices": 2},
    ],
)
def test_harmless_arguments_are_passed_on(given: dict[str, Any] | None) -> None:
    assert require_harmless(given, trusted=False, source="SAE 'a'") == (given or {})


@pytest.mark.parametrize(
    "given",
    [
        {"trust_remote_code": True},
        {"trust_remote_code": False},
        {"revision": "main"},
        {"hf_model": "x"},
        {"tokenizer": {"a": 1}},
        {"fold_ln": 1},
        {"n_ctx": True},
        {"n_ctx": -1},
        {"default_padding_side": "middle"},
        {"cache_dir": "/tmp"},
        [],
        "fold_ln",
    ],
)
def test_anything_else_is_refused(given: Any) -> None:
    with pytest.raises(InputError, match="^SAE 'a' (wants its|has model_from)"):
        require_harmless(given, trusted=False, source="SAE 'a'")


def test_a_trusted_release_decides_itself() -> None:
    given = {"trust_remote_code": True, "revision": "main"}
    assert require_harmless(given, trusted=True, source="x") == given


def test_the_model_cache_passes_nothing_else_to_the_loader() -> None:
    with pytest.raises(InputError, match="which may run code"):
        ModelCache().get(
            "gpt2",
            dtype="float32",
            device="cpu",
            model_kwargs='{"trust_remote_code": true}',
        )


def test_paths_into_the_release_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    release = tmp_path / "release"
    (release / "lm").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(release / "lm")
    (release / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "alias").symlink_to(release)
    inside = [
        "release/lm",
        "./release/../release/lm",
        "link",
        "release/out",
        "alias/lm",
    ]
    for path in (*inside, str(release / "lm"), "release"):
        for folder in (release, tmp_path / "alias"):
            assert is_inside(path, folder), path
    for path in ("outside", "gpt2", "release/no-such", "a\0b", None, 5):
        assert not is_inside(path, release)
    require_outside("outside", release, trusted=False, source="x")
    require_outside("release/lm", release, trusted=True, source="x")
    with pytest.raises(InputError, match="a folder inside the release itself"):
        require_outside("link", release, trusted=False, source="x")


def test_an_embedded_model_is_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "smollm2-135m-instruct").mkdir()
    require_outside("smollm2-135m-instruct", tmp_path, trusted=False, source="x")
