"""The schema of steering's results, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eval_recipes.chat import KEY_VARIABLE
from eval_recipes.results.subject import Subject
from eval_recipes.running.context import RunContext
from eval_recipes.speed.measurement import Timing
from eval_recipes.speed.steering import ONE_BY_ONE, Work, per_token
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.build_output import link_fields, nothing, readable
from eval_recipes.steering.judges.probe import AmountEffect
from eval_recipes.steering.output import JudgeMetrics
from eval_recipes.steering.stats.figures import Links
from eval_recipes.steering.stats.group_tests import PValue
from eval_recipes.steering.stats.logistic import Coefficient, LogisticFit
from saereg_plugin.errors import InputError
from tests.conftest import HOOK_NAME
from tests.eval_recipes.evaluations import Named
from tests.eval_recipes.tiny_saes import save_release, tiny_sae

check = Named("steering").check


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A saved SAE whose model nobody loads."""
    folder = tmp_path_factory.mktemp("refused") / "refused-release"
    sae = tiny_sae("smollm2-135m-instruct", HOOK_NAME, torch.zeros(576), 0)
    return save_release(folder, {"s0": sae})[0]


def test_a_judge_that_was_not_asked_has_nulls_and_reasons() -> None:
    fields = nothing()
    made = JudgeMetrics(**fields)
    assert made.success is None and made.success_n == 0 and made.slope is None
    assert made.pairs == 0 and made.threshold is None
    linked, reasons = link_fields(Links(None, None))
    assert linked["spearman"] is None and reasons["spearman"] == "no interp score"
    assert set(reasons) == {
        *("spearman", "point_biserial", "slope"),
        *("stability_slope", "stability_slope_adjusted"),
    }


def test_intervals_are_read_by_name() -> None:
    interval = Interval(0.5, 0.25, None, 3, "why")
    found = readable((AmountEffect(5.0, 0.1, 0.6, interval),))
    assert found[0]["change"] == {
        **{"value": 0.5, "low": 0.25, "high": None},
        **{"n": 3, "reason": "why"},
    }
    fit = LogisticFit({"x": Coefficient("x", 1.0, 0.1, 0.2, 0.5, 1.5, 0.01)}, 9, 3)
    assert readable(fit)["coefficients"]["x"]["se_clustered"] == 0.2
    assert json.loads(json.dumps(readable([fit, PValue(None, "none")])))[1] == {
        "p_value": None,
        "reason": "none",
    }


def test_what_cannot_work_is_refused_before_anything_is_loaded(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "unknown": ({"amount": 5}, "Did you mean 'amounts'"),
        "id": ({"latents": [0, 256]}, r"Latents \[256\] were asked for"),
        "twice": ({"latents": [1, 1]}, "different ids"),
        "sets": ({"select": "contrast"}, "the two files"),
        "result": ({"explanations": str(tmp_path)}, "has 0 results of autointerp"),
        "stable": ({"select": "stable"}, "'stability'"),
        "table": ({"stability": str(tmp_path)}, "has 0 results of cross_seed"),
        "mode": ({"strength_mode": "big"}, "strength_mode is 'big'"),
        "amounts": ({"amounts": []}, "amounts"),
        "key": ({"judges": ["chat"]}, KEY_VARIABLE),
        "file": ({"select": "contrast", "contrast": ["a", "b"]}, "cannot be read"),
    }
    for options, message in cases.values():
        with pytest.raises(InputError, match=message):
            check(
                RunContext(
                    subjects=[subject], out=tmp_path, options={"steering": options}
                )
            )


def test_speed_is_compared_by_the_token() -> None:
    timed = {"ours": Timing((2.0, 4.0, 2.0)), "loop": Timing((1.0, 2.0, 1.0))}
    work = {"ours": Work(texts=10, new_tokens=10), "loop": ONE_BY_ONE}
    ours, loop = per_token(timed, work, seed=0)
    assert (ours.seconds, ours.throughput, ours.ratio) == (0.02, 50, 1)
    assert (loop.seconds, loop.ratio) == (0.05, 2.5)
    assert ours.suite == "steering"
