"""Chosen clips and the encoder's states on them, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration

from eval_recipes.studies.framework.study_folder import read_figures, write_figures
from eval_recipes.studies.whisper.settings import WhisperStudy, layer_of
from eval_recipes.studies.whisper.transcripts import Words
from saereg_plugin.activations.extraction import outputs_at
from saereg_plugin.activations.passes import Pass
from saereg_plugin.errors import InputError
from saereg_plugin.files import atomic_path
from saereg_plugin.sources.inputs import Clip, InputData, open_data
from saereg_plugin.sources.modules import LoadedModule

Side = Literal["train", "heldout"]

FEWEST = 4
"""Fewest clips of each kind on a side."""


@dataclass(frozen=True)
class Clips:
    """
    Clips of one kind on one side.

    Attributes:
        name: of their files.
        data: what they are read from.
        numbers: numbers of the chosen clips in the data.
    """

    name: str
    data: InputData
    numbers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, places: Sequence[int]) -> list[Clip]:
        """Return some of the clips."""
        return [self.data[self.numbers[place]] for place in places]

    @property
    def groups(self) -> list[int]:
        """One number per clip; clips of one number are takes of one thing."""
        found = getattr(self.data, "groups", None)
        if found is None:
            return list(self.numbers)
        return [int(found[number]) for number in self.numbers]

    def identity(self) -> Any:
        """Return plain JSON that changes with the clips."""
        return [self.name, self.data.identity(), list(self.numbers)]


def choose_speech(study: WhisperStudy, side: Side, words: Words) -> Clips:
    """
    Return the prompts of one side: of a set number of words, drawn at random.

    Raises:
        InputError: if fewer than ``FEWEST`` have that many words.
    """
    data = open_data(study.speech, side)
    least, most = study.words
    texts = [(number, data[number].text or "") for number in range(len(data))]
    fit = [n for n, text in texts if least <= len(words.words(text)) <= most]
    wanted = study.training_speech if side == "train" else study.heldout_speech
    return _chosen(f"{side}-speech", data, fit, wanted, study)


def choose_noise(study: WhisperStudy, side: Side) -> Clips:
    """Return clips without speech of one side; raises InputError for too few."""
    data = open_data(study.noise, side)
    everything = list(range(len(data)))
    return _chosen(f"{side}-noise", data, everything, study.most_noise, study)


def _chosen(
    name: str, data: InputData, numbers: list[int], wanted: int, study: WhisperStudy
) -> Clips:
    if len(numbers) < FEWEST:
        raise InputError(
            f"Data {data.name!r} has {len(numbers)} clips that can be used; expected {FEWEST} "
            "or more. Give more, or change the bounds on their words."
        )
    order = np.random.default_rng(study.seed).permutation(len(numbers))[:wanted]
    # in the order drawn, so that the first clips are a random sample
    return Clips(name, data, tuple(numbers[place] for place in order))


class Kept(NamedTuple):
    """
    States on disk.

    Attributes:
        values: float32 (points, clips, frames, d_in).
        share: part of each clip's window that is sound, (clips,).
    """

    values: np.ndarray[Any, np.dtype[np.float32]]
    share: tuple[float, ...]


@dataclass(frozen=True)
class States:
    """
    Outputs of some of the encoder's layers on clips, made when they are first read.

    Attributes:
        clips: the clips.
        points: the layers, by name.
        make: returns the states.
    """

    clips: Clips
    points: tuple[str, ...]
    make: Callable[[], Kept]

    @cached_property
    def kept(self) -> Kept:
        """The states."""
        return self.make()

    def at(self, point: str, places: slice) -> Tensor:
        """Return the states of some clips (clips, frames, d_in)."""
        return torch.from_numpy(
            self.kept.values[self.points.index(point), places].copy()
        )

    def passes(self, point: str, *, batch: int = 8) -> Iterator[Pass]:
        """Yield passes over the clips; frames behind a clip's end do not count."""
        for start in range(0, len(self.clips), batch):
            places = slice(start, min(start + batch, len(self.clips)))
            found = self.at(point, places)
            n = found.shape[1]
            last = (torch.tensor(self.kept.share[places]) * n).ceil().clamp(1, n)
            keep = torch.arange(n) < last[:, None]
            yield Pass({point: found}, keep, torch.arange(places.start, places.stop))


def state_files(name: str) -> tuple[str, str]:
    """Return the files of the states of clips, relative to the study's folder."""
    return f"states/{name}.npy", f"states/{name}.json"


def kept_states(
    loaded: LoadedModule,
    clips: Clips,
    points: tuple[str, ...],
    out: Path,
    *,
    identity: Any,
    progress: Callable[[str], None],
) -> Kept:
    """
    Return the encoder's states on clips, from an earlier run or computed.

    Files of other clips, points or weights (``identity``) are written anew.
    """
    values, facts = (out / name for name in state_files(clips.name))
    key = hashlib.sha256(
        json.dumps([identity, clips.identity(), points]).encode()
    ).hexdigest()
    kept = read_figures(facts, key)
    if kept is None or not values.is_file():
        progress(f"Encoding {len(clips)} clips: {clips.name}.")
        with atomic_path(values) as temporary:
            kept = {"share": _write(loaded, clips, points, temporary)}
        write_figures(facts, key, kept)
    return Kept(np.load(values, mmap_mode="r"), tuple(kept["share"]))


def _write(
    loaded: LoadedModule, clips: Clips, points: Sequence[str], target: Path
) -> list[float]:
    """Write the states of all clips, 4 at a time; return each clip's share of sound."""
    shares: list[float] = []
    written: Any = None
    for start in range(0, len(clips), 4):
        places = range(start, min(start + 4, len(clips)))
        found, share = encode(loaded, clips.read(places), points)
        if written is None:
            _, _, frames, d_in = found.shape
            shape = (len(points), len(clips), frames, d_in)
            written = np.lib.format.open_memmap(
                target, mode="w+", dtype=np.float32, shape=shape
            )
        written[:, places.start : places.stop] = found.numpy()
        shares += share.tolist()
    written.flush()
    return shares


@torch.no_grad()
def encode(
    loaded: LoadedModule, clips: Sequence[Clip], points: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Return states (points, clips, frames, d_in) and each clip's share of sound (clips,)."""
    prepared = loaded.prepare(clips)
    model: Any = loaded.module
    found = outputs_at(model, points, lambda: model.get_encoder()(**prepared.kwargs))
    assert prepared.share is not None
    states = torch.stack([found[point] for point in points])
    return states.float().cpu(), prepared.share.cpu()


@torch.no_grad()
def finish_encoder(
    model: WhisperForConditionalGeneration, states: Tensor, point: str
) -> Tensor:
    """Return the encoder's output from the output of one of its layers, as in a whole pass."""
    encoder: Any = model.get_encoder()
    for layer in encoder.layers[layer_of(point) + 1 :]:
        output = layer(states, None)
        states = output[0] if isinstance(output, tuple) else output
    return encoder.layer_norm(states)
