"""The Whisper study: training, choice of strengths, held-out clips, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sae_lens import SAE
from transformers import WhisperForConditionalGeneration

from eval_recipes.studies.framework.study_folder import mark_folder, study_folder
from eval_recipes.studies.whisper.conditions import Edits, heldout_conditions
from eval_recipes.studies.whisper.measurement import (
    Measurement,
    Store,
    measure_all,
    tune,
)
from eval_recipes.studies.whisper.report import FILES, write_report
from eval_recipes.studies.whisper.settings import (
    GROUPS,
    STUDY,
    WhisperStudy,
    layer_of,
    sweep_of,
)
from eval_recipes.studies.whisper.states import (
    Clips,
    Kept,
    States,
    choose_noise,
    choose_speech,
    kept_states,
    state_files,
)
from eval_recipes.studies.whisper.transcripts import Decoding, Words
from eval_recipes.studies.whisper.verdicts import Measured
from saereg_plugin import machine
from saereg_plugin.activations.cache import write_cache
from saereg_plugin.activations.opening import describe_source, open_source
from saereg_plugin.activations.source import InputSource
from saereg_plugin.errors import InputError
from saereg_plugin.owned_folder import OwnedFolder
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Release
from saereg_plugin.sources.modules import (
    LoadedModule,
    load_module,
    module_facts,
    module_identity,
)
from saereg_plugin.sweeps import run_sweep
from saereg_plugin.sweeps.config import sae_id

Progress = Callable[[str], None]

_DECIDE = ("seed", "speech_tokens", "noise_tokens", "batch_clips", "device")
"""
Settings that decide every figure.

Those of training are in the SAEs' files, those of the choice of clips in the clips.
"""


@dataclass(frozen=True)
class WhisperOutcome:
    """The study's table; ``table`` is None if training was interrupted."""

    table: Path | None
    stopped: tuple[str, ...] = ()
    """SAEs taken out of training, one line each."""


def run_whisper_study(
    study: WhisperStudy, out: Path, *, progress: Progress = lambda _: None
) -> WhisperOutcome:
    """
    Run the study into ``out`` and write its report there; an interrupted study resumes.

    ``out/cache`` holds activations of the training clips, ``out/release`` the SAEs,
    ``out/states`` states of the encoder (removed at the end), ``out/figures`` what was measured,
    one file per condition.

    Raises:
        InputError: if settings, model or data cannot be used, before anything is trained, or
            the folder holds the user's files, another study, or is in use.
    """
    machine.require_extra("audio", "`saereg-bench study whisper`")
    study = dataclasses.replace(
        study,
        device=machine.resolve_device(study.device),
        points=study.points or last_layers(study.model),
    )
    with study_folder(out, *STUDY, files=FILES) as owned:
        d_in = _d_in(study)
        loaded = load_module(study.model, device=study.device)
        words = Words(str(loaded.module.name_or_path))
        clips = _choose(study, words)
        mark_folder(out, *STUDY)
        release, stopped = _trained(study, d_in, out, progress)
        if release is None:
            return WhisperOutcome(None, tuple(stopped))
        work = _Work(study, out, owned, loaded, words, clips, release, progress)
        return WhisperOutcome(work.run(), tuple(stopped))


def last_layers(model: str) -> tuple[str, ...]:
    """
    Return the points of the last two layers of a Whisper model's encoder; no weights are read.

    Raises:
        InputError: for another kind of model.
    """
    module = module_facts(model).module
    if not isinstance(module, WhisperForConditionalGeneration):
        raise InputError(
            f"Model {model!r} is a {type(module).__name__}; expected a Whisper model, such as "
            "'whisper-tiny.en'."
        )
    n = int(module.config.encoder_layers)
    return tuple(f"model.encoder.layers.{k}" for k in range(max(0, n - 2), n))


def _d_in(study: WhisperStudy) -> int:
    """Return the encoder's width; the model does not run."""
    facts = describe_source(_source(study))
    return facts.points[study.last]


