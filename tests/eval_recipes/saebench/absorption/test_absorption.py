"""The absorption recipe around the real upstream eval, vocabulary and trained SAEs."""

from __future__ import annotations

import copy
import random
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sae_bench.evals.absorption import common, feature_absorption, k_sparse_probing
from sae_bench.evals.absorption import main as upstream_main
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
from sae_bench.evals.absorption.feature_absorption_calculator import (
    FeatureAbsorptionCalculator,
)
from sae_bench.sae_bench_utils import general_utils
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from transformer_lens import HookedTransformer
from transformers import AutoTokenizer

from eval_recipes.results.files import read_result, result_path
from eval_recipes.results.subject import Failure
from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.absorption.main import AbsorptionEvaluation, Shared
from eval_recipes.saebench.absorption.probes import (
    POSITION,
    TEMPLATE,
    load_probe,
    sample_words,
    stopping_after,
    word_tokens,
)
from eval_recipes.saebench.absorption.upstream_run import UnitDecoder
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release
from tests.oracles import absorption_oracle as oracle
from tests.training import (
    BATCH,
    D_SAE,
    batches,
    build,
    make_stock_cfg,
    make_trainer,
    run_steps,
)

EVALUATION = Named("absorption")

pytestmark = pytest.mark.slow

HOOK = "blocks.0.hook_resid_post"
# The slash is a folder to upstream.
TOPK, SCALED, BATCHTOPK, BROKEN = (
    f"{HOOK}/{name}" for name in ("topk", "scaled", "batchtopk", "broken")
)
OPTIONS = {
    "words_per_letter": 10,
    "max_k_value": 2,
    "k_sparse_probe_batch_size": 64,
    "k_sparse_probe_num_epochs": 10,
    # Two hundred words are too few for good probes.
    "min_GT_probe_f1": 0.1,
    "min_feats_for_eval": 2,
}
PARTS = ("eval_config", "eval_result_metrics", "eval_result_details")
STEPS = 100


@pytest.fixture(scope="module")
def words(model: HookedTransformer) -> list[str]:
    """All words of the vocabulary."""
    return word_tokens(model.tokenizer)


@pytest.fixture(scope="module")
def saes(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    words: list[str],
) -> dict[str, Any]:
    """
    Two SAEs trained on the model, one of them at another scale and one damaged.

    A latent starts as one word's activation: such latents absorb their word's letter.
    """
    drawn = sample_words(words, words_per_letter=10, seed=0)
    prompts = ["\n" + TEMPLATE.format(word=word) for word in drawn]
    with torch.no_grad():
        _, cache = model.run_with_cache(prompts, names_filter=HOOK, stop_at_layer=1)
    activations = cache[HOOK][:, POSITION].clone()
    mean = activations.mean(dim=0)
    rows = torch.nn.functional.normalize(activations[:D_SAE] - mean, dim=-1)
    norms = torch.linspace(0.5, 2, D_SAE)[:, None]
    metadata = SAEMetadata(
        model_name=model_name, hook_name=HOOK, context_size=32, prepend_bos=True
    )

    def trained(architecture: str) -> SAE[Any]:
        cfg = make_stock_cfg(
            architecture, metadata=metadata, rescale_acts_by_decoder_norm=False
        )
        sae = build(cfg)
        sae.W_dec.data = rows * norms
        sae.W_enc.data = (rows / norms).T.contiguous()
        sae.b_dec.data = mean.clone()
        run_steps(make_trainer(sae, batches(activations, BATCH), steps=STEPS), STEPS)
        folder = tmp_path_factory.mktemp(architecture)
        sae.save_inference_model(str(folder))
        return SAE.load_from_disk(str(folder))

    topk = trained("topk")
    # The same function; a power of two, so that no rounding differs.
    scaled = copy.deepcopy(topk)
    scaled.W_dec.data *= 4
    scaled.W_enc.data /= 4
    scaled.b_enc.data /= 4
    broken = copy.deepcopy(topk)
    broken.W_enc.data[0] = torch.nan
    return {
        TOPK: topk,
        SCALED: scaled,
        BATCHTOPK: trained("batchtopk"),
        BROKEN: broken,
    }


