"""Real models and text, loaded once a session."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Release
from saereg_plugin.sources import corpora, models
from saereg_plugin.sources.assets import fetch_archive
from saereg_plugin.sweeps import SweepConfig, run_sweep
from tests.cut_model import cut_model

CONTEXT_SIZE = 128
N_ACTIVATIONS = 8192
HOOK_LAYER = 2
HOOK_NAME = f"blocks.{HOOK_LAYER}.hook_resid_post"
TRAINED_HOOK = "blocks.1.hook_resid_post"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with slow tests first, so that no process ends long after the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def interruptible() -> None:
    """
    Let SIGINT interrupt, whatever was before.

    A shell that starts the suite in the background ignores it, and SAELens' runner leaves a
    handler of its own.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def model_name() -> str:
    """The embedded model's name; fetched, converted and known to TransformerLens."""
    name = "smollm2-135m-instruct"
    models.ensure(name)
    return name


@pytest.fixture(scope="session")
def model_folder(model_name: str) -> Path:
    """Its folder in the cache, of which tests work on copies."""
    folder = models.ensure(model_name)
    assert folder is not None
    return folder


@pytest.fixture(scope="session")
def cut_model_folder() -> Path:
    """The embedded model's first four layers, for tests of what is done with its texts."""
    return cut_model()


@pytest.fixture(scope="session")
def calm_model_folder() -> Path:
    """The first four layers with smaller logits, for what reads probabilities."""
    return cut_model(logit_scale=0.1)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A random model of two layers with the tokenizer of the embedded one."""
    folder = tmp_path_factory.mktemp("small") / "lm"
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def archive(model_name: str) -> Path:
    """The archive that the embedded model comes in."""
    return fetch_archive(models.EMBEDDED[model_name])


@pytest.fixture(scope="session")
def model(model_name: str, cut_model_folder: Path) -> HookedTransformer:
    """The cut model in float32, in evaluation mode, held under the embedded model's name."""
    assert model_name
    return models.load(str(cut_model_folder)).eval()


@pytest.fixture(scope="session")
def whole_model(model_name: str) -> HookedTransformer:
    """The embedded model in float32, in evaluation mode."""
    return models.load(model_name).eval()


@pytest.fixture(scope="session")
def contexts(model: HookedTransformer) -> torch.Tensor:
    """Embedded text as [context, position] tokens; each context starts with BOS."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    body = CONTEXT_SIZE - 1
    n_contexts = -(-N_ACTIVATIONS // body)
    tokens: list[int] = []
    for row in corpora.load(corpora.EMBEDDED):
        tokens += tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        if len(tokens) >= n_contexts * body:
            break
    rows = torch.tensor(tokens[: n_contexts * body]).view(n_contexts, body)
    bos = torch.full((n_contexts, 1), tokenizer.bos_token_id)
    return torch.cat([bos, rows], dim=1)


@pytest.fixture(scope="session")
def activations(model: HookedTransformer, contexts: torch.Tensor) -> torch.Tensor:
    """The residual stream [8192, 576] in float32, special tokens left out."""
    assert model.tokenizer is not None
    special = torch.tensor(model.tokenizer.all_special_ids)
    with torch.no_grad():
        _, cache = model.run_with_cache(
            contexts, names_filter=HOOK_NAME, stop_at_layer=HOOK_LAYER + 1
        )
    kept = cache[HOOK_NAME][~torch.isin(contexts, special)]
    assert len(kept) >= N_ACTIVATIONS
    return kept[:N_ACTIVATIONS].clone()


def train_release(folder: Path, model: str) -> Release:
    """Train and register two seeds of a small regularised SAE."""
    sweep = SweepConfig(
        model=model,
        hook_name=TRAINED_HOOK,
        sae={
            "architecture": "regularized_topk",
            "d_sae": 256,
            "k": 16,
            "decoder_constraint": "unit_norm",
            "normalize_activations": "expected_average_only_in",
            "regularizers": [{"name": "weight_penalty", "coefficient": 1e-3}],
        },
        seeds=(0, 1),
        tokens=80 * 256,
        batch_size=256,
        context_size=64,
        buffer_tokens=2048,
        autocast=False,
        device="cpu",
        lr=3e-3,
    )
    result = run_sweep(sweep, folder / "e2e")
    assert result.stopped == []
    assert result.release is not None
    assert result.release.folder is not None
    return register_release(result.release.folder)


@pytest.fixture(scope="session")
def trained_release(
    tmp_path_factory: pytest.TempPathFactory, calm_model_folder: Path
) -> Release:
    """Two seeds of a small regularised SAE of the cut model."""
    return train_release(tmp_path_factory.mktemp("trained"), str(calm_model_folder))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Point pip and the hub client at a port of this machine on which nobody listens."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
