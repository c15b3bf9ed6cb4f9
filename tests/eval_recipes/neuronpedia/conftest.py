"""Two seeds of a tiny SAE with examples, cross-seed results and two explanations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.neuronpedia.source import Source, open_sources
from eval_recipes.results.files import result_path
from eval_recipes.running.context import RunContext
from saereg_plugin.releases.opening import open_release
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

NAME = "Tiny_Release"
MOVED = 40
"""Latent j of seed 0 is latent j + 40 of seed 1, for the first half."""
EXPLAINED = {7: "birds\n of prey", 9: "x" * 600}


@dataclass(frozen=True)
class Made:
    """Folders of a release and of its results."""

    release: Path
    results: Path

    def sources(self, **options: object) -> list[Source]:
        opened = open_release(str(self.release))
        return open_sources(self.results, opened, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="package")
def made(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: torch.Tensor,
) -> Made:
    folder = tmp_path_factory.mktemp("neuronpedia") / NAME
    mean = activations.mean(0)
    first, second = (tiny_sae(model_name, HOOK_NAME, mean, seed) for seed in (0, 1))
    half = D_SAE // 2
    places = torch.arange(2, half) + MOVED
    second.W_dec.data[places] = first.W_dec.data[2:half]
    second.W_enc.data[:, places] = first.W_enc.data[:, 2:half]
    subjects = save_release(folder, {"g.0": first, "g.1": second})
    out = folder.with_name("results")
    context = RunContext(
        subjects,
        out,
        heldout_tokens=40 * 32,
        options={
            "examples": {"top_examples": 3, "band_examples": 2, "n_logits": 4},
            "cross_seed": {"reconstruction_shares": False},
        },
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    for name in ("examples", "cross_seed"):
        assert Named(name).run(context) == []
    write_explanations(result_path(out, "autointerp", NAME, "g.0"))
    return Made(folder, out)


def write_explanations(path: Path) -> None:
    details = [
        {"latent": j, "explanation": text, "score": 0.8, "checked_score": 0.7}
        for j, text in EXPLAINED.items()
    ]
    path.parent.mkdir(parents=True)
    record = {
        "eval_type_id": "autointerp",
        "eval_result_metrics": {},
        "eval_result_details": details,
        "eval_config": {"explainer": "tokens"},
    }
    path.write_text(json.dumps(record))
