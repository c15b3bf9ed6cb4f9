"""Options and prompts in the keys by which a resumed run knows its results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sae_bench.evals.autointerp.main import AutoInterp

from eval_recipes.registry import RECIPES
from eval_recipes.results.files import plain
from eval_recipes.running.context import RunContext
from eval_recipes.steering.judges import chat
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.running.every_eval import DEFAULTS


@pytest.mark.parametrize("name", RECIPES)
def test_keys_are_of_resolved_options(name: str, tmp_path: Path) -> None:
    """Naming a default redoes nothing; a changed default redoes everything."""
    option, default, other = DEFAULTS[name]
    tokens = {"explainer": "tokens"} if name == "autointerp" else {}

    def key(**options: Any) -> str:
        given = {name: {**tokens, **options}}
        context = RunContext([], tmp_path, data="embedded", options=given)
        found = plain(Named(name).key(context))
        assert option in found
        return json.dumps(found, sort_keys=True)

    assert key() == key(**{option: default}) != key(**{option: other})


@pytest.mark.parametrize(
    ("place", "name", "options"),
    [
        (chat, "steering", {"judges": ["chat"]}),
        (AutoInterp, "steering", {"explainer": "judge"}),
        (AutoInterp, "autointerp", {"explainer": "judge"}),
    ],
)
def test_a_changed_prompt_is_another_result(
    place: Any,
    name: str,
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    context = RunContext([], tmp_path, data="embedded", options={name: options})
    before = Named(name).key(context)
    assert before == Named(name).key(context)
    if place is chat:
        monkeypatch.setattr(chat, "_INSTRUCTIONS", "Be kind.")
    else:
        # what a newer upstream would have: another function of that name
        monkeypatch.setattr(AutoInterp, "get_scoring_prompts", AutoInterp.__init__)
    assert before != Named(name).key(context)


@pytest.mark.parametrize("judges", [["log_probability"], ["chat"]])
def test_other_opening_words_are_another_result(
    judges: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    def key(prompts: list[str]) -> dict[str, Any]:
        options = {"steering": {"judges": judges, "prompts": prompts}}
        return Named("steering").key(RunContext([], tmp_path, options=options))

    assert key(["I think"]) != key(["The sea"])


@pytest.mark.parametrize(
    ("rule", "other"),
    [("_INSTRUCTIONS", "Be kind."), ("SUCCESS", 5), ("_MOST_TOKENS", 1)],
)
def test_rules_of_the_judge_are_in_its_identity(
    rule: str, other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = chat.judge_prompt_identity()
    monkeypatch.setattr(chat, rule, other)
    assert chat.judge_prompt_identity() != before
