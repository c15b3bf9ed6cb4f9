"""Clips by name and out of folders; rates, transcripts, sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs import Clip, InputData, open_data, resampled
from saereg_plugin.sources.inputs.embedded_sound import origin, sentence, transcripts
from saereg_plugin.sources.inputs.listed import ListedData


def test_no_sentence_is_on_both_sides(speech: InputData) -> None:
    train, heldout = open_data("speech", "train"), open_data("speech", "heldout")
    assert len(train) + len(heldout) == len(speech) == 311
    assert abs(len(train) - len(heldout)) < 60
    said = [
        {sentence(data[n].text) for n in range(len(data))} for data in (train, heldout)
    ]
    assert said[0] & said[1] == set()


def test_speech_has_sound_and_transcripts(speech: InputData) -> None:
    clips = [speech[n] for n in range(len(speech))]
    assert {clip.rate for clip in clips} == {8000}
    assert max(clip.seconds for clip in clips) <= 30
    assert min(len(sentence(clip.text).split()) for clip in clips) == 2
    assert all(clip.waveform.dtype == np.float32 for clip in clips)
    assert max(float(np.abs(clip.waveform).max()) for clip in clips) <= 1
    assert min(float(clip.waveform.std()) for clip in clips) > 1e-3


def test_takes_of_one_sound_are_on_one_side() -> None:
    train, heldout = (
        open_data("non-speech", "train"),
        open_data("non-speech", "heldout"),
    )
    assert len(train) + len(heldout) == 206
    assert abs(len(train) - len(heldout)) < 60
    origins = [
        {origin(data.title(n)) for n in range(len(data))} for data in (train, heldout)
    ]
    assert origins[0] & origins[1] == set()
    names = [origin(heldout.title(n)) for n in range(len(heldout))]
    assert isinstance(heldout, ListedData) and heldout.groups is not None
    groups = heldout.groups.tolist()
    # the same number where the same origin, and nowhere else
    assert len(set(zip(names, groups, strict=True))) == len(set(names))
    assert len(set(groups)) == len(set(names))
    clip = heldout[0]
    assert (clip.waveform.ndim, clip.text) == (1, None)


def test_transcripts_leave_notes_out() -> None:
    listed = (
        "; Core sounds\n\nbeep: [a tone]\nsilence/1: (1 second of silence)\n"
        "join: <beep ascending>\ndot: dot [.]\nmulti: ... for ...\nrec: say it: now (simple"
    )
    assert transcripts(listed) == {"dot": "dot", "multi": "for", "rec": "say it: now"}


def test_resampling_keeps_a_tone() -> None:
    seconds = np.arange(8000) / 8000
    clip = Clip(np.sin(2 * np.pi * 440 * seconds).astype(np.float32), 8000)
    found = resampled(clip, 16_000)
    assert found.dtype == np.float32
    assert len(found) == 16_000
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(found - wanted)[200:-200].max() < 2e-3
    assert resampled(clip, 8000) is clip.waveform


def save(path: Path, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.linspace(-0.5, 0.5, 100)[:, None].repeat(channels, axis=1)
    soundfile.write(path, wave, 4000)


def test_a_folder_of_audio_has_transcripts(tmp_path: Path) -> None:
    for name in ("a.wav", "b.flac", "in/c.wav", "in/d.ogg"):
        save(tmp_path / name, channels=2)
    (tmp_path / "a.txt").write_text("first words\n")
    (tmp_path / "in" / "metadata.csv").write_text("file_name,text\nc.wav,other words\n")
    data = open_data(str(tmp_path))
    assert [data[n].text for n in range(4)] == [
        "first words",
        None,
        "other words",
        None,
    ]
    assert [data.title(n) for n in range(2)] == ["a.wav", "b.flac"]
    assert data[0].waveform.shape == (100,)
    assert data[0].rate == 4000
    assert data.class_names == ["", "in"]


def test_unreadable_sound_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"bad\.wav' cannot be read as audio"):
        open_data(str(tmp_path))
    soundfile.write(tmp_path / "bad.wav", np.zeros(0), 4000)
    with pytest.raises(InputError, match="has no sound"):
        open_data(str(tmp_path))[0]
    save(tmp_path / "bad.wav")
    (tmp_path / "metadata.csv").write_text("file,words\nbad.wav,what\n")
    with pytest.raises(InputError, match="expected 'file_name' and"):
        open_data(str(tmp_path))
