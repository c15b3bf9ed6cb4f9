"""The vocabulary anchor against its formula, its search, its state, and what it does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import saereg_plugin as sr
from saereg_plugin import VocabularyAnchor
from saereg_plugin.metrics.similarity import ALIGNED_THRESHOLD, nearest_token
from saereg_plugin.regularizers.cosines import Directions
from saereg_plugin.regularizers.vocabulary_anchor import (
    anchor_scores,
    nearest_tokens,
    score_tokens,
)
from saereg_plugin.sources.embeddings import Vocabulary
from tests.oracles import directional_oracle as oracle
from tests.regularizers.directional import (
    LATENTS,
    WIDTH,
    assert_gradient,
    assert_resumes,
    random_rows,
    small_sae,
    small_trainer,
)
from tests.training import component, run_steps

LABEL = "vocabulary_anchor"
TOKENS = 40
MODES = ("nearest", "logsumexp", "softmax")


def embeddings(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Of very different lengths; one of them is zero, as padding is."""
    rows = random_rows(TOKENS, WIDTH, seed=5) * torch.linspace(0.1, 4, TOKENS)[:, None]
    rows[11] = 0
    return rows.to(dtype)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "embeddings.safetensors"
    save_file(
        {"model.embed_tokens.weight": embeddings(), "other": torch.zeros(3)}, path
    )
    return str(path)


def exact_mean(sae: Any) -> float:
    """mean_i max_j cos over the whole vocabulary."""
    return float(nearest_token(sae.W_dec.detach(), embeddings()).cosine.mean())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_value_and_gradient_are_those_of_the_formula(
    mode: Any, temperature: float, tmp_path: Path
) -> None:
    path = tmp_path / "double.safetensors"
    rows = embeddings(torch.float64)
    rows[11] = random_rows(WIDTH, seed=8)
    save_file({"wte.weight": rows}, path)
    penalty = VocabularyAnchor(
        mode=mode, top=6, temperature=temperature, embeddings=str(path)
    )
    sae = small_sae(penalty).double()
    sae.bind()
    sae.W_dec.data *= torch.linspace(0.3, 3, LATENTS)[:, None]
    assert_gradient(
        sae, LABEL, lambda dec: oracle.anchor(dec, rows, mode, 6, temperature)
    )


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_of_the_scores(mode: Any) -> None:
    cosines = random_rows(5, 7).double().tanh().requires_grad_()
    score, slope = anchor_scores(cosines.detach(), mode, 0.3)
    again, _ = anchor_scores(cosines, mode, 0.3)
    assert torch.equal(score, again.detach())
    (expected,) = torch.autograd.grad(again.sum(), cosines)
    torch.testing.assert_close(slope, expected)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 30),
    top=st.integers(1, 12),
    chunk=st.integers(1, 60),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_chunk_finds_the_nearest_tokens(
    n: int, top: int, chunk: int, dtype: torch.dtype
) -> None:
    unit = Directions.of(random_rows(n, WIDTH, seed=n).double()).unit
    vocabulary = Vocabulary.of(embeddings(dtype))
    found = nearest_tokens(unit, vocabulary, top, chunk=chunk)
    cosines = torch.cosine_similarity(
        unit[:, None], embeddings(dtype).double()[None], dim=-1
    )
    expected = cosines.topk(top, dim=1).indices
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)


def test_a_bfloat16_search_finds_nearly_the_same_and_scores_exactly() -> None:
    unit = Directions.of(random_rows(200, WIDTH)).unit
    vocabulary = Vocabulary.of(embeddings())
    tokens = nearest_tokens(unit, vocabulary, 3, dtype=torch.bfloat16)
    exact = nearest_token(unit, embeddings()).cosine
    scored = score_tokens(unit, vocabulary, tokens, "nearest")
    assert (exact - scored.score).max() < 1e-2
    assert float(((exact - scored.score).abs() < 1e-6).float().mean()) > 0.9