@pytest.fixture(scope="module")
def context(
    tmp_path_factory: pytest.TempPathFactory,
    model_name: str,
    model: HookedTransformer,
    saes: dict[str, Any],
) -> RunContext:
    """The three whole SAEs."""
    folder = tmp_path_factory.mktemp("tiny-absorption")
    context = RunContext(
        save_release(folder, saes)[:3],
        folder / "out",
        artifacts=folder / "artifacts",
        options={"absorption": OPTIONS},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    return context


def only_words(model_name: str, words: list[str]) -> Shared:
    """What saves the time of finding the words, and keeps nothing else of another run."""
    return Shared(words={model_name: words})


def state(model: HookedTransformer) -> tuple[Any, ...]:
    """All that the recipe or upstream changes for the length of a pass."""
    tokenizer: Any = model.tokenizer
    return (
        upstream_main.run_k_sparse_probing_experiment,
        upstream_main.run_feature_absortion_experiment,
        upstream_main.tqdm,
        common.get_alpha_tokens,
        feature_absorption.get_alpha_tokens,
        k_sparse_probing.metrics,
        general_utils.load_and_format_sae,
        vars(HookedTransformer)["from_pretrained_no_processing"],
        "run_with_cache" in vars(model),
        sum(len(hook.fwd_hooks) for hook in model.hook_dict.values()),
        tokenizer.padding_side,
        tokenizer.truncation_side,
        torch.is_grad_enabled(),
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),
        Path.cwd(),
        (Path(common.__file__).parents[2] / "artifacts").exists(),
    )


def unchanged(
    context: RunContext, model: HookedTransformer, shared: Shared
) -> list[Failure]:
    """Run the recipe, and see that it leaves everything as it was."""
    before = state(model)
    evaluation = AbsorptionEvaluation()
    evaluation.shared = shared
    failures = EVALUATION.run(context, evaluation)
    assert state(model) == before
    return failures


def read(context: RunContext, sae_id: str) -> dict[str, Any]:
    (subject,) = (s for s in context.subjects if s.sae_id == sae_id)
    return read_result(
        result_path(context.out, "absorption", subject.release, subject.sae_id)
    )


@pytest.fixture(scope="module")
def records(
    context: RunContext, model: HookedTransformer, model_name: str, words: list[str]
) -> dict[str, dict[str, Any]]:
    """Results of a run on cold caches."""
    assert unchanged(context, model, only_words(model_name, words)) == []
    return {s.sae_id: read(context, s.sae_id) for s in context.subjects}


