"""The Whisper study on a tiny model: the decoder, the states, resuming, the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sae_lens import TopKSAE, TopKSAEConfig
from torch import Tensor

from eval_recipes.studies.whisper import measurement, states
from eval_recipes.studies.whisper import study as study_module
from eval_recipes.studies.whisper.conditions import (
    Condition,
    Edits,
    Tuned,
    best_setting,
    heldout_conditions,
)
from eval_recipes.studies.whisper.rates import (
    Arm,
    difference_from_draws,
    rate_difference,
    texts,
)
from eval_recipes.studies.whisper.settings import WhisperStudy
from eval_recipes.studies.whisper.states import (
    Clips,
    Kept,
    States,
    choose_noise,
    encode,
    finish_encoder,
)
from eval_recipes.studies.whisper.study import last_layers, run_whisper_study
from eval_recipes.studies.whisper.transcripts import (
    Decoding,
    Transcript,
    Words,
    transcribe,
)
from saereg_plugin.activations.edits.changes import AddDirection
from saereg_plugin.activations.edits.context import edit, edited
from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import open_owned
from saereg_plugin.sources.inputs import Clip
from saereg_plugin.sources.modules import LoadedModule, load_module
from tests.eval_recipes.studies.whisper.tiny_whisper import (
    END,
    RATE,
    SILENCE,
    save_clips,
    save_whisper,
)

POINTS = ("model.encoder.layers.0", "model.encoder.layers.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("tiny") / "whisper")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> LoadedModule:
    return load_module(str(folder))


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    generator = np.random.default_rng(1)
    waves = generator.normal(size=(7, RATE // 2)).astype(np.float32)
    return [Clip(wave * 0.1 * (n + 1), RATE) for n, wave in enumerate(waves)]


def plain_transcript(
    model: Any, encoded: Tensor, decoding: Decoding, most: int, *, allowed: bool
) -> list[int]:
    """Decode one clip without a cache, token by token."""
    tokens = list(decoding.prompt)
    for step in range(most):
        output = model(
            encoder_outputs=(encoded,),
            decoder_input_ids=torch.tensor([tokens]),
            use_cache=False,
        )
        logits = output.logits[0, -1].clone()
        logits[list(decoding.suppressed)] = -torch.inf
        if step == 0:
            first = [t for t in decoding.first if not (allowed and t == decoding.end)]
            logits[first] = -torch.inf
        token = int(logits.argmax())
        if token == decoding.end:
            break
        tokens.append(token)
    return tokens[len(decoding.prompt) :]


def test_transcripts_are_those_of_a_plain_loop(
    loaded: LoadedModule, clips: list[Clip]
) -> None:
    model: Any = loaded.module
    decoding = Decoding.of(model)
    assert decoding.end == END and decoding.silence == SILENCE
    states, _ = encode(loaded, clips, POINTS)
    encoded = finish_encoder(model, states[1], POINTS[1])
    noise = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(2))
    encoded = encoded + 4 * noise
    found = transcribe(model, encoded, decoding, most_tokens=6)
    # random weights seldom end a text: a token in the midst of one ends them from here on
    end = next(t for one in found for t in one.tokens[2:4] if t not in one.tokens[:2])
    decoding = dataclasses.replace(decoding, end=end, first=(end, *decoding.first))
    found = transcribe(model, encoded, decoding, most_tokens=6)
    lengths: set[int] = set()
    with torch.no_grad():
        for number, one in enumerate(found):
            own = encoded[number : number + 1]
            forced = plain_transcript(model, own, decoding, 6, allowed=False)
            free = plain_transcript(model, own, decoding, 6, allowed=True)
            assert list(one.tokens) == forced
            assert free == ([] if one.ends_first else forced)
            lengths.add(len(forced))
    # clips that end early and clips that do not, or nothing leaves the batch
    assert len(lengths) > 1
    first = transcribe(model, encoded, decoding, most_tokens=0)
    assert [one.ends_first for one in first] == [one.ends_first for one in found]
    assert all(one.tokens == () for one in first)


@pytest.mark.parametrize("point", POINTS)
def test_editing_kept_states_is_the_hook(
    loaded: LoadedModule, clips: list[Clip], point: str
) -> None:
    model: Any = loaded.module
    change = AddDirection(torch.linspace(-1, 1, 16), 2.0)
    states, share = encode(loaded, clips, POINTS)
    assert share.tolist() == pytest.approx([0.5] * 7)
    features = loaded.prepare(clips).kwargs
    for hooked in (change, dataclasses.replace(change, strength=0.0)):
        with edit(model, point, hooked), torch.no_grad():
            expected = model.get_encoder()(**features).last_hidden_state
        kept = edited(states[POINTS.index(point)], hooked)
        assert torch.equal(finish_encoder(model, kept, point), expected)


def test_errors_count_words_as_whisper_does(folder: Path) -> None:
    words = Words(str(folder))
    assert words.words("Press TWO, please!") == ["press", "2", "please"]
    assert words.errors("press 2 to hold", "Press two to, hold.") == (0, 4)
    assert words.errors("press 1 to hold", "press two to to hold") == (2, 4)
    assert words.errors("press 1 to hold", "...") == (4, 4)
    assert words.text((4, 5, END)) == "press one"


def small(folder: Path, root: Path, **changes: Any) -> WhisperStudy:
    given: dict[str, Any] = {
        "model": str(folder),
        "speech": str(root / "speech"),
        "noise": str(root / "noise"),
        "points": POINTS,
        "seeds": (0, 1),
        "expansion": 2,
        "k": 4,
        "frames": 256,
        "batch_size": 64,
        "alphas": (0.5, 2.0),
        "counts": (2, 4),
        "draws": 2,
        "words": (2, 9),
        "tuning_clips": 4,
        "speech_tokens": 5,
        "noise_tokens": 4,
        "batch_clips": 4,
    }
    return WhisperStudy(**{**given, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    save_clips(root / "speech", 6, speech=True, seed=0)
    save_clips(root / "noise", 6, speech=False, seed=1)
    return root


def test_an_interrupted_study_resumes_and_reports(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small(folder, data)
    decoded: list[str] = []

    class Stops(Exception):
        pass

    original = measurement.Measurement.figures

    def counted(self: Any, condition: Condition, *states: Any) -> dict[str, Any]:
        if len(decoded) == 3:
            raise Stops
        decoded.append(condition.name)
        return original(self, condition, *states)

    monkeypatch.setattr(measurement.Measurement, "figures", counted)
    with pytest.raises(Stops):
        run_whisper_study(study, tmp_path / "out")
    kept = sorted((tmp_path / "out" / "figures").iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    monkeypatch.setattr(measurement.Measurement, "figures", original)
    lines: list[str] = []
    outcome = run_whisper_study(study, tmp_path / "out", progress=lines.append)
    assert [path.stat().st_mtime_ns for path in kept] == times
    assert outcome.table is not None
    text = outcome.table.read_text(encoding="utf-8")
    told = ("72.63 %", "no edit", "mean difference", "2 random directions have", "l2")
    for words in told:
        assert words in text
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (tmp_path / "out" / "whisper-trade-off.png").is_file()
    assert not (tmp_path / "out" / "states" / "heldout-noise.npy").exists()
    check_results(results)

    # a finished study is not encoded again
    def encoded(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(states, "encode", encoded)
    again = run_whisper_study(study, tmp_path / "out")
    assert again.table is not None and again.table.read_text(encoding="utf-8")
    # another number of draws keeps what is measured
    monkeypatch.undo()
    more = dataclasses.replace(study, draws=3)
    run_whisper_study(more, tmp_path / "out")
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_figures_of_other_settings_are_measured_again(tmp_path: Path) -> None:
    owned = open_owned(tmp_path / "out", "study")
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(1)
        return {"value": len(made)}

    store = measurement.Store(owned, {"setting": 1})
    assert store.get("one", {"alpha": 1}, make) == {"value": 1}
    assert store.get("one", {"alpha": 1}, make) == {"value": 1}
    assert store.get("one", {"alpha": 2}, make) == {"value": 2}
    other = measurement.Store(owned, {"setting": 2})
    assert other.get("one", {"alpha": 2}, make) == {"value": 3}


def check_results(results: dict[str, Any]) -> None:
    tuned = {(one["point"], one["group"]) for one in results["tuned"]}
    assert tuned == {(p, g) for p in POINTS for g in (None, "none", "l2")}
    kinds = [one["condition"]["kind"] for one in results["conditions"]]
    assert set(kinds) == {
        *("none", "mean difference", "latents", "random direction", "random latents")
    }
    norms = {
        Condition(**one["condition"]): one["norm"] for one in results["conditions"]
    }
    tuned_alpha = next(
        one["alpha"]
        for one in results["tuned"]
        if (one["point"], one["group"]) == (POINTS[1], "none")
    )
    random = [one for one in norms if one.kind.startswith("random")]
    assert {one.draw for one in random} == {0, 1}
    for one in random:
        edit_of = dataclasses.replace(one, kind="latents", draw=0)
        # of the second seed other strengths are not measured
        if one.seed == 0 or one.alpha == tuned_alpha:
            assert norms[one] == pytest.approx(norms[edit_of], rel=1e-5)
    assert {one["allowed"] for one in results["tuned"]} <= {True, False}
    for one in results["conditions"]:
        assert one["hallucination_rate"]["allowed"]["n"] == 6
        assert len(one["transcripts"]["speech"]) == 6
        assert one["word_error_rate"]["forbidden"]["value"] >= 0
    assert len(results["saes"]) == 8 and len(results["verdicts"]) == 7


def test_the_first_clips_are_a_random_sample(folder: Path, data: Path) -> None:
    """Tuning reads the first clips, and data list clips by name."""
    drawn = choose_noise(small(folder, data), "train").numbers
    assert sorted(drawn) == list(range(6)) and drawn != tuple(range(6))
    assert drawn == choose_noise(small(folder, data), "train").numbers


def test_edits_move_clips_without_speech_towards_speech(
    folder: Path, data: Path
) -> None:
    """Noise has large values along the first direction, speech along the second."""
    sae = TopKSAE(TopKSAEConfig(d_in=4, d_sae=8, k=1))
    sae.W_dec.data = torch.cat([torch.eye(4), -torch.eye(4)])
    sae.W_enc.data = sae.W_dec.data.T.contiguous()
    sae.b_enc.data.zero_()
    sae.b_dec.data.zero_()
    study = small(folder, data, counts=(2,), points=POINTS[1:])
    noise, speech = (planted_states(study, place) for place in (0, 1))
    edits = Edits(study, noise, speech, lambda *_: sae)
    for condition in (
        Condition("mean difference", POINTS[1], alpha=1.0),
        Condition("latents", POINTS[1], "none", alpha=1.0, count=2),
    ):
        change = edits.of(condition)
        assert change is not None
        shift = change.shift(torch.zeros(1, 1, 4)).flatten()
        assert shift[0] < -1 and shift[1] > 1
        assert shift[2:].abs().max() < 0.1
        assert edits.norm(condition) == pytest.approx(float(shift.norm()))


def planted_states(study: WhisperStudy, place: int) -> States:
    generator = torch.Generator().manual_seed(place)
    values = 0.01 * torch.randn(1, 12, 5, 4, generator=generator)
    values[..., place] += 3
    clips = Clips(f"side{place}", cast("Any", None), tuple(range(12)))
    kept = Kept(values.numpy(), (1.0,) * 12)
    return States(clips, study.points, lambda: kept)


def test_tuning_reads_training_clips_alone(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = states.States.at

    def at(self: States, point: str, places: slice) -> Tensor:
        read.append(self.clips.name)
        return original(self, point, places)

    class Stops(Exception):
        pass

    def stop(*_: Any) -> Any:
        raise Stops

    monkeypatch.setattr(states.States, "at", at)
    monkeypatch.setattr(study_module, "heldout_conditions", stop)
    one = small(folder, data, seeds=(0,), points=POINTS[1:], alphas=(1.0,), counts=(2,))
    with pytest.raises(Stops):
        run_whisper_study(one, tmp_path / "out")
    assert set(read) == {"train-noise", "train-speech"}


def test_by_default_the_last_two_layers_are_edited(folder: Path) -> None:
    assert last_layers(str(folder)) == POINTS
    names = tuple(f"model.encoder.layers.{k}" for k in (2, 3))
    assert last_layers("whisper-tiny.en") == names
    with pytest.raises(InputError, match="expected a Whisper model"):
        last_layers("dinov2-small")


def test_held_out_conditions_are_each_measured_once(folder: Path, data: Path) -> None:
    study = small(folder, data)
    tuned = {
        (point, group): Tuned(
            2.0, 0 if group is None else 4, rate=0, wer=0, most_wer=0, tried=(0.5, 2.0)
        )
        for point in POINTS
        for group in (None, "none", "l2")
    }
    found = heldout_conditions(study, tuned)
    assert found[0] == Condition() and len(set(found)) == len(found)
    names = [one.name for one in found]
    assert len(set(names)) == len(names)
    assert "latents_layer1_l2-seed1_alpha2_n4" in names


def test_the_best_setting_keeps_words_right() -> None:
    tried = [
        (Condition("latents", alpha=1.0, count=10), 0.5, 0.02),
        (Condition("latents", alpha=2.0, count=10), 0.1, 0.04),
        (Condition("latents", alpha=3.0, count=10), 0.0, 0.40),
        (Condition("latents", alpha=1.5, count=25), 0.1, 0.04),
    ]
    best = best_setting(tried, most_wer=0.05)
    assert best == Tuned(1.5, 25, rate=0.1, wer=0.04, most_wer=0.05, tried=(1.5,))
    assert best.allowed
    lowest = best_setting(tried, most_wer=0.01)
    assert (lowest.alpha, lowest.count) == (1.0, 10) and not lowest.allowed
    assert lowest.tried == (1.0, 2.0, 3.0)


def rows(*given: tuple[str, bool, float, float]) -> list[dict[str, Any]]:
    names = ("text", "ends_first", "silence", "log_probability")
    return [
        {**dict(zip(names, one, strict=True)), "group": number}
        for number, one in enumerate(given)
    ]


def test_rates_follow_both_rules_and_the_thresholds() -> None:
    noise = rows(
        ("you", False, 0.9, -1.5), ("you", True, 0.1, -0.2), ("", False, 0.1, -0.2)
    )
    assert texts(noise, "allowed").tolist() == [1, 0, 0]
    assert texts(noise, "forbidden").tolist() == [1, 1, 0]
    assert texts(noise, "forbidden", thresholds=True).tolist() == [0, 1, 0]
    speech = [{"errors": 1, "words": 4, "ends_first": True, "group": 0}]
    speech += [{"errors": 2, "words": 6, "ends_first": False, "group": 1}]
    one = {"condition": {}, "norm": 1.0, "noise": noise, "speech": speech}
    arm = Arm("edit", (one, {**one, "noise": noise[::-1]}))
    assert arm.wer("forbidden", 0).value == pytest.approx(0.3)
    assert arm.wer("allowed", 0).value == pytest.approx(0.6)
    assert arm.hallucinated("allowed").tolist() == [0.5, 0, 0.5]
    assert arm.rate("allowed", 0).value == pytest.approx(1 / 3)
    assert rate_difference(arm, arm, "allowed", 0).value == 0


def planted(texts_of: list[str], groups: list[int]) -> dict[str, Any]:
    noise = [
        {"text": text, "ends_first": False, "group": group}
        for text, group in zip(texts_of, groups, strict=True)
    ]
    return {"condition": {}, "norm": 0.0, "noise": noise, "speech": []}


def test_takes_of_one_sound_are_resampled_together() -> None:
    said = ["you"] * 10 + [""] * 10
    alone = Arm("", (planted(said, list(range(20))),)).rate("allowed", 0)
    takes = Arm("", (planted(said, [n // 5 for n in range(20)]),)).rate("allowed", 0)
    assert alone.value == takes.value == 0.5 and (alone.n, takes.n) == (20, 4)
    widths = [high - low for low, high in (alone.ends, takes.ends)]
    assert widths[1] > 1.5 * widths[0]


def test_random_draws_are_resampled_as_well() -> None:
    groups = list(range(20))
    half = ["you"] * 10 + [""] * 10
    arm = Arm("", (planted(half, groups),))
    draws = Arm("", tuple(planted([text] * 20, groups) for text in ["you", ""] * 5))
    found = difference_from_draws(arm, draws, "allowed", 0)
    assert found.value == 0
    low, high = found.ends
    fixed = rate_difference(arm, draws, "allowed", 0)
    assert high - low > 1.3 * (fixed.ends[1] - fixed.ends[0])
    same = Arm("", (planted(half, groups),) * 10)
    assert difference_from_draws(arm, same, "allowed", 0).ends == (0, 0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"points": ("model.decoder.layers.0",)}, "no layer of Whisper's encoder"),
        ({"alphas": ()}, "one entry each"),
        ({"k": 0}, "k"),
    ],
)
def test_unusable_settings_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        WhisperStudy(**change)


def test_a_model_without_the_usual_configuration_is_refused(
    loaded: LoadedModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = loaded.module
    monkeypatch.setattr(model.generation_config, "no_timestamps_token_id", None)
    with pytest.raises(InputError, match="no_timestamps_token_id"):
        Decoding.of(model)


def test_transcripts_are_plain_data() -> None:
    assert dataclasses.asdict(Transcript((1, 2), True, 0.5, -0.1)) == {
        "tokens": (1, 2),
        "ends_first": True,
        "silence": 0.5,
        "log_probability": -0.1,
    }
