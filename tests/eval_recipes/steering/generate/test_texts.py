"""Which texts are written: random numbers of their own, calibration apart, kept batch by batch."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.steering.generate.decoding import (
    Continuation,
    Decoding,
    Request,
    Steering,
    require_numbers,
)
from eval_recipes.steering.generate.generate import generate
from eval_recipes.steering.generate.language_model import LanguageModel, backend_for
from eval_recipes.steering.generate.plain import PlainBackend
from eval_recipes.steering.generate.strengths import folder_keys, strengths_key
from eval_recipes.steering.generate.trials import (
    Planned,
    Streams,
    Trial,
    kept_texts,
    make_trials,
    plan_pairs,
)
from eval_recipes.steering.judges.judge_trials import Judges, judge_trials
from eval_recipes.steering.judges.protocol import calibrate
from eval_recipes.steering.options import make_config
from eval_recipes.steering.select.explanations import kept_explanations
from eval_recipes.steering.select.latents import Latents, random_directions
from saereg_plugin.errors import InputError
from tests.eval_recipes.steering.test_steering import PROMPTS, WIDTH, llama, tokenizer

HOOK = "blocks.0.hook_resid_post"
SETTINGS: dict[str, Any] = {
    "new_tokens": 6,
    "samples_per_prompt": 2,
    "calibration_pairs": 12,
    "batch_size": 16,
}


def latents_of(*ids: int) -> Latents:
    every = random_directions(100, WIDTH, seed=5)
    return Latents(
        ids=ids,
        directions=every[list(ids)],
        slopes=torch.ones(len(ids)),
        cosines=torch.ones(len(ids)),
        hook_name=HOOK,
        prepend_bos=True,
    )


class Counting(PlainBackend):
    """Counts the steps that the model takes, and stops before one of them."""

    steps = 0
    stop_at: int | None = None

    def step(
        self, state: Any, tokens: Tensor, mask: Tensor | None, positions: Tensor
    ) -> Tensor:
        if self.steps == self.stop_at:
            raise KeyboardInterrupt
        self.steps += 1
        return super().step(state, tokens, mask, positions)


@pytest.fixture
def backend() -> Iterator[Counting]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield Counting(llama())


def trials_of(
    backend: Counting,
    folder: Path,
    *ids: int,
    weights: str = "sae",
    strength: float = 3.0,
    without: tuple[int, ...] = (),
    **settings: Any,
) -> list[Trial]:
    return make_trials(
        LanguageModel("tiny", "plain", backend, tokenizer()),
        latents_of(*ids),
        PROMPTS,
        {strength: [math.nan if one in without else strength for one in ids]},
        make_config({**SETTINGS, **settings}),
        weights=weights,
        folder=ArtifactFolder(folder, {}),
        unsteered=ArtifactFolder(folder / "unsteered", {}),
    )


def of_latent(trials: list[Trial], latent: int) -> list[Trial]:
    return [one for one in trials if one.latent == latent]


def planned(*ids: int, weights: str = "sae", **settings: Any) -> list[Planned]:
    config = make_config({**SETTINGS, **settings})
    strengths = {5.0: [5.0] * len(ids)}
    return plan_pairs(ids, 3, strengths, config, Streams(0, weights))


def test_every_steered_text_has_its_controls() -> None:
    config = make_config(SETTINGS)
    nan = float("nan")
    ids = [4, 7, 9]
    plan = plan_pairs(ids, 2, {5.0: [5.0, nan, 5.0]}, config, Streams(0, "sae"))
    steered = [one for one in plan if one.amount is not None]
    # two arms, two latents, two prompts, two repeats
    assert len(steered) == 16 and {one.latent for one in steered} == {4, 9}
    for one in steered:
        # common random numbers, and the same strength in both arms
        assert one.original.sample == one.other.sample
        assert one.original.prompt == one.other.prompt == one.prompt
        assert one.original.vector is None and one.other.strength == 5.0
        place = ids.index(one.latent)
        control = 3 + 2 * place + one.repeat
        assert one.other.vector == (place if one.arm == "steered" else control)
    originals = {(o.latent, o.prompt, o.repeat): o.original for o in steered}
    others = [one for one in plan if one.arm == "unsteered"]
    assert len(others) == 3 * 2 * 2
    for one in others:
        assert one.other.vector is None and one.other.sample != one.original.sample
        if one.latent != 7:
            # the control is against the same original text
            key = one.latent, one.prompt, one.repeat
            assert originals[key] == one.original
    assert {one.latent for one in plan if one.arm == "calibration"} == set(ids)


def test_no_two_latents_share_a_text_and_none_is_calibrated_on() -> None:
    plan = planned(*range(40), calibration_pairs=80)
    texts: dict[str, set[Request]] = {}
    for arm in ("steered", "unsteered", "calibration"):
        chosen = [one for one in plan if one.arm == arm]
        pairs = {(one.original, one.other) for one in chosen}
        assert len(pairs) == len(chosen)
        texts[arm] = {text for pair in pairs for text in pair}
        # both sides of every pair are texts of their own
        assert len(texts[arm]) == 2 * len(chosen)
    assert len(plan) == 40 * 3 * 2 * 3 + 80
    assert not texts["calibration"] & (texts["steered"] | texts["unsteered"])
    # every prompt is calibrated on
    calibrated = [one.prompt for one in plan if one.arm == "calibration"]
    assert min(map(calibrated.count, range(3))) >= 26


def test_greedy_texts_have_one_original_and_sampled_controls() -> None:
    plan = planned(3, 5, greedy=True, samples_per_prompt=1)
    steered = [one for one in plan if one.amount is not None]
    assert {one.original for one in steered} == {Request(p, 0) for p in range(3)}
    rest = [
        text for one in plan if one.amount is None for text in (one.original, one.other)
    ]
    assert len(set(rest)) == len(rest) and all(text.sample for text in rest)


def test_a_latents_texts_are_its_own_whatever_its_company(
    backend: Counting, tmp_path: Path
) -> None:
    alone = trials_of(backend, tmp_path / "a", 7, calibration_pairs=10)
    among = trials_of(backend, tmp_path / "b", 3, 7, 1, calibration_pairs=30)
    other = trials_of(backend, tmp_path / "c", 7, weights="other", calibration_pairs=10)
    mine = of_latent(among, 7)
    assert len(alone) == len(mine) == 3 * 3 * 2 + 10
    same = [
        a.original.tokens == b.original.tokens and a.other.tokens == b.other.tokens
        for a, b in zip(alone, mine, strict=True)
    ]
    # float32 in another batch: equal but for counted near ties
    assert sum(same) >= len(same) - 2
    # another SAE's latent 7 of the same direction has other texts and another control
    unlike = [
        a.original.tokens != b.original.tokens or a.other.tokens != b.other.tokens
        for a, b in zip(alone, other, strict=True)
    ]
    assert all(unlike)
    assert not {t.original.tokens for t in of_latent(among, 3)} & {
        t.original.tokens for t in mine
    }


def test_controls_are_of_sae_latent_repeat_and_seed() -> None:
    base = Streams(0, "sae")
    one = base.direction(7, 0, 400)
    torch.testing.assert_close(one.norm(), torch.tensor(1.0))
    assert torch.equal(one, base.direction(7, 0, 400))
    others = [
        Streams(0, "other").direction(7, 0, 400),
        Streams(1, "sae").direction(7, 0, 400),
        base.direction(8, 0, 400),
        base.direction(7, 1, 400),
    ]
    drawn = torch.stack([one, *others])
    overlaps = (drawn @ drawn.T - torch.eye(5)).abs()
    assert float(overlaps.max()) < 0.25  # 5 standard deviations of 1 / sqrt(400)
    many = torch.stack([base.direction(j, 0, 64) for j in range(400)])
    assert float(many.mean(0).norm()) < 0.1
    numbers = {
        streams.number(latent, repeat, side)
        for streams in (base, Streams(0, "other"), Streams(1, "sae"))
        for latent in range(20)
        for repeat in range(3)
        for side in ("pair", "unsteered", "calibration", "calibrated")
    }
    assert len(numbers) == 3 * 20 * 3 * 4 and min(numbers) >= 0


def test_strength_zero_steers_nothing(backend: Counting, tmp_path: Path) -> None:
    trials = trials_of(backend, tmp_path, 3, 7, strength=0.0)
    pushed = [one for one in trials if one.amount is not None]
    assert len(pushed) == 2 * 2 * 3 * 2
    assert all(one.original.tokens == one.other.tokens for one in pushed)


def test_an_interrupted_run_writes_no_batch_twice(tmp_path: Path) -> None:
    def fresh() -> Counting:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Counting(llama())

    whole = fresh()
    expected = trials_of(whole, tmp_path / "whole", 3, 7)
    batches = whole.steps // 6
    assert batches >= 4
    cut = fresh()
    # in the middle of the third batch
    cut.stop_at = 2 * 6 + 3
    with pytest.raises(KeyboardInterrupt):
        trials_of(cut, tmp_path / "cut", 3, 7)
    assert len(list((tmp_path / "cut").rglob("*.parquet"))) == 2
    rest = fresh()
    assert trials_of(rest, tmp_path / "cut", 3, 7) == expected
    assert rest.steps == 6 * (batches - 2)
    # complete: nothing is written
    again = fresh()
    assert trials_of(again, tmp_path / "cut", 3, 7) == expected and again.steps == 0
    # a damaged batch is written again, the others are not
    kept = tmp_path / "cut" / "unsteered" / "sampled-00001.parquet"
    kept.write_bytes(b"cut short")
    assert trials_of(again, tmp_path / "cut", 3, 7) == expected and again.steps == 6


def written_at(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.mark.parametrize("greedy", [False, True])
def test_texts_to_which_nothing_is_added_are_shared_by_strengths(
    greedy: bool, backend: Counting, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"greedy": greedy, "samples_per_prompt": 1}
    first = trials_of(backend, tmp_path / "a", 3, 7, **settings)
    shutil.copytree(tmp_path / "a" / "unsteered", tmp_path / "b" / "unsteered")
    kept = written_at(tmp_path / "b" / "unsteered")
    settings |= {"strength": 4.0}
    mine = trials_of(backend, tmp_path / "b", 3, 7, **settings)
    # as if they had been written anew
    assert mine == trials_of(backend, tmp_path / "c", 3, 7, **settings)
    for one, other in zip(first, mine, strict=True):
        assert one.original == other.original
        assert one.amount is not None or one.other == other.other
    # neither do they depend on which latents have a strength
    few = trials_of(backend, tmp_path / "b", 3, 7, without=(3,), **settings)
    assert few == [one for one in mine if one.amount is None or one.latent != 3]
    assert written_at(tmp_path / "b" / "unsteered") == kept


def test_what_texts_with_nothing_added_depend_on() -> None:
    def keys(amount: float = 3.0, **settings: Any) -> tuple[Any, Any]:
        return folder_keys({amount: [amount]}, make_config({**SETTINGS, **settings}))

    steered, unsteered = keys()
    assert keys(4.0)[0] != steered and keys(4.0)[1] == unsteered
    at_end = keys(positions="prompt_end")
    assert at_end[0] != steered and at_end[1] == unsteered
    # prompts are read in other batches, which rounds differently in bfloat16
    assert keys(positions="all")[1] != unsteered
    assert keys(greedy=True, samples_per_prompt=1)[1] != unsteered


def test_greedy_and_sampled_texts_are_kept_apart(
    backend: Counting, tmp_path: Path
) -> None:
    trials = trials_of(backend, tmp_path, 3, 7, greedy=True, samples_per_prompt=1)
    names = {
        folder: {path.name.partition("-")[0] for path in folder.glob("*.parquet")}
        for folder in (tmp_path, tmp_path / "unsteered")
    }
    assert names == {
        tmp_path: {"greedy"},
        tmp_path / "unsteered": {"greedy", "sampled"},
    }
    steered = [one for one in trials if one.arm == "steered"]
    for prompt in range(3):
        found = {one.original.tokens for one in steered if one.prompt == prompt}
        assert len(found) == 1
    assert all(
        one.original.tokens != one.other.tokens for one in trials if one.amount is None
    )


def test_a_model_driven_out_of_its_range_is_told() -> None:
    logits = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [0.0, float("nan")]])
    added = torch.tensor([[900.0, 0.0], [0.0, 40.0], [30.0, 0.0]])
    with pytest.raises(InputError, match="in 2 of 3 texts, from strength 30 on in fl"):
        require_numbers(logits, added)
    require_numbers(logits[:1], added[:1])
    # the residual stream itself overflows
    with pytest.raises(InputError, match=r"no numbers in 1 of 2 .* strength inf on"):
        generate(
            backend_for(llama()),
            tokenizer(),
            PROMPTS,
            [Request(0, 0), Request(0, 1, 0, 1e38)],
            steering=Steering(hook_name=HOOK, vectors=torch.full((1, WIDTH), 1e3)),
            decoding=Decoding(new_tokens=3),
        )


def test_a_latent_without_explanation_has_texts_and_no_verdict(
    backend: Counting, tmp_path: Path
) -> None:
    trials = trials_of(backend, tmp_path, 3, 7, calibration_pairs=24)
    config = make_config({**SETTINGS, "judges": ["log_probability"]})
    model = LanguageModel("tiny", "plain", backend, tokenizer())
    found = judge_trials(trials, {3: '"w8"'}, PROMPTS, model, Judges(config, None))
    verdicts = found.verdicts["log_probability"]
    assert len(found.trials) == len(verdicts) == len(found.fluency) == 2 * 3 * 2 * 3
    for trial, verdict in zip(found.trials, verdicts, strict=True):
        assert (verdict.success is None) is (trial.latent == 7)
        if trial.latent == 7:
            assert verdict.reason == "the latent has no explanation"
    threshold = found.judges["log_probability"]["threshold"]
    # both orders of the 12 pairs of latent 3
    assert (threshold["n"], threshold["n_clusters"]) == (24, 1)
    # and what it was learned from is kept
    learned = found.calibration_verdicts["log_probability"]
    assert {trial.arm for trial in found.calibration} == {"calibration"}
    assert {trial.latent for trial in found.calibration} == {3}
    scores = [one.score for one in learned if one.score is not None]
    assert len(scores) == len(found.calibration) == 24
    for there, back in zip(found.calibration[::2], found.calibration[1::2]):
        assert (there.original, there.other) == (back.other, back.original)
    assert scores[::2] == [-score for score in scores[1::2]]
    again = calibrate(scores, config.false_positive_rate)
    assert again.value == threshold["value"]
    assert [one.success for one in learned] == [again.passed(s) for s in scores]
    nobody = judge_trials(trials, {}, PROMPTS, model, Judges(config, None))
    assert {v.success for v in nobody.verdicts["log_probability"]} == {None}
    assert nobody.judges["log_probability"]["threshold"] is None
    assert nobody.calibration == [] and nobody.calibration_verdicts == {}


def test_a_kept_batch_of_other_requests_is_written_again(tmp_path: Path) -> None:
    written: list[Request] = []

    def write(batch: list[Request]) -> list[Continuation]:
        written.extend(batch)
        return [Continuation((one.sample,), f"{one}") for one in batch]

    def kept(requests: list[Request]) -> int:
        """Return how many texts had to be written; those that come are the requests'."""
        before = len(written)
        folder = ArtifactFolder(tmp_path, {})
        found = kept_texts(folder, "sampled", requests, write, batch_size=2)
        assert found == {one: Continuation((one.sample,), f"{one}") for one in requests}
        return len(written) - before

    first = [Request(0, 2**62), Request(1, 5, 0, 0.1), Request(0, 6), Request(2, 7)]
    assert kept(first) == 4 and kept(first) == 0
    # as many rows, but another order, sample, vector, strength or prompt
    assert kept([first[1], first[0], *first[2:]]) == 2 and kept(first) == 2
    for other in (
        Request(1, 4, 0, 0.1),
        Request(1, 5, 1, 0.1),
        Request(1, 5, 0, 0.2),
        Request(2, 5, 0, 0.1),
    ):
        assert kept([first[0], other, *first[2:]]) == 2
    assert kept(first) == 2 and kept(first) == 0
    # files of an earlier version say nothing of requests
    path = tmp_path / "sampled-00001.parquet"
    table: Any = pq.read_table(path)
    pq.write_table(table.drop_columns(["sample", "strength"]), path)
    assert kept(first) == 2


def test_damaged_explanations_are_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        detail = {"latent": 3, "explanation": "ducks", "score": 1, "checked_score": 1}
        record = {
            "eval_type_id": "autointerp",
            "eval_config": {"explainer": "tokens"},
            "eval_result_metrics": {},
            "eval_result_details": [detail],
        }
        path.write_text(json.dumps(record))

    folder = ArtifactFolder(tmp_path, {})
    first = kept_explanations(folder, make)
    (path,) = tmp_path.glob("explanations*")
    path.write_bytes(path.read_bytes()[:20])
    assert kept_explanations(folder, make) == first
    assert first.explanations[3].text == "ducks" and len(made) == 2
    assert "is made again" in caplog.text


def test_a_latent_without_strength_has_no_number_in_the_key() -> None:
    nan = float("nan")
    key = strengths_key({5.0: [2.5, nan], 9.0: [nan, nan]})
    assert key == {5.0: [2.5, None], 9.0: [None, None]}
    assert json.dumps(key, allow_nan=False)
