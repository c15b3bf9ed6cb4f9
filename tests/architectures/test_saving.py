"""A saved SAE is SAELens' own: it loads and computes where this package is not installed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

import saereg_plugin as sr
from tests.regularizers.throwaway import NoisyFiring
from tests.training import (
    ARCHITECTURES,
    BATCH,
    batches,
    make_sae,
    make_trainer,
    relative_row_error,
    row_norms,
)

pytestmark = pytest.mark.slow

SAVED_AS = {
    "standard": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
}
REGULARIZERS = [
    sr.WeightPenalty(coefficient=0.01, label="shrink"),
    NoisyFiring(coefficient=0.01),
]
FIELDS: dict[str, Any] = {
    "regularizers": REGULARIZERS,
    "normalize_activations": "expected_average_only_in",
    "b_dec_init": "mean",
    "max_norm_multiple": 20.0,
    "init_seed": 3,
}
CONSTRAINTS = ("none", "unit_norm")

ELSEWHERE = """
import sys
sys.modules["saereg_plugin"] = None
from pathlib import Path
from safetensors.torch import load_file, save_file
from sae_lens import SAE
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
assert not [name for name in SAE_TRAINING_CLASS_REGISTRY if "regularized" in name]
root = Path(sys.argv[1])
x = load_file(root / "x.safetensors")["x"]
outputs = {}
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    sae = SAE.load_from_disk(folder)
    outputs[folder.name] = sae(x).detach().contiguous()
    outputs[folder.name + ".acts"] = sae.encode(x).detach().contiguous()
save_file(outputs, root / "outputs.safetensors")
"""


@pytest.fixture(scope="module")
def trained(activations: torch.Tensor) -> dict[str, Any]:
    """Trained SAEs by architecture and constraint."""
    saes: dict[str, Any] = {}
    for architecture in ARCHITECTURES:
        for constraint in CONSTRAINTS:
            sae = make_sae(architecture, decoder_constraint=constraint, **FIELDS)
            make_trainer(sae, batches(activations), steps=30).fit()
            saes[f"{architecture}-{constraint}"] = sae
    return saes


@pytest.fixture(scope="module")
def saved(
    trained: dict[str, Any],
    activations: torch.Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Their folders, and in one file what a process without this package computed."""
    root = tmp_path_factory.mktemp("saved")
    for name, sae in trained.items():
        sae.save_inference_model(root / name)
    save_file({"x": activations[-BATCH:].contiguous()}, root / "x.safetensors")
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(root)], check=True)
    return root


NAMES = [f"{a}-{c}" for a in ARCHITECTURES for c in CONSTRAINTS]


@pytest.mark.parametrize("name", NAMES)
def test_same_outputs_without_this_package(
    name: str, saved: Path, activations: torch.Tensor
) -> None:
    sae = SAE.load_from_disk(saved / name)
    elsewhere = load_file(saved / "outputs.safetensors")
    x = activations[-BATCH:]
    with torch.no_grad():
        assert relative_row_error(elsewhere[name], sae(x)) < 1e-6
    assert (elsewhere[f"{name}.acts"] > 0).any()
    assert sae.cfg.architecture() == SAVED_AS[name.split("-")[0]]


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_saved_sae_computes_what_was_trained(
    architecture: str,
    constraint: str,
    saved: Path,
    trained: dict[str, Any],
    activations: torch.Tensor,
) -> None:
    sae = SAE.load_from_disk(saved / f"{architecture}-{constraint}")
    training = trained[f"{architecture}-{constraint}"]
    x = activations[-BATCH:]
    with torch.no_grad():
        assert relative_row_error(sae(x), training(x)) < 1e-6


@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batch_selection_is_saved_as_a_threshold(
    architecture: str,
    constraint: str,
    saved: Path,
    trained: dict[str, Any],
    activations: torch.Tensor,
) -> None:
    sae: Any = SAE.load_from_disk(saved / f"{architecture}-{constraint}")
    training = trained[f"{architecture}-{constraint}"]
    x = activations[-BATCH:]
    with torch.no_grad():
        sae_in = training.process_sae_in(x)
        scale = (
            training.W_dec.norm(dim=-1)
            if training.cfg.rescale_acts_by_decoder_norm
            else 1.0
        )
        pre = (sae_in @ training.W_enc + training.b_enc) * scale
        passed = pre.relu() * (pre > training.topk_threshold)
        expected = (passed / scale) @ training.W_dec + training.b_dec
        assert relative_row_error(sae(x), expected) < 1e-5
        assert 0 < (sae.encode(x) > 0).sum() < (pre > 0).sum()


@pytest.mark.parametrize("name", NAMES)
def test_metadata_holds_every_training_setting(name: str, saved: Path) -> None:
    architecture, constraint = name.split("-")
    cfg = json.loads((saved / name / "cfg.json").read_text())
    assert cfg["architecture"] == SAVED_AS[architecture]
    metadata = cfg["metadata"]
    assert metadata["training_architecture"] == f"regularized_{architecture}"
    details = metadata["training_architecture_details"]
    assert details["regularizers"] == json.loads(
        json.dumps([item.to_dict() for item in REGULARIZERS])
    )
    expected = {
        "decoder_constraint": constraint,
        "b_dec_init": "mean",
        "max_norm_multiple": 20.0,
        "init_seed": 3,
        "initialization": "tied",
        "decoder_init_norm": 1.0 if constraint == "unit_norm" else 0.1,
    }
    assert {key: details[key] for key in expected} == expected
    assert metadata["l0"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_saved_tensors_are_those_of_the_inference_class(name: str, saved: Path) -> None:
    keys = set(load_file(saved / name / "sae_weights.safetensors"))
    sae = SAE.load_from_disk(saved / name)
    assert keys == set(sae.state_dict())
    if name.endswith("unit_norm"):
        assert (row_norms(sae) - 1).abs().max() < 1e-5


def test_unit_norm_topk_is_saved_without_rescaling(saved: Path) -> None:
    for constraint, rescale in (("none", True), ("unit_norm", False)):
        cfg = json.loads((saved / f"topk-{constraint}" / "cfg.json").read_text())
        assert cfg["rescale_acts_by_decoder_norm"] is rescale


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_keys_of_the_saved_configuration_have_one_order(architecture: str) -> None:
    """SAELens collects them in a set, whose order depends on PYTHONHASHSEED."""
    cfg: Any = make_sae(architecture).cfg
    keys = list(cfg.get_inference_sae_cfg_dict())
    fields = [item.name for item in dataclasses.fields(cfg.inference_config)]
    assert keys == [*fields, "architecture"]
