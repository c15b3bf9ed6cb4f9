"""The steering study's table from texts made by hand: signs, controls, fluency, verdicts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from eval_recipes.results.subject import Failure
from eval_recipes.statistics.seeds import Interval
from eval_recipes.steering.stats.compare import GroupRates
from eval_recipes.steering.stats.figures import Links, Rates, rates
from eval_recipes.steering.stats.rates import make_trials, success_rate
from eval_recipes.steering.texts import COLUMNS
from eval_recipes.studies.steering.report import write_steering_report
from eval_recipes.studies.steering.runs import (
    SteeringOutcome,
    SteeringRun,
    SteeringStudy,
)
from eval_recipes.studies.steering.sections import (
    Section,
    corrected,
    section_of,
    section_text,
)
from eval_recipes.studies.steering.statements import controls
from eval_recipes.tables.table import cell, digits
from saereg_plugin.files import sha256
from tests.oracles import steering_statistics_oracle as oracle

JUDGE = "log_probability"
NAN = float("nan")
NONE = None

# Thresholds at .25: .1 of SAEs of "none" alone, .3 of those of "l2", .2 of all together. So .15 is a
# success by the own threshold of "none" only, and .25 by the common one in "l2".
CALIBRATION = {"none": (0.1, 0.2), "l2": (0.3, 0.4)}
OWN = {"none": 0.1, "l2": 0.3}
COMMON = 0.2

# scores of latents 1, 2, 3, two prompts each, at amount 5
STEERED = {
    "none-s0": [(0.5, 0.0), (0.15, 0.0), (NONE, 0.0)],
    "none-s1": [(0.0, 0.0), (0.5, 0.0), (0.15, 0.0)],
    "l2-s0": [(0.5, 0.25), (0.25, 0.0), (0.0, 0.0)],
    "l2-s1": [(0.5, 0.0), (0.25, 0.5), (0.0, NONE)],
}
# what differs from 0 in the controls: (latent, prompt) to score
UNSTEERED: dict[str, dict[tuple[int, int], float | None]] = {
    "none-s0": {(1, 0): 0.5, (3, 0): 0.5},
    "none-s1": {},
    "l2-s0": {(2, 1): NONE},
    "l2-s1": {},
}
RANDOM: dict[str, dict[tuple[int, int], float | None]] = {
    "none-s0": {},
    "none-s1": {(2, 0): 0.25},
    "l2-s0": {(1, 0): 0.15},
    "l2-s1": {},
}
# perplexities of steered texts that are not 10, which all unsteered ones are
PERPLEXITY = {
    "none-s0": {(1, 0): 30.0, (3, 0): NAN},
    "none-s1": {},
    "l2-s0": {(1, 0): 20.0},
    "l2-s1": {(1, 0): 20.1, (2, 1): NAN},
}
INTERP = {1: 0.9, 2: 0.5, 3: 0.1}
WITHOUT = {"none-s0": 2, "none-s1": 0, "l2-s0": 1, "l2-s1": 3}
# one latent in both seeds
SHARED = {("l2-s0", 1): '{"1": 2}', ("l2-s1", 2): '{"0": 1}'}


def row(sae: str, arm: str, latent: int, prompt: int, score: float | None) -> Any:
    group = sae.partition("-")[0]
    steered = arm in ("steered", "random")
    number = 2 if (sae, latent, prompt) == ("l2-s0", 3, 0) else latent
    return {
        "latent": latent,
        "explanation": f"concept {latent}",
        "interp_score": INTERP[latent],
        "stability": None,
        "shared_with": SHARED.get((sae, latent), "{}" if group == "l2" else None),
        "arm": arm,
        "amount": 5.0 if steered else None,
        "strength": 5.0 if steered else None,
        "prompt": f"prompt {prompt}",
        "repeat": 0,
        # the steered texts of latents 2 and 3 of l2-s0 are the same at one prompt
        "original": f"original {sae} {number}",
        "text": f"{arm} {sae} {number}",
        "original_perplexity": 10.0,
        "perplexity": 10.0,
        "near_ties": 0,
        f"{JUDGE}_score": score,
        f"{JUDGE}_success": None if score is None else score > OWN[group],
        f"{JUDGE}_status": "judged" if score is not None else "not applicable",
        f"{JUDGE}_reason": None,
    }


def rows_of(sae: str) -> list[Any]:
    group = sae.partition("-")[0]
    found: list[Any] = []
    for place, scores in enumerate(STEERED[sae]):
        for prompt, score in enumerate(scores):
            at = (place + 1, prompt)
            mine = row(sae, "steered", *at, score)
            mine["perplexity"] = PERPLEXITY[sae].get(at, 10.0)
            # at amount 9 all of l2 succeeds, and nothing of none
            strong = row(sae, "steered", *at, 0.9 if group == "l2" else 0.0)
            pushed = [
                mine,
                row(sae, "random", *at, RANDOM[sae].get(at, 0.0)),
                {**strong, "amount": 9.0},
                {**row(sae, "random", *at, 0.0), "amount": 9.0},
            ]
            found += [*pushed, row(sae, "unsteered", *at, UNSTEERED[sae].get(at, 0.0))]
    for latent, score in enumerate(CALIBRATION[group], start=1):
        for signed in (score, -score):
            learned = row(sae, "calibration", latent, 0, signed)
            learned["perplexity"] = learned["original_perplexity"] = None
            found.append(learned)
    return found


def write(folder: Path, sae: str, *, release: str = "lab/run") -> None:
    group, _, seed = sae.partition("-s")
    rows = rows_of(sae)
    kinds = {
        **COLUMNS,
        f"{JUDGE}_score": pa.float64(),
        f"{JUDGE}_success": pa.bool_(),
        f"{JUDGE}_status": pa.string(),
        f"{JUDGE}_reason": pa.string(),
    }
    columns = {
        name: pa.array([one[name] for one in rows], kind)
        for name, kind in kinds.items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{release.replace('/', '_')}_{sae}"
    texts = folder / f"{stem}_texts.parquet"
    pq.write_table(pa.table(columns), texts)
    points = [
        {"judge": JUDGE, "amount": amount, "ratio": ratio, "strength": amount}
        | {"success": 0.5, "success_ci_low": 0.4, "success_ci_high": 0.6, "loss": 0.1}
        | {"success_fluent": 0.4, "random": 0.1}
        for amount, ratio in ((5.0, 0.06), (9.0, 0.11))
    ]
    record = {
        "eval_type_id": "steering",
        "sae_lens_id": sae,
        "sae_lens_release_id": release,
        "eval_config": {
            "judges": [JUDGE],
            "amounts": [5.0, 9.0],
            "strength_mode": "fixed",
            "max_perplexity_ratio": 2.0,
            "random_seed": 0,
            "false_positive_rate": 0.25,
            "n_latents": 6,
        },
        "eval_result_metrics": {"latents": {"without_explanation": WITHOUT[sae]}},
        "eval_result_details": points,
        "eval_result_unstructured": {
            "saereg": {"group": group, "seed": int(seed)},
            "model": "tiny",
            "dtype": "float32",
            "explainer": "tokens",
            "texts": {"file": texts.name, "sha256": sha256(texts)},
        },
    }
    path = folder / f"{stem}_eval_results.json"
    path.write_text(json.dumps(record))


KEEP = frozenset(("lab/run", sae) for sae in STEERED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of two seeds, and an SAE of another release that is none of theirs."""
    made = tmp_path_factory.mktemp("table") / "results" / "norm_ratio"
    for sae in STEERED:
        write(made, sae)
    write(made, "l2-s0", release="lab/other")
    return made


