"""N2G finds planted sequences exactly, agrees with the plain version, and needs no server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_lens import HookedTransformer

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.results.schemas import schema_text
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.saebench.autointerp.figures import read_explanations
from eval_recipes.saebench.autointerp.n2g_explainer import (
    N2GAutoInterp,
    count_tokens,
    holding,
)
from eval_recipes.saebench.autointerp.ngram_trie import (
    Example,
    Pattern,
    Trie,
    described,
    find_patterns,
)
from eval_recipes.saebench.autointerp.output import N2GOutput
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae
from tests.oracles import n2g_oracle as oracle

A, B, C, D, E = range(5)
PADDING = 9

Fires = Callable[[Sequence[int]], float]


def explained(fires: Fires, texts: Sequence[Sequence[int]]) -> list[Pattern]:
    """The patterns of texts in which a latent is a function of what came before."""
    examples = [
        Example(text, [fires(text[: place + 1]) for place in range(len(text))])
        for text in texts
    ]
    return find_patterns(
        examples, lambda given: [fires(one) for one in given], padding=PADDING
    )


def predictions(patterns: Sequence[Pattern], text: Sequence[int]) -> list[float]:
    trie = Trie(patterns)
    return [trie.predict(text, place) for place in range(len(text))]


def on_c(text: Sequence[int]) -> float:
    return 1.0 if text[-1] == C else 0.0


def on_c_after_a(text: Sequence[int]) -> float:
    return 1.0 if text[-1] == C and A in text[:-1] else 0.0


def first_of_a_text(text: Sequence[int]) -> float:
    return 1.0 if len(text) == 1 else 0.0


def test_a_token_is_found() -> None:
    patterns = explained(on_c, [[A, B, C], [B, C, D]])
    assert patterns == [Pattern((C,), False, 1.0)] * 2
    assert predictions(patterns, [C, B, C]) == [1, 0, 1]
    assert predictions(patterns, [A, A, A]) == [0, 0, 0]


def test_a_token_somewhere_before_is_found_with_its_distance() -> None:
    patterns = explained(on_c_after_a, [[A, B, C], [B, A, C], [A, C, D]])
    assert patterns == [
        Pattern((A, None, C), False, 1.0),
        Pattern((A, C), False, 1.0),
        Pattern((A, C), False, 1.0),
    ]
    assert predictions(patterns, [A, E, C, A, C]) == [0, 0, 1, 0, 1]
    # a distance that no example had
    assert predictions(patterns, [A, B, B, C]) == [0, 0, 0, 0]


def test_the_beginning_of_a_text_is_found() -> None:
    patterns = explained(first_of_a_text, [[A, B, C], [B, C, D]])
    assert patterns == [Pattern((None,), True, 1.0)] * 2
    assert predictions(patterns, [C, B, A]) == [1, 0, 0]
    assert Trie(patterns).predict([C, B, A], 0, starts_text=False) == 0


def test_a_branch_that_ends_does_not_hide_another() -> None:
    patterns = [Pattern((A, B, C), False, 2.0), Pattern((D, None, C), False, 1.0)]
    # B is an edge of the first pattern; the second takes it as any token
    assert predictions(patterns, [D, B, C]) == [0, 0, 1]
    assert predictions(patterns, [A, B, C]) == [0, 0, 2]


def test_the_shortest_suffix_has_half_of_the_activation() -> None:
    strength = {1: 0.49, 2: 0.5, 3: 1.0}

    def fires(text: Sequence[int]) -> float:
        return strength[min(len(text), 3)] if text[-1] == C else 0.0

    (found,) = explained(fires, [[A, B, C]])
    assert (len(found.tokens), found.activation) == (2, 0.5)


def test_an_example_that_needs_more_is_kept_whole_and_counts_anywhere() -> None:
    example = Example([A, B, C], [0.0, 0.0, 4.0])

    def alone(given: Sequence[Sequence[int]]) -> list[float]:
        # A matters, a token before it takes the rest away, and C is like any other
        return [1.0 if one[0] == A else 0.0 for one in given]

    (found,) = find_patterns([example], alone, padding=PADDING)
    assert found == Pattern((A, None, C), False, 1.0)
    assert predictions([found], [D, A, D, C]) == [0, 0, 0, 1]


def test_an_example_that_does_not_fire_by_itself_is_left_out() -> None:
    silent = Example([A, B, C], [0.0, 0.0, 4.0])
    other = Example([B, D], [0.0, 2.0])

    def alone(given: Sequence[Sequence[int]]) -> list[float]:
        return [2.0 if one[-1] == D else 0.0 for one in given]

    assert find_patterns([silent], alone, padding=PADDING) == []
    expected = [Pattern((D,), False, 2.0)]
    assert find_patterns([silent, other], alone, padding=PADDING) == expected


def test_without_a_firing_example_nothing_is_explained() -> None:
    assert explained(lambda _: 0.0, [[A, B]]) == []
    assert predictions([], [A, B]) == [0, 0]
    assert described([], str) == ""


def test_text_of_patterns_names_each_once_the_strongest_first() -> None:
    patterns = [
        Pattern((A,), False, 1.0),
        Pattern((B, None, C), True, 3.0),
        Pattern((A,), False, 2.0),
    ]
    text = described(patterns, lambda token: " abc"[token + 1])
    assert text == 'the token sequences ^ "b" * "c"; "a"'


TOKENS = st.integers(0, 4)
PLANTED = st.lists(
    st.tuples(
        st.lists(st.one_of(TOKENS, st.none()), min_size=1, max_size=3).filter(
            lambda tokens: tokens[-1] is not None
        ),
        st.booleans(),
        st.floats(0.25, 4, width=16),
    ),
    min_size=1,
    max_size=3,
)


@settings(deadline=None, max_examples=150)
@given(
    planted=PLANTED,
    texts=st.lists(st.lists(TOKENS, min_size=1, max_size=6), min_size=1, max_size=5),
)
def test_patterns_and_predictions_are_those_of_the_plain_version(
    planted: Any, texts: list[list[int]]
) -> None:
    rules = [(tuple(tokens), start, strength) for tokens, start, strength in planted]

    def fires(text: Sequence[int]) -> float:
        return oracle.predict(rules, text, len(text) - 1)

    found = explained(fires, texts)
    expected = [
        one
        for text in texts
        if (
            one := oracle.pattern(
                text,
                [fires(text[: place + 1]) for place in range(len(text))],
                fires,
                PADDING,
            )
        )
    ]
    assert [(p.tokens, p.starts_text, p.activation) for p in found] == expected
    trie = Trie(found)
    for text in texts:
        for place in range(len(text)):
            assert trie.predict(text, place) == oracle.predict(expected, text, place)


@settings(deadline=None, max_examples=150)
@given(
    planted=PLANTED,
    texts=st.lists(
        st.tuples(
            st.lists(TOKENS, max_size=3), st.lists(TOKENS, min_size=1, max_size=4)
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_patterns_of_windows_are_those_of_the_plain_version(
    planted: Any, texts: list[tuple[list[int], list[int]]]
) -> None:
    rules = [(tuple(tokens), start, strength) for tokens, start, strength in planted]

    def fires(text: Sequence[int]) -> float:
        return oracle.predict(rules, text, len(text) - 1)

    # what a latent sees before the window is not in the example
    examples = [
        Example(text, [fires([*before, *text[: end + 1]]) for end in range(len(text))])
        for before, text in texts
    ]
    found = find_patterns(
        examples, lambda given: [fires(one) for one in given], padding=PADDING
    )
    plain = (oracle.pattern(e.tokens, e.activations, fires, PADDING) for e in examples)
    assert [(p.tokens, p.starts_text, p.activation) for p in found] == [
        one for one in plain if one
    ]


@settings(deadline=None, max_examples=60)
@given(planted=PLANTED, seed=st.integers(0, 1000))
def test_counts_are_those_of_the_plain_version(planted: Any, seed: int) -> None:
    rules = [(tuple(tokens), start, strength) for tokens, start, strength in planted]
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 5, (4, 7), generator=generator)
    fired = torch.rand(4, 7, generator=generator) < 0.3
    trie = Trie(Pattern(*rule) for rule in rules)
    found = count_tokens(trie, tokens, fired, torch.ones_like(fired))
    assert (
        found.n_tokens,
        found.n_fired,
        found.n_predicted,
        found.n_both,
    ) == oracle.counts(rules, tokens.tolist(), fired.tolist())


def test_precision_and_recall_by_hand() -> None:
    trie = Trie([Pattern((C,), False, 1.0)])
    tokens = torch.tensor([[A, C, C, B], [C, A, A, A]])
    fired = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]], dtype=torch.bool)
    counted = torch.ones_like(fired)
    counted[1, 3] = False
    found = count_tokens(trie, tokens, fired, counted)
    assert (found.precision, found.recall) == (2 / 3, 2 / 3)
    assert (found.firing_rate, found.predicted_rate) == (3 / 7, 3 / 7)
    silent = count_tokens(Trie([]), tokens, torch.zeros_like(fired), counted)
    assert (silent.precision, silent.recall) == (None, None)


def test_contexts_with_an_explained_window_are_found() -> None:
    tokens = torch.tensor([[0, 1, 2, 3], [1, 2, 0, 3], [3, 2, 1, 0]])
    assert holding(tokens, [[1, 2]]).tolist() == [True, True, False]
    assert holding(tokens, [[2, 1, 0], [2, 0]]).tolist() == [False, True, True]
    assert holding(tokens, []).tolist() == [False] * 3


EVALUATION = Named("autointerp")
LATENTS = (4, 9, 30, 77)
OPTIONS: dict[str, Any] = {
    "latents": LATENTS,
    "total_tokens": 4096,
    "llm_context_size": 64,
    "explainer": "n2g",
}


@pytest.fixture(scope="module")
def subjects(
    tmp_path_factory: pytest.TempPathFactory, model_name: str, activations: torch.Tensor
) -> list[Subject]:
    sae = tiny_sae(model_name, HOOK_NAME, activations.mean(0), 0)
    return save_release(tmp_path_factory.mktemp("tiny-n2g"), {"a": sae})


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("artifacts")


def run(
    out: Path,
    subjects: list[Subject],
    artifacts: Path,
    model: HookedTransformer,
    model_name: str,
    **options: Any,
) -> tuple[dict[str, Any], Path]:
    context = RunContext(
        subjects,
        out,
        batch_size_prompts=8,
        artifacts=artifacts,
        options={"autointerp": {**OPTIONS, **options}},
    )
    context.models.hold(model, model_name, dtype="float32", device="cpu")
    EVALUATION.check(context)
    assert EVALUATION.run(context) == []
    (path,) = out.rglob("*_eval_results.json")
    return json.loads(path.read_text()), path


@pytest.mark.slow
def test_evaluation_runs_without_a_server(
    tmp_path: Path,
    subjects: list[Subject],
    artifacts: Path,
    model: HookedTransformer,
    model_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    shared = (subjects, artifacts, model, model_name)
    record, path = run(tmp_path / "one", *shared)
    jsonschema.validate(record, json.loads(schema_text(N2GOutput)))
    assert record["eval_result_unstructured"]["comparable_with_llm_scores"] is False
    metrics = record["eval_result_metrics"]
    assert metrics["autointerp"]["autointerp_score"] == -1
    details = record["eval_result_details"]
    for name in ("precision", "recall"):
        values = [d[name] for d in details if d[name] is not None]
        assert metrics["n2g"][f"{name}_n"] == len(values) > 0
        assert metrics["n2g"][name] == pytest.approx(math.fsum(values) / len(values))
    for detail in details:
        assert detail["explanation"].startswith("the token sequences ")
        assert 0 < detail["n_fired"] < detail["n_tokens"] < 4096
    # it explains: better than a prediction that ignores the text
    assert metrics["n2g"]["precision"] > metrics["n2g"]["firing_rate"]
    assert metrics["n2g"]["recall"] > metrics["n2g"]["predicted_rate"]
    again, _ = run(tmp_path / "two", *shared, latents=LATENTS[::-1])
    assert again["eval_result_metrics"] == metrics
    assert again["eval_result_details"] == details
    found = read_explanations(path)
    assert [found[latent].text for latent in LATENTS] == [
        detail["explanation"] for detail in details
    ]


@pytest.mark.slow
def test_sequences_run_together_are_as_each_by_itself(
    tmp_path: Path,
    artifacts: Path,
    model: HookedTransformer,
    model_name: str,
    subjects: list[Subject],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = N2GAutoInterp._activate
    layer = int(HOOK_NAME.split(".")[1])
    bos = int(model.tokenizer.bos_token_id)  # type: ignore[union-attr]
    lengths: set[int] = set()

    def checked(self: Any, latent: int, sequences: Sequence[Sequence[int]]) -> Any:
        found = together(self, latent, sequences)
        for one, value in list(zip(sequences, found, strict=True))[:4]:
            _, cache = model.run_with_cache(
                torch.tensor([[bos, *one]]),
                names_filter=HOOK_NAME,
                stop_at_layer=layer + 1,
            )
            alone = self.sae.encode(cache[HOOK_NAME])[0, -1, latent]
            assert value == pytest.approx(float(alone.detach()), rel=1e-3, abs=1e-3)
            lengths.add(len(one))
        return found

    monkeypatch.setattr(N2GAutoInterp, "_activate", checked)
    run(tmp_path / "out", subjects, artifacts, model, model_name)
    assert min(lengths) == 1 and max(lengths) > 2
