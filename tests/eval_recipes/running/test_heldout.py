"""Held-out figures against a slow plain computation on the same tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformer_lens import HookedTransformer

from eval_recipes.results.subject import Subject
from eval_recipes.running.activation_source import Source, place_of, source_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import HeldOutError, HeldOutTable, measure_heldout
from eval_recipes.running.heldout_pass import heldout_store, token_batches
from eval_recipes.running.passes import kept_rows
from eval_recipes.statistics.interval import ContextSums, bootstrap, explained_variance
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

TOKENS = 640


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: torch.Tensor,
) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-heldout")
    mean = activations.mean(0)
    good = tiny_sae(model_name, HOOK_NAME, mean, 0)
    broken = tiny_sae(model_name, HOOK_NAME, mean, 1)
    broken.W_enc.data[0, 5] = torch.nan
    lost = tiny_sae(model_name, HOOK_NAME.replace("post", "pst"), mean, 2)
    subjects = save_release(folder, {"good": good, "broken": broken, "lost": lost})
    context = RunContext(
        subjects, folder / "out", heldout_tokens=TOKENS, batch_size_prompts=8
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def table(context: RunContext) -> HeldOutTable:
    return measure_heldout(context)


def test_figures_equal_a_plain_computation(
    context: RunContext, table: HeldOutTable, model: HookedTransformer
):
    sae = context.subjects[0].load()
    store = heldout_store(
        model, sae, source_of(sae, context_size=None), corpus="embedded"
    )
    tokens = torch.cat(list(token_batches(store, contexts=20, batch_size=20)))
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=HOOK_NAME)
        x = cache[HOOK_NAME].flatten(0, 1).float()
        latents = sae.encode(x)
        x, x_hat = x.double(), sae.decode(latents).double()
    assert model.tokenizer is not None
    special = torch.tensor([model.tokenizer.bos_token_id, model.tokenizer.eos_token_id])
    keep = ~torch.isin(tokens.flatten(), special)

    def plain(x: torch.Tensor, x_hat: torch.Tensor) -> float:
        mean = sum(row for row in x) / len(x)
        total = sum(float(((row - mean) ** 2).sum()) for row in x)
        return 1 - float(((x - x_hat) ** 2).sum()) / total

    figures = table["good"]
    assert figures.n_tokens == int(keep.sum())
    assert figures.explained_variance == pytest.approx(
        plain(x[keep], x_hat[keep]), rel=1e-5
    )
    assert figures.explained_variance_with_bos == pytest.approx(
        plain(x, x_hat), rel=1e-5
    )
    assert figures.mse == pytest.approx(
        float((x - x_hat)[keep].square().mean()), rel=1e-5
    )
    active = latents[keep] != 0
    assert figures.l0 == pytest.approx(float(active.sum(-1).double().mean()))
    assert figures.alive == int(active.any(0).sum()) <= figures.d_sae - 2
    low, high = figures.explained_variance_ci_low, figures.explained_variance_ci_high
    assert low is not None and high is not None
    assert low < figures.explained_variance < high
    assert figures.explained_variance_n == TOKENS // figures.context_size


def test_saes_that_do_not_fit_together_take_several_passes(
    context: RunContext,
    table: HeldOutTable,
    tmp_path: Path,
    model: HookedTransformer,
):
    first = context.subjects[0]
    sae = first.load()
    second = save_release(tmp_path / "second", {"again": sae})[0]
    size = sum(weight.nbytes for weight in sae.state_dict().values())
    both = replace(context, subjects=[first, second], memory_gib=2 * 1.5 * size / 2**30)
    passes: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        measured = measure_heldout(both)
        in_two = len(passes)
        measure_heldout(replace(both, memory_gib=4.0))
    finally:
        handle.remove()
    # The last passes are those of one round for both.
    assert in_two == 2 * (len(passes) - in_two)
    assert measured["good"] == measured["again"] == table["good"]


def test_a_single_context_has_no_interval(context: RunContext, table: HeldOutTable):
    one = replace(
        context,
        subjects=context.subjects[:1],
        heldout_tokens=table["good"].context_size,
    )
    figures = measure_heldout(one)["good"]
    assert (figures.explained_variance_n, figures.l0_n) == (1, 1)
    assert figures.explained_variance_ci_low is None
    assert figures.l0_ci_high is None


def test_one_bad_sae_costs_only_itself(table: HeldOutTable):
    assert set(table) == {"good"}
    with pytest.raises(HeldOutError, match="'broken'.*NaN"):
        table["broken"]
    with pytest.raises(HeldOutError, match="Did you mean 'blocks.2.hook_resid_post'"):
        table["lost"]
    with pytest.raises(KeyError):
        table["unheard of"]


def test_two_saes_of_one_id_are_refused():
    subjects = [Subject("r1", "a", "g", 0), Subject("r2", "a", "g", 0)]
    with pytest.raises(InputError, match="'r1'.*'r2'"):
        measure_heldout(RunContext(subjects, Path("unused")))


def test_missing_metadata_is_named(model_name: str, activations: torch.Tensor):
    sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 0)
    sae.cfg.metadata.prepend_bos = None
    with pytest.raises(InputError, match="prepend_bos"):
        source_of(sae, context_size=None)


def test_explained_variance_of_weights_is_that_of_repeated_contexts():
    generator = np.random.default_rng(0)
    x = generator.normal(3.0, 1.0, (5, 7, 4))
    error = generator.normal(0.0, 0.3, (5, 7))
    sums = ContextSums(np.full(5, 7.0), x.sum(1), (x**2).sum((1, 2)))
    weights = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 0, 2]], dtype=float)
    got = explained_variance(sums, (error**2).sum(1), weights)
    for row, value in zip(weights.astype(int), got, strict=True):
        repeated = np.repeat(x, row, axis=0).reshape(-1, 4)
        residual = (np.repeat(error, row, axis=0) ** 2).sum()
        total = ((repeated - repeated.mean(0)) ** 2).sum()
        assert value == pytest.approx(1 - residual / total, rel=1e-12)


def test_explained_variance_of_a_constant_is_undefined():
    ones = np.ones(2)
    sums = ContextSums(ones, np.ones((2, 1)), ones)
    assert np.isnan(explained_variance(sums, ones, np.ones((1, 2)))).all()


def test_bootstrap_covers_the_mean_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        sample = generator.normal(size=60)
        figure = bootstrap(
            lambda w, s=sample: w @ s / w.sum(-1), 60, resamples=300, seed=seed
        )
        hits += figure.low <= 0 <= figure.high
    assert 0.89 <= hits / 200 <= 0.99


def test_a_second_pass_reads_what_the_first_kept(
    context: RunContext, table: HeldOutTable, model: HookedTransformer
) -> None:
    run = replace(context, subjects=context.subjects[:1])
    passes: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        first = measure_heldout(run)
        computed = len(passes)
        again = measure_heldout(run)
    finally:
        handle.remove()
    assert computed > 0
    assert len(passes) == computed
    assert first["good"] == again["good"] == table["good"]


def test_rows_that_are_too_large_or_of_another_hook_are_not_kept(
    context: RunContext,
) -> None:
    run = replace(context, subjects=context.subjects[:1])
    source, _ = place_of(run, run.subjects[0].load())
    assert isinstance(source, Source)
    measure_heldout(run)
    kept = kept_rows(run, source)
    assert kept is not None
    assert kept.activations.shape[:2] == kept.seen.shape
    assert kept_rows(run, source._replace(hook_name="blocks.0.hook_resid_post")) is None
    size = kept.activations.nbytes
    small = replace(run, memory_gib=3.9 * size / 2**30)
    measure_heldout(small)
    assert kept_rows(small, source) is None
