"""The evaluation on a planted and on a real model: scores, cores, seeds, removal, failures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from sae_lens import SAE
from torch import Tensor
from torch.nn import functional
from transformer_lens import HookedTransformer

from eval_recipes.attribution.output import AttributionEvalOutput
from eval_recipes.attribution.table import COLUMNS, SCORES
from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.running.context import RunContext
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.attribution.planted import (
    D_IN,
    READ,
    planted_model,
    signed_identity,
)
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.oracles import attribution_oracle as oracle

EVALUATION = Named("attribution")
OPTIONS = {"n_resamples": 20, "n_latents": 64, "n_tokens": 192, "quantile": 0.9}


def paths_of(context: RunContext) -> dict[str, Path]:
    return {
        s.sae_id: result_path(context.out, "attribution", s.release, s.sae_id)
        for s in context.subjects
    }


def metrics_of(path: Path) -> dict[str, dict[str, Any]]:
    return read_result(path)["eval_result_metrics"]


def table_of(context: RunContext, sae_id: str) -> Any:
    return SCORES.read(paths_of(context)[sae_id])


@pytest.fixture(scope="module")
def order() -> Tensor:
    return torch.randperm(2 * D_IN, generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def planted(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    order: Tensor,
) -> RunContext:
    """Two seeds that are one SAE in two orders, and the gradient at both places."""
    tokenizer: Any = model.tokenizer
    small = planted_model(tokenizer, int(model.cfg.d_vocab), scale=1e-2)
    folder = tmp_path_factory.mktemp("attribution")
    saes: Any = {
        "s0": signed_identity(model_name),
        "s1": signed_identity(model_name, order),
    }
    context = RunContext(
        save_release(folder / "planted", saes),
        folder / "out",
        batch_size_prompts=4,
        options={"attribution": OPTIONS},
    )
    context.models.hold(small, model_name, dtype="float32", device="cpu")
    assert EVALUATION.run(context) == []
    return context


def test_core_is_exactly_what_the_loss_reads(planted: RunContext) -> None:
    table = table_of(planted, "s0")
    known = sorted({*READ, *(D_IN + d for d in READ)})
    assert table["latent"][table["score"] > 0].tolist() == known
    found = metrics_of(paths_of(planted)["s0"])["cores"]
    assert found["scored"] == len(known) and found["fired"] == 2 * D_IN
    assert set(table["latent"][table["core"]]) <= set(known)
    assert found["core_50"] <= found["core_90"] <= found["core_99"] <= len(known)
    assert found["core_90"] == table["core"].sum()
    ranked = table[table["rank"] > 0].sort_values("rank")
    assert ranked["cumulative_share"].iloc[-1] == pytest.approx(1)
    expected = oracle.smallest_core(table["score"].tolist(), 0.99)
    assert found["core_99"] == len(expected)
    assert found["carried_random"] == pytest.approx(found["core_90"] / (2 * D_IN))
    low, high = (found[f"carried_frequency_ci_{end}"] for end in ("low", "high"))
    assert 0 <= low <= found["carried_frequency"] <= high <= 1


def test_removal_changes_the_loss_as_predicted(planted: RunContext) -> None:
    table = table_of(planted, "s0")
    known = table["score"] > 0
    assert (table["ablation_contexts"] > 0).all()
    true, predicted = table["true_rise"], table["predicted_rise"]
    assert (true[~known] == 0).all() and (predicted[~known] == 0).all()
    # what is left is of second order
    assert true[known].tolist() == pytest.approx(predicted[known].tolist(), abs=1e-3)
    assert predicted[known].abs().max() > 1e-2
    assert table["sparsity"][~known].isna().all()
    assert table["sparsity"][known].between(0, 1).all()
    found = metrics_of(paths_of(planted)["s0"])["ablation"]
    assert found["rho"] > found["rho_chance"]
    assert found["rho_n"] == 2 * D_IN
    # a latent without an effect has no sparsity of its own, a random direction has
    excess = (table["sparsity"] - table["sparsity_random"])[known]
    assert found["sparsity_excess"] == pytest.approx(excess.mean())
    assert found["sparsity_excess_n"] == int(known.sum())


def test_cores_of_one_sae_in_two_orders_overlap_wholly(
    planted: RunContext, order: Tensor
) -> None:
    first, second = (table_of(planted, s) for s in ("s0", "s1"))
    assert second["score"].tolist() == pytest.approx(
        first["score"][order.numpy()].tolist(), rel=1e-4
    )
    for path in paths_of(planted).values():
        found = metrics_of(path)["overlap"]
        assert found["overlap"] == 1
        # all fire, on neither side is a partner without firing
        core = metrics_of(path)["cores"]["core_90"]
        assert found["overlap_random"] == pytest.approx(core / (2 * D_IN))
        assert found["core_similarity"] == pytest.approx(1)
    assert (first["other_cores"] == first["core"]).all()
    (detail,) = read_result(paths_of(planted)["s0"])["eval_result_details"]
    assert (detail["sae_id"], detail["seed"], detail["overlap"]) == ("s1", 1, 1.0)


def test_gradient_at_an_exact_reconstruction_is_that_at_the_activations(
    planted: RunContext, tmp_path: Path
) -> None:
    context = RunContext(
        planted.subjects[:1],
        tmp_path,
        batch_size_prompts=4,
        options={"attribution": {**OPTIONS, "at": "reconstruction"}},
        models=planted.models,
    )
    assert EVALUATION.run(context) == []
    here, there = (table_of(one, "s0") for one in (context, planted))
    for column in ("score", "effect", "predicted_rise", "true_rise"):
        assert here[column].tolist() == pytest.approx(
            there[column].tolist(), rel=1e-3, abs=1e-7
        )
    overlap = metrics_of(paths_of(context)["s0"])["overlap"]
    assert overlap["overlap"] is None
    assert here["other_cores"].isna().all()


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: Tensor,
) -> RunContext:
    mean = activations.mean(0)
    saes = {f"s{seed}": tiny_sae(model_name, HOOK_NAME, mean, seed) for seed in (0, 1)}
    saes["broken"] = tiny_sae(model_name, HOOK_NAME, mean, 2)
    saes["broken"].W_enc.data[0, 5] = torch.nan
    folder = tmp_path_factory.mktemp("attribution")
    context = RunContext(
        save_release(folder / "tiny", saes),
        folder / "out",
        batch_size_prompts=2,
        options={"attribution": {**OPTIONS, "n_latents": 3, "n_tokens": 96}},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    failures = EVALUATION.run(context)
    assert [failure.sae_id for failure in failures] == ["broken"]
    assert "NaN" in failures[0].cause
    context.subjects = context.subjects[:2]
    return context


def held_out(context: RunContext, model: HookedTransformer, sae: SAE[Any]) -> Tensor:
    """The contexts that the evaluation reads."""
    from eval_recipes.running.activation_source import source_of
    from eval_recipes.running.heldout_pass import heldout_store, token_batches

    source = source_of(sae, context_size=None)
    store = heldout_store(model, sae, source, corpus=context.corpus)
    return torch.cat([*token_batches(store, contexts=3, batch_size=1)])


def is_read(model: HookedTransformer, tokens: Tensor) -> Tensor:
    """Which tokens of a context count: neither special nor the last."""
    tokenizer: Any = model.tokenizer
    keep = ~torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))
    keep[-1] = False
    return keep


def loss_with(model: HookedTransformer, tokens: Tensor, x: Tensor) -> Tensor:
    """The summed loss after the tokens that count, with activations [size, d_in] at the hook."""

    def replace(_: Tensor, hook: Any) -> Tensor:
        del hook
        return x[None]

    logits = model.run_with_hooks(tokens[None], fwd_hooks=[(HOOK_NAME, replace)])
    losses = functional.cross_entropy(logits[0, :-1], tokens[1:], reduction="none")
    return losses[is_read(model, tokens)[:-1]].sum()


def test_scores_of_a_real_model_agree_with_the_plain_version(
    context: RunContext, model: HookedTransformer
) -> None:
    """Each context alone, by autograd through the whole model; dense codes; every latent."""
    sae = context.subjects[0].load("cpu")
    rows: list[list[float]] = []
    effects = torch.zeros(D_SAE, dtype=torch.float64)
    n = 0
    for tokens in held_out(context, model, sae):
        keep = is_read(model, tokens)
        _, cache = model.run_with_cache(tokens[None], names_filter=HOOK_NAME)
        x = cache[HOOK_NAME][0].detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss_with(model, tokens, x), x)
        z = sae.encode(x[keep]).detach()
        g = gradient[keep]
        rows += oracle.scores(g.tolist(), z.tolist(), sae.W_dec.tolist())
        effects -= ((g @ sae.W_dec.T) * z).detach().double().sum(0)
        n += len(z)
    expected = [oracle.quantile(list(column), 0.9) for column in zip(*rows)]
    table = table_of(context, "s0")
    assert sum(score > 0 for score in expected) > 3
    assert table["score"].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert table["effect"].tolist() == pytest.approx(
        (effects / n).tolist(), rel=1e-2, abs=1e-5
    )
    fires = [sum(row[j] > 0 for row in rows) for j in range(D_SAE)]
    close = [abs(a - b) for a, b in zip(table["fires"], fires, strict=True)]
    # a score of exactly 0 is not counted by the plain version
    assert sum(close) <= 2


def test_removal_in_a_real_model_agrees_with_the_plain_version(
    context: RunContext, model: HookedTransformer
) -> None:
    sae = context.subjects[0].load("cpu")
    table = table_of(context, "s0")
    sampled = table[table["ablation_contexts"] == 3]
    assert len(table[table["ablation_contexts"] > 0]) == 3
    for _, row in sampled.iterrows():
        latent, rise = int(row["latent"]), 0.0
        for tokens in held_out(context, model, sae):
            keep = is_read(model, tokens)
            with torch.no_grad():
                _, cache = model.run_with_cache(tokens[None], names_filter=HOOK_NAME)
                x = cache[HOOK_NAME][0]
                changed = x.clone()
                z = sae.encode(x[keep])[:, latent]
                changed[keep] -= z[:, None] * sae.W_dec[latent]
                rise += float(loss_with(model, tokens, changed))
                rise -= float(loss_with(model, tokens, x))
        assert row["true_rise"] == pytest.approx(rise / 3, rel=2e-2, abs=2e-4)


def test_results_fit_their_schema_and_are_equal_the_second_time(
    context: RunContext,
) -> None:
    schema = json.loads(schema_text(AttributionEvalOutput))
    before = {s: metrics_of(path) for s, path in paths_of(context).items()}
    for sae_id, path in paths_of(context).items():
        jsonschema.validate(read_result(path), schema)
        table = table_of(context, sae_id)
        assert tuple(table.columns) == COLUMNS
        assert table["latent"].tolist() == list(range(D_SAE))
        # the first two never fire
        assert (table["score"][:2] == 0).all() and (table["rank"][:2] == 0).all()
        found = before[sae_id]["cores"]
        # three contexts are too few for an interval
        assert found["core_90_ci_low"] is None and found["core_90"] > 0
    assert EVALUATION.run(context) == []
    assert {s: metrics_of(path) for s, path in paths_of(context).items()} == before


def test_weights_of_the_model_keep_their_gradients(
    context: RunContext, model: HookedTransformer
) -> None:
    assert context.subjects
    assert all(weight.requires_grad for weight in model.parameters())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("quantile", 1.5),
        ("over", "some"),
        ("at", "nowhere"),
        ("overlap_share", 0),
        ("n_latents", -1),
        ("ablation_contexts", 0),
        ("n_tokens", 0),
        ("corpus", "other"),
    ],
)
def test_an_unusable_option_is_refused(
    tmp_path: Path, option: str, value: object
) -> None:
    context = RunContext([], tmp_path, options={"attribution": {option: value}})
    with pytest.raises(InputError, match=option):
        EVALUATION.options(context)
