"""Finding and reading token embeddings, and saying clearly when there are none."""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from saereg_plugin import VocabularyAnchor
from saereg_plugin.errors import InputError
from saereg_plugin.files import write_json
from saereg_plugin.metrics.similarity import TokenAlignment, nearest_token
from saereg_plugin.sources.embeddings import (
    ALIGNMENT_FILE,
    alignment_table,
    embedding_shape,
    find_embeddings,
    read_vocabulary,
    require_embeddings,
    write_vocabulary_alignment,
)
from tests.training import make_sae

ROWS = torch.arange(12, dtype=torch.float32).view(4, 3) + 1


def saved(path: Path, **tensors: torch.Tensor) -> Path:
    # every tensor with memory of its own, as the format wants it
    save_file({name: rows.contiguous().clone() for name, rows in tensors.items()}, path)
    return path


def test_a_file_is_read_by_the_names_models_use(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "e.safetensors",
        **{"lm_head.weight": ROWS * 2, "gpt_neox.embed_in.weight": ROWS},
    )
    file = find_embeddings(None, str(path))
    assert file.tensor == "gpt_neox.embed_in.weight"
    assert embedding_shape(file) == (4, 3)
    vocabulary = read_vocabulary(file, 3)
    assert torch.equal(vocabulary.rows, ROWS)
    torch.testing.assert_close(vocabulary.inverse_norms, 1 / ROWS.norm(dim=1))
    named = find_embeddings(None, f"{path}::lm_head.weight")
    assert torch.equal(read_vocabulary(named, 3).rows, ROWS * 2)


def test_the_only_tensor_of_a_file_may_have_any_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "e.safetensors", anything=ROWS.bfloat16())
    vocabulary = read_vocabulary(find_embeddings(None, str(path)), 3)
    assert vocabulary.rows.dtype == torch.bfloat16
    assert vocabulary.inverse_norms.dtype == torch.float32


def test_a_zero_embedding_has_no_direction(tmp_path: Path) -> None:
    path = saved(tmp_path / "e.safetensors", wte=torch.zeros(2, 3))
    vocabulary = read_vocabulary(find_embeddings(None, str(path)), 3)
    assert vocabulary.inverse_norms.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tensors", "chosen", "message"),
    [
        ({"wte.weight": ROWS}, "::nope", "has no tensor 'nope'; it has 'wte.weight'"),
        ({"x": ROWS, "y": ROWS}, "", "no tensor that is called as token embeddings"),
        (
            {"a.wte.weight": ROWS, "b.wte.weight": ROWS},
            "",
            "several tensors that may be token embeddings",
        ),
        ({"wte.weight": ROWS[0]}, "", r"has shape \(3,\)"),
        ({"wte.weight": ROWS.int()}, "", "is torch.int32; expected floats"),
        ({"wte.weight": ROWS / 0}, "", "embedding of token 0 is not finite"),
        ({"wte.weight": ROWS.T}, "", "have 4 dimensions, the SAE has d_in=3"),
    ],
)
def test_what_cannot_be_used_is_refused(
    tensors: dict[str, torch.Tensor], chosen: str, message: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "e.safetensors", **tensors)
    with pytest.raises(InputError, match=message):
        read_vocabulary(find_embeddings(None, f"{path}{chosen}"), 3)


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        find_embeddings(None, str(tmp_path / "nowhere.safetensors"))
    (tmp_path / "text").write_text("no tensors here, only words")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        find_embeddings(None, str(tmp_path / "text"))


def test_a_model_in_several_files_is_read_by_its_index(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    saved(tmp_path / "b.safetensors", **{"model.embed_tokens.weight": ROWS})
    index = {
        "weight_map": {
            "x": "a.safetensors",
            "model.embed_tokens.weight": "b.safetensors",
        }
    }
    write_json(tmp_path / "model.safetensors.index.json", index)
    file = find_embeddings(str(tmp_path), model_class_name="AutoModelForCausalLM")
    assert file.path.name == "b.safetensors"
    assert torch.equal(read_vocabulary(file, 3).rows, ROWS)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    with pytest.raises(InputError, match="has no model.safetensors"):
        find_embeddings(str(tmp_path), model_class_name="AutoModelForCausalLM")


@pytest.mark.usefixtures("offline")
def test_no_hub_is_said_within_seconds() -> None:
    started = time.perf_counter()
    with pytest.raises(InputError, match="neither embedded, nor a local folder"):
        find_embeddings("EleutherAI/pythia-12b-deduped")
    assert time.perf_counter() - started < 10


def test_the_embedded_model_has_embeddings(model_name: str, model_folder: Path) -> None:
    file = find_embeddings(model_name)
    assert file.path.parent == model_folder
    assert require_embeddings(file, 576) == 49_152
    vocabulary = read_vocabulary(file, 576)
    expected = load_file(file.path)[file.tensor]
    assert torch.equal(vocabulary.rows, expected)
    VocabularyAnchor().check_model(model_name, 576)
    with pytest.raises(InputError, match="have 576 dimensions, the SAE has d_in=1536"):
        VocabularyAnchor().check_model(model_name, 1536)


def test_table_of_one_sae() -> None:
    alignment = TokenAlignment(torch.tensor([2, 0]), torch.tensor([0.8, 0.79]))
    table = alignment_table("a", alignment, ["x", "y", "z"]).to_pydict()
    assert table["latent"] == [0, 1]
    assert table["token"] == ["z", "x"]
    assert table["aligned"] == [True, False]


def test_release_table_has_each_latents_nearest_token(
    model_name: str, tmp_path: Path
) -> None:
    anchor = VocabularyAnchor(coefficient=1.0)
    saes = {
        "anchored": make_sae(regularizers=[anchor], d_sae=8),
        "plain": make_sae(d_sae=8),
    }
    for sae in saes.values():
        sae.cfg.metadata.model_name = model_name
    rows = read_vocabulary(find_embeddings(model_name), 576).rows
    planted = [100, 200, 300]
    saes["anchored"].W_dec.data[:3] = rows[planted] * 0.5
    assert write_vocabulary_alignment({"plain": saes["plain"]}, tmp_path) is None
    assert not (tmp_path / ALIGNMENT_FILE).exists()
    written = write_vocabulary_alignment(saes, tmp_path)
    assert written is not None
    assert written["rows"] == 8
    table = pq.read_table(tmp_path / ALIGNMENT_FILE).to_pandas()
    assert set(table["sae_id"]) == {"anchored"}
    assert table["token_id"].tolist()[:3] == planted
    assert table["aligned"].tolist()[:3] == [True] * 3
    assert (table["cosine"][:3] > 0.999).all()
    assert table["token"].str.len().gt(0).all()
    exact = nearest_token(saes["anchored"].W_dec.detach(), rows)
    assert table["token_id"].tolist() == exact.token.tolist()
