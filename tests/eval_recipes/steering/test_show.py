"""Texts of steering as a person reads them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from eval_recipes.commands.results import plot, show
from eval_recipes.results.subject import Subject
from eval_recipes.saebench.autointerp.figures import Explanation
from eval_recipes.steering.build_output import texts_table
from eval_recipes.steering.generate.decoding import Continuation
from eval_recipes.steering.generate.prompts import Prompt
from eval_recipes.steering.generate.trials import Arm, Trial
from eval_recipes.steering.judges.judge_trials import Judged
from eval_recipes.steering.judges.log_probability import Fluency
from eval_recipes.steering.judges.protocol import Status, Verdict
from eval_recipes.steering.select.candidates import KnownStability
from eval_recipes.steering.show import (
    latent_lines,
    show_latent,
    steering_result,
)
from eval_recipes.steering.texts import (
    TEXTS,
    read_texts,
    results_of,
)
from saereg_plugin.errors import InputError
from saereg_plugin.files import sha256

PROMPTS = [Prompt("Many people believe that", (1, 2))]
SUBJECT = Subject("lab/run", "k32/s0", "k32", 0)


def trial(arm: Arm, latent: int, text: str, amount: float | None = None) -> Trial:
    original = Continuation((3, 4), " the\nsky", 1, 0)
    return Trial(arm, latent, 0, 0, amount, amount, original, Continuation((5,), text))


TRIALS = [
    trial("steered", 7, " the sea", 5.0),
    trial("steered", 7, " sea sea", 50.0),
    trial("steered", 9, " a law", 5.0),
    trial("random", 7, " noise", 5.0),
    trial("unsteered", 7, " clouds"),
    trial("unsteered", 9, " clouds"),
]


def stored(result: Path, table: Any) -> dict[str, Any]:
    """Put texts next to a result; return what the result says of them."""
    texts = TEXTS.path(result)
    texts.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, texts)
    return {"file": texts.name, "rows": table.num_rows, "sha256": sha256(texts)}


def write(out: Path, *, sae_id: str = "k32/s0") -> Path:
    success = [True, True, None, False, False, None]
    judged = Judged(
        TRIALS,
        {
            "chat": [
                Verdict(Status.UNPARSEABLE, reason="the judge said 'perhaps'")
                if won is None
                else Verdict(Status.JUDGED, 4.0 if won else 3.0, won)
                for won in success
            ],
            "embedding": [Verdict(Status.JUDGED, 0.5, True)] * 6,
        },
        [Fluency(10.0, 20.0)] * 5 + [Fluency(10.0, float("nan"))],
        {"chat": {"judge": "chat"}, "embedding": {"judge": "embedding"}},
        calibration=[trial("calibration", 7, " rain"), trial("calibration", 3, " x")],
        calibration_verdicts={
            "embedding": [
                Verdict(Status.JUDGED, 0.25, True),
                Verdict(Status.NOT_APPLICABLE, reason="the concept is empty"),
            ]
        },
    )
    explanations = {
        7: Explanation("the sea", 0.8, None),
        9: Explanation("the law", None, None),
    }
    name = f"lab_run_{sae_id.replace('/', '_')}_eval_results.json"
    path = out / "steering" / name
    table = texts_table(
        judged,
        explanations,
        KnownStability({7: 0.5}, {7: {1: 3}}),
        PROMPTS,
        SUBJECT,
    )
    record = {
        "eval_type_id": "steering",
        "eval_result_metrics": {},
        "sae_lens_id": sae_id,
        "sae_lens_release_id": "lab/run",
        "eval_result_unstructured": {
            "saereg": {"group": "k32", "seed": 0},
            "texts": stored(path, table),
        },
    }
    path.write_text(json.dumps(record))
    return path


def test_a_latent_is_shown_with_everything_that_was_said(tmp_path: Path) -> None:
    shown = show_latent(write(tmp_path), 7)
    assert shown.splitlines() == [
        "SAE k32/s0 of lab/run",
        "Successes of embedding are those of this SAE's own thresholds; where SAEs are compared, "
        "all have common ones.",
        "Latent 7: the sea",
        "interp score 0.80, stability 0.50",
        "",
        "Many people believe that ...   [steered, strength 5]",
        "  unsteered: the\\nsky",
        "  steered: the sea",
        "  perplexity 10 -> 20",
        "  chat: 4, success",
        "  embedding: 0.5, success",
        "",
        "Many people believe that ...   [steered, strength 50]",
        "  unsteered: the\\nsky",
        "  steered: sea sea",
        "  perplexity 10 -> 20",
        "  chat: 4, success",
        "  embedding: 0.5, success",
    ]


def test_what_thresholds_were_learned_from_is_kept_and_never_shown(
    tmp_path: Path,
) -> None:
    texts = read_texts(write(tmp_path))
    learned = texts.loc[texts["arm"] == "calibration"]
    assert learned["text"].tolist() == [" rain", " x"]
    assert learned["embedding_score"].tolist()[0] == 0.25
    assert learned["embedding_success"].tolist() == [True, None]
    assert learned["embedding_reason"].tolist() == [None, "the concept is empty"]
    # a chat model is not asked, and fluency is not measured
    nothing = ["chat_score", "chat_success", "chat_status", "chat_reason"]
    for name in (*nothing, "perplexity", "original_perplexity", "amount", "strength"):
        assert learned[name].isna().all(), name
    results = results_of(texts)
    assert len(results) == len(texts) - 2 == len(TRIALS)
    assert " rain" not in "".join(latent_lines(texts, 7, controls=True))
    with pytest.raises(InputError, match="Latent 3 was not steered with"):
        latent_lines(texts, 3)


def test_controls_and_missing_verdicts_are_shown(tmp_path: Path) -> None:
    texts = read_texts(write(tmp_path))
    lines = latent_lines(texts, 7, amount=5.0, controls=True)
    assert "  steered: sea sea" not in lines
    assert "  random direction: noise" in lines
    assert "  other random numbers: clouds" in lines
    assert sum(line == "  chat: 3, no success" for line in lines) == 2
    other = latent_lines(texts, 9)
    assert other[1] == "interp score unknown, stability unknown"
    assert "  chat: no verdict (unparseable: the judge said 'perhaps')" in other
    with pytest.raises(InputError, match="Latent 8 was not steered with"):
        latent_lines(texts, 8)
    with pytest.raises(InputError, match="at amount 6.0; expected one of 5.0, 50.0"):
        latent_lines(texts, 7, amount=6.0)


def test_the_result_is_found_or_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no result of the evaluation 'steering'"):
        steering_result(tmp_path, None)
    first = write(tmp_path)
    assert steering_result(tmp_path, None) == first
    second = write(tmp_path, sae_id="k32/s1")
    with pytest.raises(InputError, match="2 steering results; expected one"):
        steering_result(tmp_path, None)
    assert steering_result(tmp_path, "k32/s1") == second
    with pytest.raises(InputError, match="Did you mean 'k32/s1'"):
        steering_result(tmp_path, "k32/s2")


def test_the_command_prints_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    arguments = ["show", "steering", "--results", str(tmp_path), "--latent", "7"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as caught:
        show()
    assert caught.value.code == 0
    assert "  steered: the sea" in capsys.readouterr().out


def test_texts_that_are_not_the_results_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    texts = path.with_name("lab_run_k32_s0_texts.parquet")
    table: Any = pq.read_table(texts)
    pq.write_table(table.slice(0, 2), texts)
    with pytest.raises(InputError, match="SHA-256 differs"):
        read_texts(path)
    assert len(read_texts(texts)) == 2
    pq.write_table(pa.table({"latent": [1]}), texts)
    with pytest.raises(InputError, match="lacks the columns amount, arm"):
        read_texts(texts)


def test_plots_are_drawn_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    record = json.loads(path.read_text())
    point = {
        **{"judge": "chat", "amount": 5.0, "strength": 5.0, "ratio": 0.1},
        **{"success": 0.5, "success_ci_low": None, "success_ci_high": 0.9},
        **{"success_fluent": 0.25, "random": 0.1, "loss": 0.3},
    }
    record["eval_result_details"] = [point, {**point, "amount": 9.0, "loss": None}]
    path.write_text(json.dumps(record))
    app = typer.Typer()
    app.command()(plot)
    out = tmp_path / "plots"
    monkeypatch.setattr(
        sys, "argv", ["plot", str(tmp_path), "--steering", "--out", str(out)]
    )
    with pytest.raises(SystemExit) as caught:
        app()
    assert caught.value.code == 0
    assert "steering.png" in capsys.readouterr().out.replace("\n", "")
    assert (out / "steering.png").read_bytes().startswith(b"\x89PNG")


def test_a_latent_without_explanation_is_shown(tmp_path: Path) -> None:
    texts = read_texts(write(tmp_path))
    texts.loc[texts["latent"] == 9, "explanation"] = None
    assert latent_lines(texts, 9)[0] == "Latent 9: (no explanation)"
    stored = texts.loc[texts["latent"] == 7, "shared_with"]
    assert set(stored) == {'{"1": 3}'}
