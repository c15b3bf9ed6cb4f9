"""Configurations of a run's SAEs are checked before a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKSAE
from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_CONFIG_GETTERS
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

from eval_recipes.registry import load_evaluation
from eval_recipes.results.subject import Subject
from eval_recipes.running.check import (
    check_configurations,
    check_groups,
    check_model,
    differing_fields,
)
from eval_recipes.running.context import ModelCache, RunContext
from eval_recipes.running.run import run_evals
from saereg_plugin.errors import InputError
from saereg_plugin.releases.release import LOADER
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

CONFIG: dict[str, Any] = {
    "d_sae": 64,
    "k": 4,
    "device": "cpu",
    "metadata": {
        "hook_name": "blocks.0.hook_resid_post",
        "l0": 4.0,
        "training_architecture_details": {"init_seed": 0, "regularizers": []},
    },
}


def changed(metadata: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    return {
        **CONFIG,
        **fields,
        "metadata": {**CONFIG["metadata"], **(metadata or {})},
    }


@pytest.mark.parametrize(
    ("other", "differences"),
    [
        (changed(), {}),
        (changed(device="cuda"), {}),
        (changed({"l0": 5.0}), {}),
        (
            changed(
                {"training_architecture_details": {"init_seed": 7, "regularizers": []}}
            ),
            {},
        ),
        (changed(k=5), {"k": (4, 5)}),
        (changed(d_sae=32, k=5), {"d_sae": (64, 32), "k": (4, 5)}),
        (changed({"model_name": "a"}), {"model_name": (None, "a")}),
        (
            changed({"training_architecture_details": {"regularizers": [1]}}),
            {"training_architecture_details.regularizers": ([], [1])},
        ),
    ],
)
def test_all_but_seeds_and_measurements_is_compared(
    other: dict[str, Any], differences: dict[str, Any]
) -> None:
    assert differing_fields(CONFIG, other) == differences


def test_groups_are_compared_within_themselves() -> None:
    a, b, c = (Subject("r", name, name[0], int(name[1])) for name in ("a0", "a1", "b0"))
    check_groups({a: CONFIG, b: CONFIG, c: changed(k=5)})
    message = "SAEs 'a0' and 'a1' of group 'a' differ in d_sae: 64 and 32; k: 4 and 5. "
    with pytest.raises(InputError, match=re.escape(message)):
        check_groups({a: CONFIG, c: CONFIG, b: changed(k=5, d_sae=32)})


def test_code_is_refused_also_for_evaluations_of_weights(tmp_path: Path) -> None:
    sae: TopKSAE = tiny_sae("gpt2", HOOK_NAME, torch.zeros(16), 0)
    sae.cfg.metadata.model_from_pretrained_kwargs = {"trust_remote_code": True}
    subjects = save_release(tmp_path / "rel", {"s0": sae})
    out = tmp_path / "out"
    context = RunContext(subjects, out, artifacts=tmp_path / "artifacts")
    with pytest.raises(InputError, match="SAE 's0' wants .* trust_remote_code=True"):
        run_evals(["meta_structure"], context)
    assert not out.exists()
    config = {"metadata": {"model_from_pretrained_kwargs": {"trust_remote_code": True}}}
    check_model(subjects[0], config, trusted=True)
    assert ModelCache(trust_remote_code=True).trust_remote_code


def test_an_entry_without_a_conversion_is_checked_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SAELens reads it with its own loader, here from a folder instead of the hub."""
    sae: TopKSAE = tiny_sae("gpt2", HOOK_NAME, torch.zeros(16), 0)
    sae.cfg.metadata.model_from_pretrained_kwargs = {"trust_remote_code": True}
    subjects = save_release(tmp_path / "rel", {"s0": sae})
    entry = get_pretrained_saes_directory()[subjects[0].release]
    monkeypatch.setattr(entry, "conversion_func", None)
    getters = NAMED_PRETRAINED_SAE_CONFIG_GETTERS
    monkeypatch.setitem(getters, "sae_lens", getters[LOADER])
    context = RunContext(subjects, tmp_path / "out")
    with pytest.raises(InputError, match="SAE 's0' wants .* trust_remote_code=True"):
        check_configurations(context, [load_evaluation("meta_structure")])
