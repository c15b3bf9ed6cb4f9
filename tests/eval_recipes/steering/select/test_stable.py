"""Steering with stable latents, chosen by what the cross-seed evaluation wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens import TopKSAE
from transformer_lens import HookedTransformer

from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.running.run import run_evals
from eval_recipes.steering.generate.language_model import Models
from eval_recipes.steering.select.candidates import Candidates, choose, known_stability
from eval_recipes.steering.texts import TEXTS, read_texts
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.cross_seed.test_cross_seed import heldout
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

EVALUATION = Named("steering")

D_IN = 64
ALWAYS, OFTEN, DEAD = range(4), range(4, 6), range(6, 9)
"""Concepts in all three seeds, in seeds 0 and 1, and in all but with other encoders."""
N_SHARED = len(ALWAYS) + len(OFTEN) + len(DEAD)


def planted(seed: int) -> tuple[TopKSAE, list[int]]:
    """An SAE of D_SAE latents in an order of its own, and the latent of each shared concept."""
    common = torch.Generator().manual_seed(99)
    own = torch.Generator().manual_seed(seed)
    decoder = torch.randn(D_SAE, D_IN, generator=own)
    encoder = decoder.clone()
    rows = torch.randn(N_SHARED, D_IN, generator=common)
    # dead by its cosine, and alike in all seeds all the same
    turned = orthogonal(rows)
    for concept in (*ALWAYS, *OFTEN, *DEAD):
        if concept in OFTEN and seed == 2:
            continue
        decoder[concept] = rows[concept]
        encoder[concept] = turned[concept] if concept in DEAD else rows[concept]
    order = torch.randperm(D_SAE, generator=own)
    sae = tiny_sae("smollm2-135m-instruct", HOOK_NAME, torch.zeros(D_IN), seed)
    sae.W_dec.data = decoder[order].contiguous()
    sae.W_enc.data = encoder[order].T.contiguous()
    latent_of = order.argsort().tolist()
    return sae, latent_of[:N_SHARED]


def orthogonal(rows: torch.Tensor) -> torch.Tensor:
    """Rows turned by a right angle: (a, b) of neighbouring entries becomes (-b, a)."""
    return torch.stack([-rows[:, 1::2], rows[:, ::2]], dim=2).flatten(1)


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[Subject], list[list[int]]]:
    """A release of three seeds, and a folder with the results of its cross-seed evaluation."""
    folder = tmp_path_factory.mktemp("stable")
    saes, latents = zip(*map(planted, range(3)), strict=True)
    subjects = save_release(
        folder / "stable-release", {f"s{seed}": sae for seed, sae in enumerate(saes)}
    )
    options = {"cross_seed": {"reconstruction_shares": False, "n_resamples": 10}}
    context = RunContext(subjects, folder / "out", options=options)
    # of this width there is no language model
    context.measured["heldout"] = {s.sae_id: heldout(0.5) for s in subjects}
    assert Named("cross_seed").run(context) == []
    return folder / "out", subjects, list(latents)


def chosen(out: Path, subject: Subject, **options: Any) -> Candidates:
    """Choose as ``evaluate`` of the steering evaluation does."""
    given = {"select": "stable", "stability": str(out), **options}
    context = RunContext([subject], out, options={"steering": given})
    EVALUATION.check(context)
    assert EVALUATION.key(context)["read"]
    config = EVALUATION.options(context)
    stability = known_stability(subject, config)
    sae = subject.load()
    models = Models(context, config)
    return choose(subject, sae, config, stability.shares, models).candidates


@pytest.mark.parametrize("seed", range(3))
def test_the_pool_is_what_was_planted_as_stable(
    released: tuple[Path, list[Subject], list[list[int]]], seed: int
) -> None:
    out, subjects, latents = released
    often = {latents[seed][c] for c in (*ALWAYS, *OFTEN)} if seed < 2 else set[int]()
    always = {latents[seed][c] for c in ALWAYS}
    found = chosen(out, subjects[seed])
    assert set(found.ids) == (often or always)
    assert found.pool == len(found.ids)
    strict = chosen(out, subjects[seed], stable_minimum=1.0)
    assert set(strict.ids) == always and strict.pool == len(ALWAYS)
    # a few are drawn from the same pool
    few = chosen(out, subjects[seed], n_latents=2)
    assert few.ids == found.ids[:2] and few.pool == found.pool


def test_dead_latents_are_stable_and_yet_not_chosen(
    released: tuple[Path, list[Subject], list[list[int]]],
) -> None:
    out, subjects, latents = released
    context = RunContext(
        subjects, out, options={"steering": {"stability": str(out), "select": "stable"}}
    )
    known = known_stability(subjects[0], EVALUATION.options(context))
    dead = {latents[0][c] for c in DEAD}
    assert {known.shares[latent] for latent in dead} == {1.0}
    assert dead.isdisjoint(chosen(out, subjects[0]).ids)
    # nothing is alive by a threshold that no cosine exceeds
    with pytest.raises(InputError, match="lower alive_threshold or stable_minimum"):
        chosen(out, subjects[0], alive_threshold=1.0)


def test_partners_are_the_same_concepts_of_other_seeds(
    released: tuple[Path, list[Subject], list[list[int]]],
) -> None:
    out, subjects, latents = released
    context = RunContext(subjects, out, options={"steering": {"stability": str(out)}})
    partners = known_stability(subjects[0], EVALUATION.options(context)).partners
    for concept in ALWAYS:
        expected = {seed: latents[seed][concept] for seed in (1, 2)}
        assert partners[latents[0][concept]] == expected
    for concept in OFTEN:
        assert partners[latents[0][concept]] == {1: latents[1][concept]}
    shared = {latents[0][c] for c in range(N_SHARED)}
    assert all(not found for j, found in partners.items() if j not in shared)


def test_cross_seed_comes_before_in_a_command_of_its_own(
    released: tuple[Path, list[Subject], list[list[int]]], tmp_path: Path
) -> None:
    _, subjects, _ = released
    with pytest.raises(InputError, match="Run 'cross_seed' into it before"):
        chosen(tmp_path, subjects[0])


@pytest.mark.slow
def test_two_commands_steer_with_stable_latents(
    tmp_path: Path, model_name: str, model: HookedTransformer, activations: torch.Tensor
) -> None:
    """On the embedded model: the first writes the table that the second chooses by."""
    saes = [tiny_sae(model_name, HOOK_NAME, activations.mean(0), i) for i in range(2)]
    shared = range(10, 16)
    for latent in shared:
        partner = D_SAE - 1 - latent
        saes[1].W_dec.data[partner] = saes[0].W_dec.data[latent]
        saes[1].W_enc.data[:, partner] = saes[0].W_enc.data[:, latent]
    subjects = save_release(
        tmp_path / "stable-run", {f"s{seed}": sae for seed, sae in enumerate(saes)}
    )
    out = tmp_path / "out"
    context = RunContext(
        subjects,
        out,
        heldout_tokens=128,
        artifacts=tmp_path / "artifacts",
        options={
            "cross_seed": {"n_resamples": 10, "reconstruction_shares": False},
            "steering": {
                **{"select": "stable", "stability": str(out), "n_latents": 3},
                **{"explainer_tokens": 4096, "new_tokens": 3, "amounts": [40.0]},
                **{"calibration_pairs": 10, "judges": ["log_probability"]},
                **{"prompts": ["I think"]},
            },
        },
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    with pytest.raises(InputError, match="in a command of its own"):
        run_evals(["cross_seed", "steering"], context)
    assert run_evals(["cross_seed"], context).failures == []
    context.subjects = subjects[1:]
    assert run_evals(["steering"], context).failures == []
    path = result_path(out, "steering", "stable-run", "s1")
    latents = read_result(path)["eval_result_metrics"]["latents"]
    assert (latents["candidates"], latents["pool"]) == (3, len(shared))
    texts = read_texts(TEXTS.path(path))
    steered = texts.loc[texts["arm"] == "steered"]
    assert len(steered) and set(steered["stability"]) == {1.0}
    for latent, partners in zip(steered["latent"], steered["shared_with"]):
        assert D_SAE - 1 - latent in shared
        assert json.loads(partners) == {"0": D_SAE - 1 - latent}
