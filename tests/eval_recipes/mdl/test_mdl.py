"""The evaluation on a real model and on another source: figures, table, failures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

import saereg_plugin as sr
from eval_recipes.mdl.bins import bin_numbers
from eval_recipes.mdl.code import code_length
from eval_recipes.mdl.figures import latent_figures, measure
from eval_recipes.mdl.latents import latent_balance
from eval_recipes.mdl.options import MdlEvalConfig
from eval_recipes.mdl.output import MdlEvalOutput
from eval_recipes.mdl.table import BALANCE, COLUMNS
from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.schemas import schema_text
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout import heldout_of
from eval_recipes.running.run import run_evals, subjects_of
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.mdl.planted import bernoulli_uniform, held_codes, sums_of
from tests.eval_recipes.tiny_saes import D_SAE, save_release, tiny_sae
from tests.sweeps.test_sources import FIELDS

EVALUATION = Named("mdl")
CATEGORIES = ("code", "width", "latents")


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
    folder = tmp_path_factory.mktemp("mdl")
    context = RunContext(
        save_release(folder / "coded", saes),
        folder / "out",
        heldout_tokens=640,
        batch_size_prompts=8,
        options={"mdl": {"n_resamples": 200}},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


@pytest.fixture(scope="module")
def paths(context: RunContext) -> dict[str, Path]:
    failures = EVALUATION.run(context)
    assert [failure.sae_id for failure in failures] == ["broken"]
    assert "NaN" in failures[0].cause
    release = context.subjects[0].release
    return {s: result_path(context.out, "mdl", release, s) for s in ("s0", "s1")}


def metrics_of(path: Path) -> dict[str, dict[str, Any]]:
    return read_result(path)["eval_result_metrics"]


def test_figures_fit_the_held_out_ones_and_each_other(
    context: RunContext, paths: dict[str, Path]
) -> None:
    for sae_id, path in paths.items():
        heldout, found = heldout_of(context)[sae_id], metrics_of(path)
        code, width, latents = (found[name] for name in CATEGORIES)
        assert code["l0"] == pytest.approx(heldout.l0)
        assert width["mse"] == pytest.approx(heldout.mse, rel=1e-5)
        assert width["n_tokens"] == heldout.n_tokens
        assert code["bits_n"] == heldout.l0_n
        assert latents["never_fired"] == pytest.approx(1 - heldout.alive / D_SAE)
        assert code["bits"] == pytest.approx(code["firing_bits"] + code["value_bits"])
        assert 0 < width["rise"] <= 0.01
        each = width["value_precision"] + math.log2(D_SAE)
        assert code["bound"] == pytest.approx(code["l0"] * each)
        assert code["bits"] < code["bound"]
        assert code["dense"] == pytest.approx(576 * width["value_precision"])
        per_latent = 576 * 16 / heldout.n_tokens
        assert code["dictionary"] == pytest.approx(D_SAE * per_latent)
        assert code["dictionary_fired"] == pytest.approx(heldout.alive * per_latent)
        explained = 1 - (1 - heldout.explained_variance) * (1 + width["rise"])
        equal = -576 / 2 * math.log2(1 - explained)
        assert code["equal_error"] == pytest.approx(equal, rel=1e-4)
        for name in ("bits", "equal_error"):
            assert code[f"{name}_ci_low"] <= code[name] <= code[f"{name}_ci_high"]


def test_the_table_adds_up_to_the_figures(paths: dict[str, Path]) -> None:
    for path in paths.values():
        table, found = BALANCE.read(path), metrics_of(path)
        assert tuple(table.columns) == COLUMNS
        assert table["latent"].tolist() == list(range(D_SAE))
        assert table["cost"].sum() == pytest.approx(found["code"]["bits"])
        fires = table[table["fires"] > 0]
        assert (~fires["pays"]).mean() == pytest.approx(found["latents"]["unpaid"])
        assert not table["pays"][:2].any()
        assert (table["cost"][:2] == 0).all()
        assert (fires["net_low"] <= fires["net"]).all()
        unpaid = fires[~fires["pays"]]
        share = unpaid["cost"].sum() / fires["cost"].sum()
        assert share == pytest.approx(found["latents"]["unpaid_bits"])


def test_a_result_fits_its_schema(paths: dict[str, Path]) -> None:
    schema = json.loads(schema_text(MdlEvalOutput))
    for path in paths.values():
        jsonschema.validate(read_result(path), schema)


def test_a_second_run_gives_the_same_numbers(
    context: RunContext, paths: dict[str, Path]
) -> None:
    before = {sae_id: metrics_of(path) for sae_id, path in paths.items()}
    EVALUATION.run(context)
    assert {sae_id: metrics_of(path) for sae_id, path in paths.items()} == before


def test_saes_on_other_sources_are_coded(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(640, 6, generator=generator)
    trained = sr.train(sr.ArraySource(rows), out=tmp_path / "own", **FIELDS)
    assert trained.release is not None
    context = RunContext(
        subjects_of(trained.release),
        tmp_path / "out",
        source=sr.ArraySource(rows[:320], split="all"),
        options={"mdl": {"n_resamples": 20}},
    )
    outcome = run_evals(["mdl"], context)
    assert outcome.failures == []
    for subject in context.subjects:
        path = result_path(context.out, "mdl", subject.release, subject.sae_id)
        assert metrics_of(path)["width"]["n_tokens"] == 320
        assert metrics_of(path)["code"]["bits"] > 0


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epsilon", 0),
        ("epsilon", 1.5),
        ("width_unit", "bin"),
        ("exchange_rate", 0),
        ("weight_bits", 65),
        ("dictionary_tokens", 0),
        ("heldout_tokens", 10),
    ],
)
def test_an_unusable_option_is_refused(
    tmp_path: Path, option: str, value: object
) -> None:
    context = RunContext([], tmp_path, options={"mdl": {option: value}})
    with pytest.raises(InputError, match=option):
        EVALUATION.options(context)


def planted(rows: int = 512) -> Any:
    z = bernoulli_uniform([256, 128, 64], rows, values=64)
    generator = torch.Generator().manual_seed(3)
    residual = torch.zeros(rows, 4)
    residual[:, 3] = torch.randn(rows, generator=generator)
    return held_codes(z, torch.eye(4)[:3], residual), sums_of(
        z @ torch.eye(4)[:3] + residual
    )


def test_a_planted_code_has_its_closed_form_in_the_result() -> None:
    """Firing bits depend on no width; the dictionary is spread over the tokens named."""
    held, sums = planted()
    options = MdlEvalConfig(dictionary_tokens=1000, weight_bits=8)
    found = measure(held, sums, options)
    entropies = [
        -p * math.log2(p) - (1 - p) * math.log2(1 - p) for p in (0.5, 0.25, 0.125)
    ]
    firing = found.figures["code"]["firing_bits"]
    assert firing is not None and firing.value == pytest.approx(sum(entropies))
    assert found.values["code"]["dictionary"] == pytest.approx(3 * 4 * 8 / 1000)
    rise = found.figures["width"]["rise"]
    assert rise is not None and 0.009 < rise.value <= 0.01


def test_other_tables_cost_more_where_codes_differ_between_contexts() -> None:
    """A latent that fires in even contexts alone: each half's table misleads the other."""
    held, sums = planted()
    even = (held.contexts % 2 == 0)[held.codes.images]
    own = held.codes.where(even)
    moved = type(held)(
        codes=own,
        products=held.products[even],
        factors=held.factors,
        residual=held.residual,
        contexts=held.contexts,
        directions=held.directions,
        n_contexts=held.n_contexts,
    )
    found = measure(moved, sums, MdlEvalConfig()).figures["code"]
    crossed, bits = found["crossed_bits"], found["bits"]
    assert crossed is not None and bits is not None
    assert crossed.value > 2 * bits.value
    alike = measure(held, sums, MdlEvalConfig()).figures["code"]
    near, same = alike["crossed_bits"], alike["bits"]
    assert near is not None and same is not None
    assert near.value == pytest.approx(same.value, rel=0.1)


def test_an_sae_that_never_fires_has_no_figures_of_latents() -> None:
    held = held_codes(torch.zeros(8, 3), torch.ones(3, 2), torch.ones(8, 2))
    length = code_length(held.codes, bin_numbers(held.codes.values, torch.ones(0)))
    found = latent_figures(
        latent_balance(held, length, exchange_rate=None), MdlEvalConfig()
    )
    never = found.pop("never_fired")
    assert never is not None and never.value == 1
    assert set(found.values()) == {None}
