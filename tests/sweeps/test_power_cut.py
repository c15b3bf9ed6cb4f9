"""Training after a power cut: every state resumes, and the bits are those without a cut."""

from __future__ import annotations

import random
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typing_extensions import override

import saereg_plugin as sr
from saereg_plugin.owned_folder import MARK, open_owned, require_owned
from saereg_plugin.releases.hashes import verify_files
from saereg_plugin.releases.release import KIND, MANIFEST, read_release
from saereg_plugin.sweeps import Member, SweepConfig, expand, run_sweep
from saereg_plugin.sweeps.checkpoint import require_same_sweep
from saereg_plugin.sweeps.run import _usable_checkpoint
from tests.power_cut import Recording, State, recorder
from tests.sweeps.tiny import records_of

pytestmark = pytest.mark.slow

STEPS = 7
CHECKPOINT_EVERY = 2
STOPPED_AT = 5
RESUMED_TO_THE_END = 4
FEWEST = 200


@dataclass
class Watch:
    """What each step does besides training."""

    recording: Recording | None = None
    interrupt: bool = False
    steps: int = 0

    def step(self) -> None:
        """Note what must survive from here on: the step before is done, with its checkpoint."""
        if self.recording is not None:
            self.recording.done = self.steps // CHECKPOINT_EVERY * CHECKPOINT_EVERY
        self.steps += 1
        if self.interrupt and self.steps == STOPPED_AT:
            signal.raise_signal(signal.SIGINT)


WATCH = Watch()


@sr.register_regularizer("test_watched")
@dataclass(frozen=True, kw_only=True)
class Watched(sr.RegularizerConfig):
    """Tell the watch of each step."""

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> sr.Component:
        return WatchedModule(label=label)


class WatchedModule(sr.Component):
    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        WATCH.step()
        return sae_in


def sweep_on(model: Path) -> SweepConfig:
    return SweepConfig(
        model=str(model),
        hook_name="blocks.0.hook_resid_post",
        sae={"architecture": "regularized_topk", "d_sae": 32, "k": 4},
        groups={"plain": {}, "watched": {"regularizers": [{"name": "test_watched"}]}},
        seeds=[0],
        tokens=STEPS * 128,
        batch_size=128,
        context_size=64,
        prompts_per_pass=4,
        buffer_tokens=256,
        llm_dtype="float32",
        autocast=False,
        device="cpu",
        log_every=1,
        checkpoint_every=CHECKPOINT_EVERY,
    )


@dataclass(frozen=True)
class Recorded:
    """A sweep, what an uninterrupted run of it gives, and a recording of an interrupted one."""

    sweep: SweepConfig
    members: list[Member]
    whole: dict[str, Any]
    recording: Recording


def result_of(folder: Path) -> dict[str, Any]:
    """What must not depend on a cut: the hashes of all SAEs, and the training records."""
    entries = read_release(folder).entries
    for entry in entries:
        verify_files(folder, entry.path)
    return {
        "files": {entry.sae_id: dict(entry.files) for entry in entries},
        "records": records_of(folder),
    }


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Recorded:
    folder = tmp_path_factory.mktemp("power-cut")
    sweep = sweep_on(small_model)
    run_sweep(sweep, folder / "whole")
    disk = folder / "disk"
    disk.mkdir()
    with recorder(disk) as recording:
        WATCH.recording, WATCH.interrupt, WATCH.steps = recording, True, 0
        assert run_sweep(sweep, disk / "out").release is None
        assert WATCH.steps == STOPPED_AT
        recording.done = STOPPED_AT
        WATCH.recording = None
        assert run_sweep(sweep, disk / "out").release is not None
        recording.done = STEPS
    return Recorded(sweep, expand(sweep), result_of(folder / "whole"), recording)


def resumed_step(recorded: Recorded, folder: Path) -> int:
    """What the command would do first: the step it resumes at, or ``STEPS`` if finished."""
    if not folder.exists():
        return 0
    require_owned(folder, KIND)
    require_same_sweep(recorded.sweep, folder)
    if (folder / MANIFEST).is_file():
        assert (folder / MARK).is_file()
        assert result_of(folder) == recorded.whole
        return STEPS
    owned = open_owned(folder, KIND)
    found = _usable_checkpoint(recorded.sweep, recorded.members, owned)
    return 0 if found is None else found.step


def test_every_state_resumes_from_all_that_was_on_the_disk(
    tmp_path: Path, recorded: Recorded
) -> None:
    steps: list[int] = []
    states: list[State] = []
    for state in recorded.recording.states(seed=0, samples=1):
        place = state.write(tmp_path / "state")
        found = resumed_step(recorded, place / "out")
        assert found >= state.done, state.tree.keys()
        shutil.rmtree(place)
        steps.append(found)
        states.append(state)
    assert len(states) >= FEWEST
    assert set(steps) == {0, 2, 4, STOPPED_AT, 6, STEPS}
    chosen = random.Random(0).sample(range(len(states)), RESUMED_TO_THE_END)
    # also one of every step
    chosen += [steps.index(step) for step in sorted(set(steps))]
    for number in sorted(set(chosen)):
        folder = states[number].write(tmp_path / f"again{number}") / "out"
        assert run_sweep(recorded.sweep, folder).release is not None
        assert result_of(folder) == recorded.whole
        names = {path.name for path in folder.iterdir()}
        assert names <= {
            *(".saereg.json", ".saereg.lock", "README.md", "records"),
            *("release.yaml", "saes", "sweep.json"),
        }