@pytest.fixture(scope="module")
def backwards(
    context: RunContext,
    records: dict[str, dict[str, Any]],
    model: HookedTransformer,
    model_name: str,
    words: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[RunContext, list[Failure]]:
    """A run in the other order on warm caches, with a damaged SAE between, no gradients."""
    assert records
    topk, _, batchtopk = context.subjects
    subjects = [batchtopk, replace(topk, sae_id=BROKEN), topk]
    again = replace(context, subjects=subjects, out=tmp_path_factory.mktemp("again"))
    with torch.no_grad():
        found = unchanged(again, model, only_words(model_name, words))
        assert not torch.is_grad_enabled()
    return again, found


def probes_of(context: RunContext, model: HookedTransformer, folder: Path) -> Path:
    """A folder of the stored probes as upstream keeps them: the probe is a pickle."""
    (stored,) = context.artifacts.rglob("probe.safetensors")
    place = folder / str(model.cfg.model_name) / "layer_0"
    place.mkdir(parents=True)
    for name in ("data.npz", "train_df.csv", "test_df.csv"):
        shutil.copy(stored.parent / name, place)
    probe = load_probe(ArtifactFolder(stored.parent, {}), "cpu")
    torch.save(probe, place / "probe.pth")
    return folder


def test_results_are_valid_for_upstream_and_rest_on_their_letters(
    records: dict[str, dict[str, Any]],
):
    record = records[TOPK]
    parsed = TypeAdapter(AbsorptionEvalOutput).validate_python(record)
    assert parsed.sae_lens_id == TOPK
    details = record["eval_result_details"]
    ours = record["eval_result_metrics"]["corrected"]
    assert ours["letters_with_probe"] == len(details) >= 2
    assert all(d["probe_f1"] > OPTIONS["min_GT_probe_f1"] for d in details)
    assert ours["n_words"] == sum(d["num_probe_true_positives"] for d in details)
    assert ours["n_vocabulary"] == 26 * 10
    for name, field in (
        ("absorption_fraction", "corrected_absorption_fraction"),
        ("full_absorption_rate", "corrected_full_absorption_rate"),
    ):
        value, low, high = oracle.mean_and_interval([d[field] for d in details])
        assert ours[name] == pytest.approx(value, abs=1e-9)
        slack = 0.15 * (high - low) + 1e-9
        assert ours[f"{name}_ci_low"] == pytest.approx(low, abs=slack)
        assert ours[f"{name}_ci_high"] == pytest.approx(high, abs=slack)
        assert ours[f"{name}_n"] == len(details)
    # Else the comparisons below would hold for a recipe that measures nothing.
    assert ours["absorption_fraction"] > 0


def test_a_folded_decoder_needs_no_correction(records: dict[str, dict[str, Any]]):
    record = records[BATCHTOPK]
    ours = record["eval_result_metrics"]["corrected"]
    mean = record["eval_result_metrics"]["mean"]
    assert ours["max_decoder_norm_deviation"] < 1e-6
    for name, theirs in (
        ("absorption_fraction", mean["mean_absorption_fraction_score"]),
        ("full_absorption_rate", mean["mean_full_absorption_score"]),
        ("additional_split_latents", mean["mean_num_split_features"] - 1),
    ):
        assert ours[name] == pytest.approx(theirs, abs=1e-9)
    for row in record["eval_result_details"]:
        assert row["corrected_absorption_fraction"] == row["mean_absorption_fraction"]
        assert row["corrected_full_absorption_rate"] == row["full_absorption_rate"]
        assert row["corrected_num_split_features"] == row["num_split_features"]
    assert mean["mean_absorption_fraction_score"] > 0


def test_one_function_at_two_scales_has_one_corrected_result(
    records: dict[str, dict[str, Any]],
):
    a, b = records[TOPK], records[SCALED]
    ours, scaled = (dict(r["eval_result_metrics"]["corrected"]) for r in (a, b))
    deviation = scaled.pop("max_decoder_norm_deviation")
    assert deviation > 2 > ours.pop("max_decoder_norm_deviation") > 1e-4
    assert ours == scaled
    for x, y in zip(a["eval_result_details"], b["eval_result_details"], strict=True):
        for name in x:
            if name.startswith("corrected_"):
                assert x[name] == y[name], (x["first_letter"], name)
    # Upstream takes the norms as one.
    assert a["eval_result_metrics"]["mean"] != b["eval_result_metrics"]["mean"]


def test_each_sae_has_its_own_result_and_shares_the_probes(
    records: dict[str, dict[str, Any]], context: RunContext
):
    a, b = (records[name]["eval_result_details"] for name in (TOPK, BATCHTOPK))
    assert a != b
    assert [(d["first_letter"], d["probe_f1"]) for d in a] == [
        (d["first_letter"], d["probe_f1"]) for d in b
    ]
    assert len(list(context.artifacts.rglob("probe.safetensors"))) == 1


@pytest.mark.parametrize("sae_id", [TOPK, BATCHTOPK])
def test_values_are_those_of_upstream_called_directly(
    sae_id: str,
    context: RunContext,
    records: dict[str, dict[str, Any]],
    model: HookedTransformer,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    record = records[sae_id]
    monkeypatch.chdir(tmp_path)
    # What comes after the first block changes nothing that is read, and costs most time.
    monkeypatch.setitem(model._modules, "blocks", model.blocks[:1])
    monkeypatch.setitem(model._modules, "unembed", torch.nn.Identity())
    monkeypatch.setattr(
        HookedTransformer, "from_pretrained_no_processing", lambda *_, **__: model
    )
    drawn = sample_words(words, words_per_letter=10, seed=context.seed)
    for module in (common, feature_absorption):
        monkeypatch.setattr(module, "get_alpha_tokens", lambda *_, **__: list(drawn))
    probes = probes_of(context, model, tmp_path / "probes")
    for name, folders in (
        ("run_k_sparse_probing_experiment", {"experiment_dir": tmp_path / "sparse"}),
        (
            "run_feature_absortion_experiment",
            {
                "experiment_dir": tmp_path / "absorption",
                "sparse_probing_experiment_dir": tmp_path / "sparse",
            },
        ),
    ):
        seam = getattr(upstream_main, name)
        given = partial(seam, probes_dir=probes, **folders)
        monkeypatch.setattr(upstream_main, name, given)
    random.seed(context.seed)
    np.random.seed(context.seed)
    torch.manual_seed(context.seed)
    (tmp_path / "out").mkdir()
    # By name: upstream loads and folds the SAE itself.
    found = upstream_main.run_eval(
        AbsorptionEvalConfig(**record["eval_config"]),
        [(context.subjects[0].release, sae_id)],
        "cpu",
        str(tmp_path / "out"),
    )
    (direct,) = found.values()
    mean = direct["eval_result_metrics"]["mean"]
    assert len(mean) == 6
    assert record["eval_result_metrics"]["mean"] == pytest.approx(mean, abs=1e-6)
    pairs = zip(
        direct["eval_result_details"], record["eval_result_details"], strict=True
    )
    for theirs, ours in pairs:
        assert len(theirs) == 6
        assert ours["first_letter"] == theirs.pop("first_letter")
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)


@torch.no_grad()
def test_absorption_of_words_is_that_of_the_definition(
    model: HookedTransformer, words: list[str], saes: dict[str, Any]
):
    sae = saes[SCALED]
    some = words[2000:44000:7000]
    calculator = FeatureAbsorptionCalculator(
        model, some, max_icl_examples=2, base_template=TEMPLATE, word_token_pos=POSITION
    )
    unit: Any = UnitDecoder(sae)
    units = torch.nn.functional.normalize(sae.W_dec, dim=-1)
    memory: dict[tuple[str, ...], torch.Tensor] = {}
    seen: set[str] = set()

    def measured(direction: torch.Tensor, main: list[int]) -> list[Any]:
        # The same prompts each time.
        random.seed(0)
        found = calculator.calculate_absorption(unit, some, direction, main, layer=0)
        return found.word_results

    with stopping_after(model, 0, memory):
        measured(units[0], [0])
        (found,) = memory.values()
        activations = found[:, POSITION]
        latents = sae.encode(activations)
        strongest = (latents * sae.W_dec.norm(dim=-1)).topk(2).indices.tolist()
        quiet = int((latents.sum(dim=0) == 0).nonzero()[0])
        for first, second in strongest[:3]:
            # A letter whose words two latents share.
            direction = units[first] + units[second]
            for main in ([first], [second], [quiet]):
                for index, result in enumerate(measured(direction, main)):
                    fraction, full = oracle.absorption_of_word(
                        activations[index].tolist(),
                        latents[index].tolist(),
                        sae.W_dec.tolist(),
                        direction.tolist(),
                        main,
                    )
                    assert result.absorption_fraction == pytest.approx(
                        fraction, abs=1e-4
                    )
                    assert result.is_full_absorption == full
                    seen.add("full" if full else "partial" if 0 < fraction < 1 else "")
    assert seen == {"full", "partial", ""}


def test_order_and_caches_change_nothing(
    backwards: tuple[RunContext, list[Failure]], records: dict[str, dict[str, Any]]
):
    again, _ = backwards
    for sae_id in (BATCHTOPK, TOPK):
        record = read(again, sae_id)
        for part in PARTS:
            assert record[part] == records[sae_id][part]


def test_one_sae_alone_has_the_same_result(
    context: RunContext,
    records: dict[str, dict[str, Any]],
    model: HookedTransformer,
    model_name: str,
    words: list[str],
    tmp_path: Path,
):
    alone = replace(context, subjects=context.subjects[2:], out=tmp_path)
    assert unchanged(alone, model, only_words(model_name, words)) == []
    record = read(alone, BATCHTOPK)
    for part in PARTS:
        assert record[part] == records[BATCHTOPK][part]


def test_a_damaged_sae_fails_by_name_and_the_others_go_on(
    backwards: tuple[RunContext, list[Failure]],
):
    again, failures = backwards
    (failure,) = failures
    assert (failure.eval, failure.sae_id) == ("absorption", BROKEN)
    assert failure.cause.startswith("UpstreamError: absorption of SAE")
    assert BROKEN in failure.cause
    # Upstream would give it an absorption of 0.
    assert "its latents hold NaN" in failure.cause
    assert len(list(again.out.rglob("*_eval_results.json"))) == 2


def test_too_few_letters_fail_by_name_and_leave_no_file(
    context: RunContext,
    records: dict[str, dict[str, Any]],
    model: HookedTransformer,
    model_name: str,
    words: list[str],
    tmp_path: Path,
):
    assert records
    options = {
        **OPTIONS,
        "max_k_value": 1,
        "k_sparse_probe_num_epochs": 1,
        "min_GT_probe_f1": 0.99,
        "min_feats_for_eval": 26,
    }
    few = replace(
        context,
        subjects=context.subjects[:1],
        out=tmp_path,
        options={"absorption": options},
    )
    (failure,) = unchanged(few, model, only_words(model_name, words))
    assert failure.sae_id == TOPK
    assert TOPK in failure.cause
    assert "of 26 letters" in failure.cause
    assert not list(tmp_path.rglob("*.json"))


def test_words_are_in_the_same_order_in_every_process(
    model: HookedTransformer, model_folder: Path, words: list[str]
):
    assert len(words) == 47_078
    other = AutoTokenizer.from_pretrained(model_folder)
    # Each hash map has an order of its own, which upstream takes over.
    assert list(other.vocab) != list(model.tokenizer.vocab)  # type: ignore[union-attr]
    assert word_tokens(other) == words
    sampled = oracle.words_by_token_id(other, step=29)
    chosen = set(sampled)
    assert [word for word in words if word in chosen] == sampled


def test_prompts_seen_before_are_not_run_again(model: HookedTransformer):
    prompts = ["\n cat has the first letter:"]
    with torch.no_grad():
        whole = model.run_with_cache(prompts, names_filter=[HOOK])[1][HOOK]
    memory: dict[tuple[str, ...], torch.Tensor] = {}
    with stopping_after(model, 0, memory), torch.no_grad():
        first = model.run_with_cache(prompts, names_filter=[HOOK])[1][HOOK]
        again = model.run_with_cache(prompts, names_filter=[HOOK])[1][HOOK]
    assert again is first
    torch.testing.assert_close(first[:, -6], whole[:, -6])
    assert model.run_with_cache.__self__ is model