def _source(study: WhisperStudy) -> dict[str, Any]:
    return {
        "kind": "module",
        "model": study.model,
        "point": list(study.points),
        "rows": "frames",
        "data": [study.speech, study.noise],
        "inputs_per_pass": 4,
    }


def _choose(study: WhisperStudy, words: Words) -> dict[str, Clips]:
    """Return the clips of the study by name."""
    found = [
        choose
        for side in ("train", "heldout")
        for choose in (choose_noise(study, side), choose_speech(study, side, words))
    ]
    return {one.name: one for one in found}


def _trained(
    study: WhisperStudy, d_in: int, out: Path, progress: Progress
) -> tuple[Release | None, list[str]]:
    """Train all SAEs on a cache of the training clips' frames."""
    cache = out / "cache"
    source = open_source(_source(study), device=study.device)
    assert isinstance(source, InputSource)
    progress("Caching the activations of the training clips.")
    index = write_cache(source, cache)
    if index.inputs < source.n_inputs:
        return None, []
    sweep = dataclasses.replace(
        sweep_of(study, d_in), source={"kind": "cache", "path": str(cache)}
    )
    result = run_sweep(sweep, out / "release", name="whisper", progress=progress)
    if result.release is not None and result.stopped:
        raise InputError(
            f"SAEs were taken out of training ({'; '.join(result.stopped)}), and the study "
            "compares all of them. Call run_whisper_study with a lower lr, into another folder."
        )
    if result.release is None:
        return None, result.stopped
    return register_release(out / "release"), result.stopped


@dataclass(frozen=True)
class _Work:
    """One call of the study after training."""

    study: WhisperStudy
    out: Path
    owned: OwnedFolder
    loaded: LoadedModule
    words: Words
    clips: dict[str, Clips]
    release: Release
    progress: Progress

    def run(self) -> Path:
        states = {name: self._states(clips) for name, clips in self.clips.items()}
        training = (states["train-noise"], states["train-speech"])
        heldout = (states["heldout-noise"], states["heldout-speech"])
        model: Any = self.loaded.module
        edits = Edits(self.study, *training, self._sae)
        measurement = Measurement(
            self.study, model, Decoding.of(model), self.words, edits
        )
        store = Store(self.owned, self._identity())
        tuned = tune(measurement, *training, store, self.progress)
        conditions = heldout_conditions(self.study, tuned)
        figures = measure_all(measurement, conditions, *heldout, store, self.progress)
        saes = self._saes(measurement, heldout[1], store)
        table = write_report(Measured(self.study, tuned, figures, saes), self.out)
        self._remove_states()
        return table

    def _saes(
        self, measurement: Measurement, speech: States, store: Store
    ) -> list[dict[str, Any]]:
        """Return separation and reconstruction of every SAE."""
        return [
            store.get(
                f"sae_layer{layer_of(point)}_{group}-seed{seed}",
                [point, group, seed],
                partial(measurement.sae_figures, point, group, seed, speech),
            )
            for point in self.study.points
            for group in GROUPS
            for seed in self.study.seeds
        ]

    def _sae(self, point: str, group: str, seed: int) -> SAE[Any]:
        """Return the SAE of a point, group and seed."""
        several = len(self.study.points) > 1
        return self.release.load(sae_id(f"{group}-{point}" if several else group, seed))

    def _states(self, clips: Clips) -> States:
        def make() -> Kept:
            self.owned.claim(state_files(clips.name))
            return kept_states(
                self.loaded,
                clips,
                self.study.points,
                self.out,
                identity=module_identity(self.study.model),
                progress=self.progress,
            )

        return States(clips, self.study.points, make)

    def _identity(self) -> Any:
        """Return what decides every figure; a condition's own settings are in its name."""
        return [
            {name: getattr(self.study, name) for name in _DECIDE},
            max(self.study.counts),
            module_identity(self.study.model),
            {entry.sae_id: dict(entry.files) for entry in self.release.entries},
            [clips.identity() for clips in self.clips.values()],
            machine.versions(),
        ]

    def _remove_states(self) -> None:
        names = [name for clips in self.clips for name in state_files(clips)]
        self.owned.remove(names)