def test_embeddings_are_neither_parameters_nor_state(file: str, tmp_path: Path) -> None:
    sae = small_sae(VocabularyAnchor(coefficient=1.0, embeddings=file))
    trainer = small_trainer(sae)
    run_steps(trainer, 2)
    plain = small_sae()
    assert [n for n, _ in sae.named_parameters()] == [
        n for n, _ in plain.named_parameters()
    ]
    added = set(sae.state_dict()) - set(plain.state_dict())
    assert added == {f"components.{LABEL}.kept_tokens", "components.row_floor.held"}
    optimised = sum(
        p.numel() for g in trainer.optimizer.param_groups for p in g["params"]
    )
    assert optimised == sum(p.numel() for p in plain.parameters())
    sae.save_inference_model(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "sae_weights.safetensors")
    assert set(saved) == {n for n, _ in plain.named_parameters()}


@pytest.mark.parametrize(
    ("refresh", "every", "steps", "expected"),
    [
        (1, 1, 5, [0, 1, 2, 3, 4]),
        (4, 1, 10, [0, 4, 8]),
        (4, 3, 16, [0, 6, 9, 12]),
        (2, 5, 16, [0, 5, 10, 15]),
    ],
)
def test_search_is_due(
    refresh: int, every: int, steps: int, expected: list[int]
) -> None:
    cfg = VocabularyAnchor(refresh_every=refresh, every=every)
    acting = [t for t in range(steps) if t % every == 0]
    assert [t for t in acting if cfg.refreshes(t)] == expected


def test_between_searches_kept_tokens_are_scored_exactly(file: str) -> None:
    penalty = VocabularyAnchor(
        coefficient=0.01, embeddings=file, refresh_every=4, top=1, every=2
    )
    sae = small_sae(penalty)
    trainer = small_trainer(sae, lr=0.2)
    vocabulary = Vocabulary.of(embeddings())
    stale = 0
    for index in range(12):
        before = sae.W_dec.detach().clone()
        unit = Directions.of(before).unit
        (output,) = run_steps(trainer, 1)
        part = component(sae, LABEL)
        if index % 2:
            assert output.losses[LABEL] == 0
            continue
        kept = score_tokens(unit, vocabulary, part.tokens, "nearest").score.mean()
        assert float(output.losses[LABEL]) == pytest.approx(
            -0.02 * float(kept), rel=1e-5
        )
        exact = float(nearest_token(before, embeddings()).cosine.mean())
        if index % 4 == 0:
            assert float(kept) == pytest.approx(exact, rel=1e-5)
        else:
            stale += float(kept) < exact - 1e-4
    assert stale > 0


@pytest.mark.parametrize("every", [1, 2])
def test_a_latent_that_starts_anew_is_searched_for_at_once(
    every: int, file: str
) -> None:
    penalty = VocabularyAnchor(
        coefficient=1.0, embeddings=file, refresh_every=100, top=3, every=every
    )
    resampling = {"name": "resampling", "threshold": 0.1, "decay": 0.0}
    sae = small_sae(
        penalty, mechanics=[{**resampling, "every": 3, "until": 3, "stop": 3}]
    )
    trainer = small_trainer(sae, lr=0.01)
    run_steps(trainer, 2)
    before = component(sae, LABEL).tokens
    assert (before >= 0).all()
    run_steps(trainer, 1)
    after = component(sae, LABEL).tokens
    fresh = (after < 0).all(dim=1)
    assert component(sae, "resampling").metrics()["last_resampled"] == fresh.sum() > 0
    assert torch.equal(after[~fresh], before[~fresh])
    if every == 2:
        run_steps(trainer, 1)  # the penalty rests in step 3
        assert torch.equal(component(sae, LABEL).tokens, after)
    rows = sae.W_dec.detach().clone()
    run_steps(trainer, 1)
    found = component(sae, LABEL).tokens
    assert torch.equal(found[~fresh], before[~fresh])
    assert torch.equal(found[fresh, 0], nearest_token(rows, embeddings()).token[fresh])


def test_refresh_every_1_is_exact_in_every_step(file: str) -> None:
    penalty = VocabularyAnchor(coefficient=2.0, embeddings=file, refresh_every=1, top=1)
    sae = small_sae(penalty)
    trainer = small_trainer(sae, lr=0.05)
    for _ in range(8):
        expected = exact_mean(sae)
        output: Any = run_steps(trainer, 1)[0]
        assert float(output.losses[LABEL]) == pytest.approx(-2 * expected, rel=1e-5)
        assert float(output.metrics[f"{LABEL}_mean_max_cos"]) == pytest.approx(
            expected, rel=1e-5
        )


