"""Loss of the model with parts of an SAE: against SAEBench's own, and planted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from sae_bench.evals.core.main import get_recons_loss
from sae_lens.util import get_special_token_ids
from torch import Tensor
from transformer_lens import HookedTransformer

from eval_recipes.cross_seed.output import read_stability
from eval_recipes.cross_seed.stable_loss import (
    PARTS,
    TENTHS,
    Parts,
    loss_names,
    stable_losses,
)
from eval_recipes.results.reading import read_result
from eval_recipes.running.activation_source import read_model
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import heldout_store, token_batches
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.cross_seed.test_cross_seed import SCHEMA
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae

run = Named("cross_seed").run
CONTEXTS = 3


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: Tensor,
) -> RunContext:
    folder = tmp_path_factory.mktemp("loss")
    saes = {
        f"s{seed}": tiny_sae(model_name, HOOK_NAME, activations.mean(0), seed)
        for seed in (0, 1)
    }
    # half of the latents are the same in both seeds
    for name in ("W_dec", "W_enc"):
        first, second = (getattr(saes[s], name).data for s in ("s0", "s1"))
        half = (
            (slice(None), slice(D_SAE // 2)) if name == "W_enc" else slice(D_SAE // 2)
        )
        second[half] = first[half]
    found = RunContext(
        save_release(folder / "loss", saes),
        folder / "out",
        heldout_tokens=640,
        batch_size_prompts=8,
        options={"cross_seed": {"n_resamples": 50, "loss_contexts": CONTEXTS}},
    )
    found.models.hold(model, model_name, dtype="float32", device="cpu")
    return found


def parts(stable: Tensor) -> Parts:
    tenths = torch.arange(D_SAE) % 5 + 1
    return Parts(stable, ~stable, tenths)


def test_whole_reconstruction_has_saebenchs_loss(context: RunContext) -> None:
    subject = context.subjects[0]
    stable = torch.arange(D_SAE) % 2 == 0
    counts = torch.arange(D_SAE)
    figures = stable_losses(context, subject, parts(stable), counts, contexts=CONTEXTS)
    assert set(figures) == set(loss_names())
    sae = subject.load("cpu")
    source, model = read_model(context, sae)
    store = heldout_store(model, sae, source, corpus=context.corpus)
    (tokens,) = token_batches(store, contexts=CONTEXTS, batch_size=CONTEXTS)
    # a hook name that SAEBench reads from the configuration itself
    object.__setattr__(sae.cfg, "hook_name", source.hook_name)
    object.__setattr__(sae.cfg, "hook_head_index", None)
    special = set(get_special_token_ids(model.tokenizer))  # type: ignore[arg-type]
    found = get_recons_loss(
        sae,
        model,
        tokens,
        store,
        compute_kl=True,
        compute_ce_loss=True,
        ignore_tokens=special,  # type: ignore[arg-type]
        exclude_special_tokens_from_reconstruction=True,
    )
    read = ~torch.isin(tokens, torch.tensor(list(special)))[:, :-1]
    for name, theirs in {
        "ce_original": found["ce_loss_without_sae"],
        "ce_reconstruction": found["ce_loss_with_sae"],
        "kl_reconstruction": found["kl_div_with_sae"][:, :-1],
    }.items():
        figure = figures[name]
        assert figure is not None and figure.n == CONTEXTS
        assert figure.value == pytest.approx(float(theirs[read].mean()), rel=1e-4), name
        assert figure.low is not None and figure.low < figure.value
    # latents of tenths 6 to 10 do not exist
    assert figures["loss_tenth_6"] is None and figures["firing_tenth_6"] is None
    shares = [figures[f"firing_tenth_{n}"] for n in TENTHS]
    assert sum(f.value for f in shares if f) == pytest.approx(1)
    # stable ones alone are the complement here
    for kind in ("ce", "kl"):
        one, other = figures[f"{kind}_unstable"], figures[f"{kind}_matched"]
        assert one == other


def test_parts_and_tenths_equal_a_plain_loop(context: RunContext) -> None:
    """Token by token: the others' codes set to 0, one forward pass each."""
    subject = context.subjects[0]
    stable = torch.arange(D_SAE) % 3 == 0
    given = parts(stable)
    figures = stable_losses(
        context, subject, given, torch.ones(D_SAE).long(), contexts=1
    )
    sae = subject.load("cpu")
    source, model = read_model(context, sae)
    store = heldout_store(model, sae, source, corpus=context.corpus)
    (tokens,) = token_batches(store, contexts=1, batch_size=1)
    special = set(get_special_token_ids(model.tokenizer))  # type: ignore[arg-type]

    def logs(kept: Tensor | None) -> Tensor:
        def replace(x: Tensor, hook: Any) -> Tensor:  # noqa: ARG001
            for place, token in enumerate(tokens[0].tolist()):
                if kept is not None and token not in special:
                    codes = sae.encode(x[:, place]) * kept
                    x[:, place] = codes @ sae.W_dec + sae.b_dec
            return x

        hooks: list[Any] = [(source.hook_name, replace)]
        with torch.no_grad():
            found = model.run_with_hooks(tokens, return_type="logits", fwd_hooks=hooks)
        return found.log_softmax(-1)[0]

    original, every = logs(None), torch.ones(D_SAE, dtype=torch.bool)
    places = [i for i, t in enumerate(tokens[0, :-1].tolist()) if t not in special]

    def ce(found: Tensor) -> float:
        losses = [-float(found[i, tokens[0, i + 1]]) for i in places]
        return sum(losses) / len(losses)

    def kl(found: Tensor) -> float:
        values = [(original[i].exp() * (original[i] - found[i])).sum() for i in places]
        return float(sum(values)) / len(values)

    for name, kept in {"stable": stable, "unstable": ~stable, "bias": ~every}.items():
        found = logs(kept)
        assert figures[f"ce_{name}"].value == pytest.approx(ce(found), abs=1e-4)  # type: ignore[union-attr]
        assert figures[f"kl_{name}"].value == pytest.approx(kl(found), abs=1e-4)  # type: ignore[union-attr]
    for tenth in (1, 4):
        without = given.tenths != tenth
        rise = (ce(logs(without)) - ce(logs(every))) / int((~without).sum())
        assert figures[f"loss_tenth_{tenth}"].value == pytest.approx(rise, abs=1e-5)  # type: ignore[union-attr]