@pytest.fixture(scope="module")
def section(folder: Path) -> Section:
    (settled,) = corrected([section_of(SteeringStudy(), "norm_ratio", folder, KEEP)])
    return settled


def table_rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    lines = [
        [part.strip() for part in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    heads, _, *rows = lines
    return {
        (found["judge, strength"], found["group"]): found
        for found in (dict(zip(heads, one, strict=True)) for one in rows)
    }


def test_every_number_of_the_table(section: Section) -> None:
    rows = table_rows(section_text(SteeringStudy(), section))
    weak, strong = f"{JUDGE}, fixed 5", f"{JUDGE}, fixed 9"
    assert set(rows) == {(w, g) for w in (weak, strong) for g in ("none", "l2")}
    # by hand, at the common threshold
    expected = {
        "none": {
            "success": 2 / 11,
            "fluent success": 1 / 11,
            "unsteered": 2 / 12,
            "random direction": 1 / 12,
            "fluency loss": math.log(3) / 11,
            "over seeds": (1 / 5 + 1 / 6) / 2,
        },
        "l2": {
            "success": 6 / 11,
            # 20 over 10 is not too much, 20.1 is; and a text without tokens is not fluent
            "fluent success": 4 / 11,
            "unsteered": 0 / 11,
            "random direction": 0 / 12,
            "fluency loss": (math.log(2) + math.log(2.01)) / 11,
            "over seeds": (3 / 6 + 3 / 5) / 2,
        },
    }
    for name, figures in expected.items():
        found = rows[weak, name]
        for title, value in figures.items():
            assert found[title].partition(" [")[0] == digits(value), (name, title)
        assert found["strength / norm"] == digits(0.06) and found["latents"] == "6"
        assert found["without verdict"] == "1"
    assert [rows[weak, g]["distinct pairs"] for g in ("none", "l2")] == ["11", "10"]
    assert [rows[weak, g]["without explanation"] for g in ("none", "l2")] == ["2", "4"]
    assert [rows[strong, g]["success"][:3] for g in ("none", "l2")] == ["0 [", "1 ["]
    assert rows[strong, "l2"]["without verdict"] == "0"
    # the interval is that of whole latents
    won = [
        (False if score is None else score > COMMON, (sae, latent))
        for sae in ("l2-s0", "l2-s1")
        for latent, scores in enumerate(STEERED[sae])
        for score in scores
        if score is not None
    ]
    latents = make_trials([one for one, _ in won], [of for _, of in won])
    assert rows[weak, "l2"]["success"] == cell(success_rate(latents, seed=0))


def test_every_link_with_the_interp_score(section: Section) -> None:
    rows = table_rows(section_text(SteeringStudy(), section))
    for name in ("none", "l2"):
        wins: list[list[float]] = []
        scores: list[float] = []
        for sae in (f"{name}-s0", f"{name}-s1"):
            for latent, given in enumerate(STEERED[sae], start=1):
                wins.append([float(s > COMMON) for s in given if s is not None])
                scores.append(INTERP[latent])
        found = rows[f"{JUDGE}, fixed 5", name]
        rho: Any = stats.spearmanr(scores, [np.mean(one) for one in wins])
        assert found["Spearman"].partition(" [")[0] == digits(float(rho.statistic))
        each = np.repeat(scores, [len(one) for one in wins])
        flat = np.concatenate(wins)
        biserial = float(np.corrcoef(each, flat)[0, 1])
        assert found["point-biserial"].partition(" [")[0] == digits(biserial)
        clusters = np.repeat(np.arange(6), [len(one) for one in wins])
        fit: Any = oracle.cluster_robust(flat.astype(bool), clusters, {"score": each})
        slope, error = fit.loc["score", "value"], fit.loc["score", "se_clustered"]
        shown = found["slope (clustered SE)"]
        assert shown == f"{digits(float(slope))} ({digits(float(error))})"


def student(values: Any) -> tuple[float, float, float]:
    """95 % interval of the mean, and the two-sided p-value of a mean of 0."""
    error = values.std(ddof=1) / math.sqrt(len(values))
    half = stats.t.ppf(0.975, len(values) - 1) * error
    p = 2 * stats.t.sf(abs(values.mean()) / error, len(values) - 1)
    return values.mean() - half, values.mean() + half, p


def test_every_sentence(section: Section) -> None:
    text = section_text(SteeringStudy(), section)
    assert (
        f"- {JUDGE}: success is a score above .200, which .250 [" in text
        and "of 16 unsteered scores of 8 latents exceed (at most .250 asked)." in text
    )
    assert (
        "Latents that match one of another seed that was steered with, too: 2 of 6 of l2."
        in text
    )
    said = [line for line in text.splitlines() if line.startswith(f"- {JUDGE}, ")]
    weak = [line for line in said if "fixed 5: " in line]
    assert len(said) == 16 and len(weak) == 8
    # beyond random directions: by seed 3/6 - 0 less 1/5 - 0, and 3/5 - 0 less 1/6 - 1/6
    by_seed = np.array([0.3, 0.6])
    low, high, p = student(by_seed)
    assert weak[0] == (
        f"- {JUDGE}, fixed 5: Not decided here: success beyond that of random directions is "
        f"higher with l2 than with none (difference {digits(by_seed.mean())}, 95 % interval "
        f"{digits(low)} to {digits(high)}, n = 2, p = {p:.2g}, corrected {p:.2g}). By seeds: "
        "0: .300, 1: .600."
    )
    # success alone: .5 - .2 and .6 - .1667
    alone = np.array([0.3, 0.6 - 1 / 6])
    low, high, _ = student(alone)
    assert weak[1].startswith(
        f"- {JUDGE}, fixed 5: Success alone, as published, l2 less none (no verdict: unsteered "
        f"text may succeed more often in one group): {digits(alone.mean())} [{digits(low)}, "
        f"{digits(high)}] over seeds (seeds: 0: .300, 1: .433); over the latents of these SAEs, "
        f"which says nothing of other seeds, {digits(4 / 11)} ["
    )
    chi: Any = stats.chi2_contingency([[6, 5], [2, 9]], correction=True)
    assert f"chi-square p = {float(chi.pvalue):.2g} (takes texts for" in weak[1]
    # of both orders of every calibration pair, those above .2
    for name in ("none", "l2"):
        above = np.mean([abs(score) > COMMON for score in CALIBRATION[name]]) / 2
        assert f" {digits(float(above))} [" in weak[1].partition("unsteered scores")[2]
    for line, head in zip(
        weak[2:6],
        (
            # 2 of 11 less 1 of the same 11; the control of a steered text without verdict is out
            "success of none is higher with its latents than with unsteered texts (difference "
            f"{digits(1 / 11)},",
            "success of none is higher with its latents than with random directions (difference "
            f"{digits(1 / 11)},",
            # 6 of 10: one pair lacks the steered verdict, another the control's
            "success of l2 is higher with its latents than with unsteered texts (difference .600,",
            "success of l2 is higher with its latents than with random directions (difference "
            f"{digits(6 / 11)},",
        ),
        strict=True,
    ):
        assert head in line
    assert "Over the latents of these SAEs: slope of success on interp score" in weak[6]
    assert "with l2 less that with none" in weak[6]
    assert weak[7].endswith("Not measured here: whether stability predicts success.")
    strong, published = [line for line in said if "fixed 9: " in line][:2]
    # no spread over seeds: the direction is told, nothing is decided
    assert (
        "Not decided here: success beyond that of random directions is higher" in strong
    )
    assert "(difference 1, n = 2, no interval: " in strong
    assert "seeds: 0: 1, 1: 1; 2 of 2 on the claimed side)" in strong
    assert (
        "l2 less none" in published
        and " 1 over seeds (seeds: 0: 1, 1: 1); " in published
    )
    # 12 latents, 6 of each: two of 924 divisions are as far apart
    p = float(published.partition("permutation p = ")[2].partition(",")[0])
    assert p == pytest.approx(2 / 924, abs=0.0015)


def test_fewer_successes_than_unsteered_texts_say_nothing_against_the_latents() -> None:
    """With common random numbers a weakly steered text shares tokens with its original."""
    below = Interval(-0.1, -0.2, -0.05, 9)
    found = Rates(over_unsteered=below, over_random=below)
    figures = GroupRates(found, None, None, None, Links(None, None))
    lines = list(controls(SteeringStudy(), [figures, figures]))
    unsteered, random = lines[:2]
    assert unsteered.startswith("Not decided here: success of none is higher with its")
    assert "95 % interval -.200 to -.050" in unsteered and "shares nothing" in unsteered
    assert random.startswith("Did not hold here, the opposite did: success of none")
    above = Rates(over_unsteered=Interval(0.1, 0.05, 0.2, 9), over_random=below)
    better = GroupRates(above, None, None, None, Links(None, None))
    held = next(iter(controls(SteeringStudy(), [better, better])))
    assert held.startswith("Held here") and "shares nothing" not in held


def test_each_sae_has_its_own_threshold_until_they_are_compared(folder: Path) -> None:
    texts: Any = pq.read_table(next(folder.glob("lab_run_none-s0_*.parquet")))
    alone = rates(texts.to_pandas(), JUDGE, 5.0, max_ratio=2.0, seed=0)
    assert isinstance(alone.success, Interval)
    # .15 is above .1
    assert alone.success.value == 2 / 5
    compared = section_of(SteeringStudy(), "x", folder, KEEP).groups[0].texts
    mine = compared.loc[compared["sae"] == "lab/run/none-s0"]
    together = rates(mine, JUDGE, 5.0, max_ratio=2.0, seed=0)
    assert isinstance(together.success, Interval)
    assert together.success.value == 1 / 5


def test_p_values_are_corrected_over_all_runs(section: Section) -> None:
    p = section.compared[0].verdict.p
    assert p is not None and section.compared[1].verdict.p is None
    twice = corrected([section, section])
    for one in twice:
        assert one.compared[0].verdict.p_corrected == pytest.approx(min(1.0, 2 * p))
        assert one.compared[1].verdict.p_corrected is None


def outcome_of(**facts: Any) -> SteeringOutcome:
    runs = [SteeringRun("norm_ratio", {})]
    saes = {"norm_ratio": KEEP}
    return SteeringOutcome(SteeringStudy(), runs, finished=True, saes=saes, **facts)


def test_the_report_has_sections_trouble_and_a_plot(folder: Path) -> None:
    out = folder.parents[1]
    failure = Failure("steering", "l2-s2", "InputError: nothing")
    outcome = outcome_of(
        failures=[failure],
        by_run={"norm_ratio": [failure]},
        stopped=["none-s2: loss is not finite in step 3; no checkpoint"],
    )
    assert outcome.troubled and not outcome_of().troubled
    assert outcome_of(stopped=["x"]).troubled
    table = write_steering_report(outcome, out).read_text()
    assert "for the 1 such statements that have an interval" in table
    assert "norm_ratio without l2-s2, which failed (see Trouble)." in table
    trouble = table.partition("Trouble:")[2]
    assert "- stopped in training: none-s2: loss is not finite in step 3" in trouble
    assert "- steering of l2-s2: InputError: nothing" in trouble
    assert "`steering.png`" in table
    assert (out / "steering.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((out / "results.json").read_text())
    assert found["stopped"] == outcome.stopped
    (run,) = found["runs"]
    assert run["thresholds"][JUDGE]["value"] == COMMON
    assert run["without_explanation"] == {"none": 2, "l2": 4}
    assert run["matched_latents"] == {"none": None, "l2": {"matched": 2, "latents": 6}}
    first = run["figures"][0]
    assert first["verdict"]["outcome"] == "undecided"
    assert first["difference"]["by_seed"] == {
        "0": pytest.approx(0.3),
        "1": pytest.approx(0.6 - 1 / 6),
    }
    assert first["difference"]["excess_by_seed"] == {
        "0": pytest.approx(0.3),
        "1": pytest.approx(0.6),
    }


def test_other_saes_in_the_folder_are_left_out(folder: Path, section: Section) -> None:
    everyone = section_of(SteeringStudy(), "norm_ratio", folder)
    assert [len(group.records) for group in section.groups] == [2, 2]
    assert [len(group.records) for group in everyone.groups] == [2, 3]
