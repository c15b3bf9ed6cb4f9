"""Task vectors of small models: norms, and injection into chosen layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from saereg_plugin.errors import InputError
from saereg_plugin.sources.task_vectors import (
    RECORD,
    TaskVector,
    Weights,
    layer_norms,
    layer_numbers,
)


def finetuned(base: Path, folder: Path, **options: object) -> Path:
    """Save a copy of a model whose weights all moved."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder, **options)
    return folder


@pytest.fixture(scope="module")
def pair(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskVector:
    folder = tmp_path_factory.mktemp("task") / "tuned"
    return TaskVector.open(str(small_model), str(finetuned(small_model, folder)))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def test_alpha_one_in_all_layers_gives_the_finetuned_layers(
    pair: TaskVector, tmp_path: Path
) -> None:
    out = pair.inject(tmp_path / "model", alpha=1.0, layers=[0, 1])
    made, base, tuned = (
        tensors(folder) for folder in (out, pair.base.folder, pair.finetuned.folder)
    )
    assert made.keys() == base.keys()
    inside = {name for names in pair.layers.values() for name in names}
    assert len(inside) == 2 * 9
    for name, tensor in made.items():
        source = tuned if name in inside else base
        assert torch.equal(tensor, source[name]), name


def test_alpha_zero_gives_the_base_bit_for_bit(
    pair: TaskVector, tmp_path: Path
) -> None:
    out = pair.inject(tmp_path / "model", alpha=0.0, layers=[0, 1])
    stored = pair.base.folder / "model.safetensors"
    base = load_file(stored)
    for name, tensor in tensors(out).items():
        assert tensor.numpy().tobytes() == base[name].numpy().tobytes()


def test_other_layers_stay_the_bases_and_alpha_scales(
    pair: TaskVector, tmp_path: Path
) -> None:
    out = pair.inject(tmp_path / "model", alpha=0.5, layers=[1])
    made, base, tuned = (
        tensors(folder) for folder in (out, pair.base.folder, pair.finetuned.folder)
    )
    for name, tensor in made.items():
        if name in pair.layers[1]:
            assert torch.allclose(tensor, (base[name] + tuned[name]) / 2, atol=1e-7)
        else:
            assert torch.equal(tensor, base[name])
    record = json.loads((out / RECORD).read_text())
    assert (record["alpha"], record["layers"]) == (0.5, [1])


def test_transformers_load_the_written_folder(pair: TaskVector, tmp_path: Path) -> None:
    out = pair.inject(tmp_path / "model", alpha=1.0, layers=[0])
    model, info = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = AutoTokenizer.from_pretrained(out)("Seven apples", return_tensors="pt")
    base = LlamaForCausalLM.from_pretrained(pair.base.folder)
    with torch.no_grad():
        logits = [m(**tokens).logits for m in (model.eval(), base.eval())]
    assert logits[0].isfinite().all()
    assert not torch.allclose(*logits)


def test_shards_and_half_precision_keep_their_form(
    small_model: Path, pair: TaskVector, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "base", max_shard_size="100KB")
    assert (tmp_path / "base" / "model.safetensors.index.json").is_file()
    task = TaskVector.open(str(tmp_path / "base"), str(pair.finetuned.folder))
    out = task.inject(tmp_path / "model", alpha=1.0, layers=[0, 1])
    made, tuned = tensors(out), tensors(pair.finetuned.folder)
    name = task.layers[1][0]
    assert made[name].dtype == torch.bfloat16
    assert torch.equal(made[name], tuned[name].bfloat16())
    AutoModelForCausalLM.from_pretrained(out)


def test_a_failed_write_leaves_no_folder(
    pair: TaskVector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saereg_plugin.sources.task_vectors.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        pair.inject(tmp_path / "model", alpha=1.0, layers=[0])
    assert list(tmp_path.iterdir()) == []


def test_norms_are_those_of_all_weights_of_a_layer(pair: TaskVector) -> None:
    base, tuned = tensors(pair.base.folder), tensors(pair.finetuned.folder)
    for one in layer_norms(pair):
        names = [n for n in base if n.startswith(f"model.layers.{one.layer}.")]
        flat = torch.cat([base[n].flatten().double() for n in names])
        task = torch.cat(
            [(tuned[n].double() - base[n].double()).flatten() for n in names]
        )
        assert one.parameters == len(flat)
        assert one.base == pytest.approx(float(flat.norm()))
        assert one.task == pytest.approx(float(task.norm()))
        assert one.ratio == pytest.approx(float(task.norm() / flat.norm()))


def test_words_name_layers() -> None:
    assert layer_numbers(["all"], [0, 1, 2]) == [0, 1, 2]
    assert layer_numbers(["4-5", "best"], range(9), best=8) == [4, 5, 8]
    with pytest.raises(InputError, match="no best one"):
        layer_numbers(["best"], range(9))
    with pytest.raises(InputError, match="'middle'"):
        layer_numbers(["middle"], range(9))


def test_bad_folders_and_layers_are_refused(
    pair: TaskVector, model_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no layer 7; expected 0 to 1"):
        pair.inject(tmp_path / "model", alpha=1.0, layers=[7])
    with pytest.raises(InputError, match="alpha is nan"):
        pair.inject(tmp_path / "model", alpha=float("nan"), layers=[0])
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="exists"):
        pair.inject(tmp_path / "there", alpha=1.0, layers=[0])
    with pytest.raises(InputError, match="no model folder"):
        Weights.open(str(tmp_path / "there"))
    (tmp_path / "there" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no safetensors"):
        Weights.open(str(tmp_path / "there"))
    with pytest.raises(InputError, match="different tensors"):
        TaskVector.open(str(pair.base.folder), str(model_folder))


def test_the_largest_of_several_stacks_of_layers_counts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text("{}")
    save_file(
        {
            "vision.encoder.layers.0.fc1.weight": torch.zeros(2, 2),
            "vision.encoder.layers.1.fc1.weight": torch.zeros(2, 2),
            "language.layers.0.mlp.up_proj.weight": torch.zeros(9, 9),
        },
        tmp_path / "model.safetensors",
    )
    assert Weights.open(str(tmp_path)).layers == {
        0: ["language.layers.0.mlp.up_proj.weight"]
    }