def test_all_latents_and_none(context: RunContext) -> None:
    subject = context.subjects[1]
    every = torch.ones(D_SAE, dtype=torch.bool)
    counts = torch.zeros(D_SAE, dtype=torch.int64)
    figures = stable_losses(context, subject, parts(every), counts, contexts=1)
    for kind in ("ce", "kl"):
        values = {part: figures[f"{kind}_{part}"].value for part in PARTS}  # type: ignore[union-attr]
        assert values["stable"] == values["reconstruction"]
        assert values["unstable"] == values["matched"] == values["bias"]
        assert values["stable"] != values["bias"]
    # nothing fired, so there are no shares of it
    assert all(figures[f"firing_tenth_{n}"] is None for n in TENTHS)


def test_a_perfect_sae_costs_nothing(
    tmp_path: Path, model_name: str, model: HookedTransformer, activations: Tensor
) -> None:
    """A latent for either sign of each direction, all kept: the reconstruction is the input."""
    d_in = activations.shape[1]
    sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 0)
    sae.cfg.k, sae.cfg.d_sae = d_in, 2 * d_in
    eye = torch.cat([torch.eye(d_in), -torch.eye(d_in)])
    sae.W_dec.data, sae.W_enc.data = eye.clone(), eye.T.contiguous()
    sae.b_enc.data = torch.zeros(2 * d_in)
    subjects = save_release(tmp_path / "perfect", {"s0": sae})
    context = RunContext(subjects, tmp_path / "out")
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    every = torch.ones(2 * d_in, dtype=torch.bool)
    figures = stable_losses(
        context,
        subjects[0],
        Parts(every, ~every, torch.zeros(2 * d_in, dtype=torch.int64)),
        torch.ones(2 * d_in, dtype=torch.int64),
        contexts=1,
    )
    ce, whole, kl = (
        figures[name].value  # type: ignore[union-attr]
        for name in ("ce_original", "ce_reconstruction", "kl_reconstruction")
    )
    assert whole == pytest.approx(ce, abs=1e-3)
    assert kl == pytest.approx(0, abs=1e-3)
    assert figures["kl_bias"].value > 0.1  # type: ignore[union-attr]


def test_the_result_holds_every_null(context: RunContext) -> None:
    assert run(context) == []
    path = context.out / "cross_seed" / "loss_s0_eval_results.json"
    record = read_result(path)
    jsonschema.validate(record, json.loads(SCHEMA.read_text()))
    metrics = record["eval_result_metrics"]
    subspaces = metrics["subspaces"]
    low, high = (
        subspaces[f"unstable_overlap_gaussian_ci_{end}"] for end in ("low", "high")
    )
    assert low < subspaces["unstable_overlap_gaussian"] < high
    assert subspaces["unstable_overlap_excess"] == pytest.approx(
        subspaces["unstable_overlap"] - subspaces["unstable_overlap_gaussian"]
    )
    group = metrics["group"]
    for name in ("unstable_overlap_excess", "basis_rotated", "firing_stability"):
        assert group[name] is not None, name
    assert group["ce_stable"] > group["ce_original"]
    # half of the latents came back and nothing says that they fire otherwise
    assert abs(metrics["firing"]["firing_stability"]) < 0.3
    loss = metrics["loss"]
    assert loss["kl_reconstruction"] < loss["kl_bias"]
    assert sum(loss[f"firing_tenth_{n}"] for n in TENTHS) == pytest.approx(1, abs=0.02)
    pair = record["eval_result_details"][0]["unstable_overlap"]
    assert len(pair["gaussian"]) == len(pair["ranks"]) == len(pair["stable_matched"])
    table = read_stability(path)
    assert sorted(table["stability_tenth"].dropna().unique()) == list(TENTHS)
    stable = table["stability"] == 1
    assert table.loc[stable, "span_nearest_1"].isna().all()
    others = table.loc[~stable & table["alive"]]
    assert (others["span_nearest_1"] <= others["span_nearest_8"] + 1e-9).all()
    assert table["surface_form"].max() <= 1
    assert table["firing_rate"].mean() == pytest.approx(8 / D_SAE, rel=0.01)


def test_losses_need_firing(context: RunContext, tmp_path: Path) -> None:
    options = {"reconstruction_shares": False, "loss_contexts": 1}
    other = RunContext(context.subjects, tmp_path, options={"cross_seed": options})
    with pytest.raises(InputError, match="expected both"):
        run(other)
