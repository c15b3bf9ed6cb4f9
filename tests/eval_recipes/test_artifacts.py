"""Folders of what is kept between runs: one for each thing that determines it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig

from eval_recipes.artifacts import artifact_folder, clean_artifacts, weights_hash


@pytest.fixture
def sae() -> TopKSAE:
    sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=8, k=2))
    # SAEs with learnt scalars have tensors without a dimension.
    sae.register_buffer("scale", torch.tensor(2.0))
    return sae


def test_every_determinant_changes_the_folder(tmp_path: Path):
    base = {"model": "m", "seed": 0, "sizes": (1, 2)}
    first = artifact_folder(tmp_path, "core", base)
    assert artifact_folder(tmp_path, "core", dict(reversed(base.items()))) == first
    others = [
        artifact_folder(tmp_path, "core", {**base, "seed": 1}),
        artifact_folder(tmp_path, "core", {**base, "sizes": (2, 1)}),
        artifact_folder(tmp_path, "scr", base),
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        others.append(artifact_folder(tmp_path, "core", base))
    finally:
        torch.set_num_threads(threads)
    assert len({first, *others}) == 5


def test_every_weight_and_setting_changes_the_hash(sae: TopKSAE):
    known = weights_hash(sae)
    assert weights_hash(copy.deepcopy(sae)) == known
    seen = {known}
    for name, value in sae.state_dict().items():
        changed = copy.deepcopy(sae)
        with torch.no_grad():
            changed.state_dict()[name].view(-1)[-1] = value.view(-1)[-1] + 1
        seen.add(weights_hash(changed))
    other = copy.deepcopy(sae)
    other.cfg.k = 3
    seen.add(weights_hash(other))
    assert len(seen) == len(sae.state_dict()) + 2


def test_cleaning_leaves_what_is_not_ours(tmp_path: Path):
    folder = artifact_folder(tmp_path, "core", {"seed": 0})
    (folder / "activations.pt").write_bytes(b"x")
    mine = tmp_path / "core" / "notes" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    clean_artifacts(tmp_path)
    assert not folder.exists()
    assert mine.read_text() == "keep"
