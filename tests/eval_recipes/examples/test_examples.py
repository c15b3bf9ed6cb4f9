"""The examples evaluation against plain loops over the whole matrix of activations."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_lens import TopKSAE, TopKSAEConfig
from transformer_lens import HookedTransformer

from eval_recipes.commands.results import show
from eval_recipes.examples.options import ExamplesEvalConfig
from eval_recipes.examples.output import ExamplesEvalOutput, firing_figures
from eval_recipes.examples.reader import (
    EVAL,
    EXAMPLES,
    TABLE_SUFFIX,
    SAEExamples,
    read_examples,
)
from eval_recipes.examples.show import latent_lines
from eval_recipes.examples.table import chosen_examples
from eval_recipes.examples.tally import ExamplesTally
from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.sidecar import side_path
from eval_recipes.running.activation_source import source_of
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import heldout_store, token_batches
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.oracles import examples_oracle as oracle

EVALUATION = Named(EVAL)
CONTEXTS, SIZE = 40, 32
OPTIONS = {
    "top_examples": 3,
    "band_examples": 2,
    "tokens_before": 5,
    "tokens_after": 2,
    "n_logits": 4,
    "n_resamples": 50,
}


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    activations: torch.Tensor,
) -> RunContext:
    folder = tmp_path_factory.mktemp("tiny-examples")
    mean = activations.mean(0)
    broken = tiny_sae(model_name, HOOK_NAME, mean, 2)
    broken.W_enc.data[0, 5] = torch.nan
    saes = {
        "good": tiny_sae(model_name, HOOK_NAME, mean, 0),
        "other": tiny_sae(model_name, HOOK_NAME, mean, 1),
        "broken": broken,
    }
    context = RunContext(
        save_release(folder, saes),
        folder / "out",
        heldout_tokens=CONTEXTS * SIZE,
        seed=7,
        options={EVAL: OPTIONS},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def passes(context: RunContext, model: HookedTransformer) -> int:
    """Evaluate; return the batches that the model ran on."""
    seen: list[int] = []
    handle = model.blocks[0].register_forward_hook(lambda *_: seen.append(1))
    try:
        failures = EVALUATION.run(context)
    finally:
        handle.remove()
    assert [failure.sae_id for failure in failures] == ["broken"]
    assert "NaN" in failures[0].cause
    return len(seen)


@pytest.fixture(scope="module")
def opened(context: RunContext, passes: int) -> SAEExamples:
    assert passes
    return read_examples(context.out, "good")


def path_of(context: RunContext, sae_id: str = "good") -> Path:
    return result_path(context.out, EVAL, context.subjects[0].release, sae_id)


def options_of(context: RunContext) -> ExamplesEvalConfig:
    return EVALUATION.options(context)


def test_all_saes_share_one_pass_of_the_model(passes: int) -> None:
    assert passes == -(-CONTEXTS // 16)


def test_the_table_is_that_of_plain_loops_over_the_dense_matrix(
    context: RunContext, opened: SAEExamples, model: HookedTransformer
) -> None:
    sae, options = context.subjects[0].load(), options_of(context)
    store = heldout_store(
        model, sae, source_of(sae, context_size=None), corpus="embedded"
    )
    batches = list(token_batches(store, contexts=CONTEXTS, batch_size=16))
    ids = torch.cat(batches).numpy()
    tokenizer: Any = model.tokenizer
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id]
    keep = ~np.isin(ids, special)
    with torch.no_grad():
        x = torch.cat([store.get_activations(batch) for batch in batches])
        dense = torch.stack([sae.encode(one) for one in x]).numpy()
    dense = dense * keep[..., None]

    def text(number: int) -> str:
        return tokenizer.decode([number])

    for latent in range(D_SAE):
        expected = oracle.latent_row(
            latent, dense[..., latent], ids, int(keep.sum()), options, text
        )
        found = opened.latent(latent)
        assert vars_of(found.examples) == expected.pop("examples"), latent
        edges, counts = expected.pop("histogram")
        assert (found.histogram_edges, found.histogram_counts) == (edges, counts)
        mean = expected.pop("mean_activation")
        assert found.mean_activation == (mean and pytest.approx(mean, rel=1e-12))
        assert {name: getattr(found, name) for name in expected} == expected
    assert opened.latent(0).examples == [] and opened.latent(0).max_activation is None
    assert {e.band for e in opened.latent(5).examples} == {
        "top",
        *("75-100 %", "50-75 %", "25-50 %", "0-25 %"),
    }


def vars_of(examples: Any) -> list[dict[str, Any]]:
    return [dict(vars(example)) for example in examples]


def test_logits_are_those_of_the_model_for_a_stream_of_the_latent_alone(
    context: RunContext, opened: SAEExamples, model: HookedTransformer
) -> None:
    rows = context.subjects[0].load().W_dec.detach()
    with torch.no_grad():
        # the norm divides by the length, which is of the stream and not of the latent
        lengths = (rows.square().mean(1, keepdim=True) + model.cfg.eps).sqrt()
        logits = model.unembed(model.ln_final(rows[:, None]))[:, 0] * lengths
    tokenizer: Any = model.tokenizer
    for latent in (0, 9, 200):
        found = opened.latent(latent)
        up, down = logits[latent].topk(4), logits[latent].topk(4, largest=False)
        for measured, expected in ((found.top_logits, up), (found.bottom_logits, down)):
            values = [value for _, value in measured]
            assert values == pytest.approx(expected.values.tolist(), rel=1e-4)
            texts = [tokenizer.decode([i]) for i in expected.indices]
            assert [text for text, _ in measured] == texts


def test_any_batch_size_gives_the_same_bytes(
    context: RunContext, passes: int, tmp_path: Path
) -> None:
    assert passes
    for size in (1, 7):
        again = replace(
            context,
            subjects=context.subjects[:2],
            out=tmp_path / str(size),
            batch_size_prompts=size,
            # each SAE goes along the text in a pass of its own
            memory_gib=1e-3,
        )
        assert EVALUATION.run(again) == []
        for sae_id in ("good", "other"):
            first, second = (
                side_path(path_of(one, sae_id), TABLE_SUFFIX)
                for one in (context, again)
            )
            one, other = (EXAMPLES.read_table(path) for path in (first, second))
            different = [n for n in one.column_names if one[n] != other[n]]
            assert different == []
            assert first.read_bytes() == second.read_bytes()


def small_sae() -> TopKSAE:
    generator = torch.Generator().manual_seed(0)
    sae = TopKSAE(TopKSAEConfig(d_in=6, d_sae=20, k=4))
    sae.W_enc.data = torch.randn(6, 20, generator=generator)
    return sae


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), seed=st.integers(0, 99)
)
def test_a_tally_does_not_depend_on_the_batches(sizes: list[int], seed: int) -> None:
    n = sum(sizes)
    generator = torch.Generator().manual_seed(seed)
    # few different rows, so that many activations tie
    rows = torch.randn(5, 6, generator=generator)
    x = rows[torch.randint(0, 5, (n, 8), generator=generator)]
    keep = torch.rand(n, 8, generator=generator) > 0.1
    options = ExamplesEvalConfig(top_examples=2, bands=3, band_examples=1)
    found = []
    for parts in (sizes, [n]):
        tally = ExamplesTally(small_sae(), options)
        for batch, kept in zip(x.split(parts), keep.split(parts), strict=True):
            with torch.no_grad():
                tally.update(batch, kept)
        chosen = chosen_examples(tally)
        found.append(
            [*chosen.found, chosen.band, tally.sums, tally.histogram.counts.copy()]
        )
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other)


def test_results_name_shares_of_latents_with_intervals(
    context: RunContext, opened: SAEExamples
) -> None:
    record = read_result(path_of(context))
    jsonschema.validate(record, json.loads(schema_text(ExamplesEvalOutput)))
    scalars = opened.scalars()
    assert scalars["latent"].tolist() == list(range(D_SAE))
    firing = record["eval_result_metrics"]["firing"]
    fires = scalars["density"] > 0
    assert firing["never_fired"] == pytest.approx(1 - fires.mean())
    assert firing["never_fired"] >= 2 / D_SAE and firing["never_fired_n"] == D_SAE
    assert firing["median_density"] == np.median(scalars["density"][fires])
    assert firing["median_density_n"] == fires.sum()
    assert firing["dense"] == pytest.approx((scalars["density"] > 0.1).mean())
    for name in ("never_fired", "median_density", "dense"):
        assert firing[f"{name}_ci_low"] < firing[f"{name}_ci_high"]
    assert opened.settings["tokens"] == firing["n_tokens"] == opened.latent(3).tokens
    assert (opened.settings["kind"], opened.settings["context_size"]) == ("text", SIZE)


def test_latents_of_equal_density_have_no_interval_of_the_median() -> None:
    figures = firing_figures(np.array([0.0, 0.25, 0.25]), ExamplesEvalConfig())
    median = figures["median_density"]
    assert median is not None and (median.value, median.low) == (0.25, None)
    none = firing_figures(np.zeros(4), ExamplesEvalConfig())
    assert none["median_density"] is None
    never = none["never_fired"]
    assert never is not None and never.value == 1 and never.low is not None


def test_a_latent_is_printed_with_its_peak_marked(
    context: RunContext, opened: SAEExamples, capsys: pytest.CaptureFixture[str]
) -> None:
    found = opened.latent(5)
    with pytest.raises(SystemExit):
        arguments = ["latent", "--results", str(context.out), "--sae-id", "good"]
        show([*arguments, "--latent", "5"])
    printed = capsys.readouterr().out
    assert "SAE good of" in printed and "logits up:" in printed
    for band in ("\ntop\n", "\n75-100 %\n", "\n0-25 %\n"):
        assert band in printed
    assert printed.count("»") == printed.count("«") == len(found.examples)
    first = found.examples[0]
    peak = first.tokens[first.peak].replace("\n", "\\n")
    assert f"»{peak}«" in printed.split("\ntop\n")[1].splitlines()[0]
    assert f"fires on 0 of {found.tokens:,} tokens" in latent_lines(opened.latent(0))[0]


def test_a_break_within_a_token_is_escaped_once(opened: SAEExamples) -> None:
    latent = replace(opened.latent(5), top_logits=[("a\n", 0.5)])
    assert "logits up: 'a\\n' +0.50" in latent_lines(latent)


def test_what_cannot_be_read_is_named(
    context: RunContext, opened: SAEExamples, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"no latent {D_SAE}; expected one from 0"):
        opened.latent(D_SAE)
    with pytest.raises(InputError, match="Did you mean 'good'"):
        read_examples(context.out, "god")
    with pytest.raises(InputError, match="2 results.*'good'.*'other'.*--sae-id"):
        read_examples(context.out)
    with pytest.raises(InputError, match="holds no result of 'examples'"):
        read_examples(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_examples(tmp_path / "eval_results")
    with pytest.raises(InputError, match="holds the examples of SAE 'good'"):
        read_examples(path_of(context), "other")
    with pytest.raises(InputError, match="Lost_eval_results.json.*cannot be read"):
        read_examples(tmp_path / "Lost_eval_results.json")
    copy = tmp_path / EVAL
    shutil.copytree(context.out / EVAL, copy)
    table = side_path(copy / path_of(context).name, TABLE_SUFFIX)
    assert read_examples(table).sae_id == "good"
    content = bytearray(table.read_bytes())
    content[len(content) // 2] ^= 1
    table.write_bytes(content)
    with pytest.raises(InputError, match=r"SHA-256 differs.*Run the evaluation"):
        read_examples(tmp_path, "good")