@pytest.mark.parametrize("mode", MODES)
def test_anchored_latents_reach_their_tokens(mode: Any, file: str) -> None:
    def aligned(coefficient: float) -> float:
        penalty = VocabularyAnchor(
            coefficient=coefficient,
            mode=mode,
            top=4,
            temperature=0.05,
            embeddings=file,
            refresh_every=10,
        )
        sae = small_sae(penalty, decoder_constraint="unit_norm")
        outputs: list[Any] = run_steps(small_trainer(sae, lr=0.01), 200)
        cosine = nearest_token(sae.W_dec.detach(), embeddings()).cosine
        share = float((cosine >= ALIGNED_THRESHOLD).float().mean())
        last = float(outputs[-1].metrics[f"{LABEL}_aligned"])
        assert last == pytest.approx(share, abs=2 / LATENTS)
        return share

    assert aligned(0.0) < 0.3
    assert aligned(300.0) > 0.9


def test_resumes_exactly_between_searches(file: str, tmp_path: Path) -> None:
    penalty = VocabularyAnchor(
        coefficient=5.0, embeddings=file, refresh_every=4, top=3, mode="softmax"
    )
    whole, _ = assert_resumes(lambda: small_sae(penalty), tmp_path)
    assert (component(whole, LABEL).tokens >= 0).all()


def test_kept_tokens_survive_a_bfloat16_checkpoint(file: str, tmp_path: Path) -> None:
    sae = small_sae(VocabularyAnchor(coefficient=1.0, embeddings=file))
    part = component(sae, LABEL)
    ids = torch.randint(0, 150_000, (LATENTS, 10), dtype=torch.int32)
    part.kept_tokens.copy_(ids.view(torch.uint8))
    sae.save_model(tmp_path)
    loaded = type(sae).load_from_disk(tmp_path, dtype="bfloat16")
    assert torch.equal(component(loaded, LABEL).tokens, ids.long())


def test_a_copy_trains_alike(file: str) -> None:
    sae = small_sae(VocabularyAnchor(coefficient=1.0, embeddings=file))
    run_steps(small_trainer(sae), 2)
    other = copy.deepcopy(sae)
    assert component(other, LABEL)._vocabulary is None
    for each in (sae, other):
        run_steps(small_trainer(each, start=2), 2)
    assert torch.equal(sae.W_dec, other.W_dec)


def test_a_sparse_step_gets_the_same_penalty(file: str) -> None:
    penalty = VocabularyAnchor(coefficient=5.0, embeddings=file)
    outputs = [
        run_steps(small_trainer(small_sae(penalty, sparse_step=mode)), 3)
        for mode in ("always", "never")
    ]
    for sparse, dense in zip(*outputs, strict=True):
        assert sparse.active is not None
        torch.testing.assert_close(sparse.losses[LABEL], dense.losses[LABEL])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "mean"}, "mode is 'mean'"),
        ({"top": 0}, "top is 0; expected a whole number, 1 or more"),
        ({"refresh_every": 0}, "refresh_every is 0"),
        ({"every": 1.5}, "every is 1.5"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a finite number above 0"),
        ({"search_dtype": "float16"}, "search_dtype is 'float16'"),
    ],
)
def test_bad_fields_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(sr.InputError, match=message):
        VocabularyAnchor(**fields)


def test_more_kept_tokens_than_there_are_is_refused(file: str) -> None:
    penalty = VocabularyAnchor(embeddings=file, top=TOKENS + 1)
    message = f"top is 41, but there are {TOKENS} embeddings"
    with pytest.raises(sr.InputError, match=message):
        small_sae(penalty).bind()
    with pytest.raises(sr.InputError, match=message):
        penalty.check_model(None, WIDTH)
    VocabularyAnchor(embeddings=file).check_model(None, WIDTH)


def test_no_model_and_no_file_is_refused_before_the_first_step() -> None:
    sae = small_sae(VocabularyAnchor())
    with pytest.raises(sr.InputError, match="metadata has no model_name"):
        run_steps(small_trainer(sae), 1)
    assert sae.step_index == 0
