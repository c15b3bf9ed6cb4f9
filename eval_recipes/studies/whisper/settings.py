"""Settings of the Whisper study, its training and the published figures."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import Field

from saereg_plugin.checks import checked_dataclass
from saereg_plugin.errors import InputError
from saereg_plugin.presets import weight_regularized_topk
from saereg_plugin.sweeps import SweepConfig

STUDY = ("whisper", "small")
"""Name and scale of the study, as its folder is marked."""

GROUPS = ("none", "l2")
"""SAEs without a penalty and with L2 on both weight matrices."""

PUBLISHED = (
    ("whisper-small", "no edit", "72.63 %", "-"),
    ("whisper-small", "SAE, layer 12, alpha 3, 25 latents", "14.11 %", "-"),
    ("whisper-large-v3", "no edit", "86.88 %", "2.11 %"),
    ("whisper-large-v3", "mean difference", "82.37 %", "-"),
    ("whisper-large-v3", "SAE, layers 26 and 32, alpha 3.5", "27.33 %", "3.70 %"),
)
"""arXiv 2606.07473: model, edit, hallucination rate, word error rate on clean speech."""

_POINT = re.compile(r"model\.encoder\.layers\.(\d+)")

Positive = Annotated[int, Field(ge=1)]


@checked_dataclass
class WhisperStudy:
    """
    Settings of the study.

    Raises:
        InputError: for unusable values.
    """

    model: str = "whisper-tiny.en"
    """A Whisper model by name or folder."""
    speech: str = "speech"
    """Clips with transcripts."""
    noise: str = "non-speech"
    """Clips without speech."""
    points: tuple[str, ...] = ()
    """Layers of the encoder, the last one at the end; by default the model's last two."""
    seeds: tuple[int, ...] = (0, 1, 2)
    expansion: Positive = 8
    """Latents per dimension of the encoder."""
    k: Positive = 50
    """Active latents of a frame, on average over a batch."""
    frames: Positive = 245_760
    """Frames of each SAE's training."""
    batch_size: Positive = 1024
    """Frames of an optimiser step."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    alphas: tuple[float, ...] = (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 4.0)
    """Strengths, in typical magnitudes of latents or in mean differences, ascending."""
    counts: tuple[int, ...] = (10, 25, 50)
    """Numbers of edited latents."""
    draws: Positive = 10
    """Random controls of each kind."""
    words: tuple[int, int] = (4, 12)
    """Fewest and most words of a prompt."""
    training_speech: Positive = 60
    """Prompts behind mean difference and the choice of latents."""
    tuning_clips: Positive = 24
    """Clips of each kind, of these, that choose strength and number of latents."""
    heldout_speech: Positive = 60
    """Prompts behind word error rates."""
    most_noise: Positive = 120
    """Most clips without speech on either side."""
    speech_tokens: Positive = 40
    """Most new tokens of a prompt."""
    noise_tokens: Positive = 32
    """Most new tokens of a clip without speech."""
    allowed_wer: Annotated[float, Field(ge=0)] = 0.02
    """Rise of the word error rate on the tuning prompts that a setting may cost."""
    hopeless_wer: Annotated[float, Field(ge=0)] = 0.5
    """Word error rate on the tuning prompts from which no larger strength is tried."""
    batch_clips: Positive = 16
    """Clips in one pass of the decoder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice of clips, of random controls and of the bootstrap."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        for point in self.points:
            layer_of(point)
        if not (self.seeds and self.alphas and self.counts):
            raise InputError(
                "seeds, alphas and counts need one entry each or more. Leave a setting out for "
                "its default."
            )

    @property
    def last(self) -> str:
        """The last of the points; they are known."""
        return self.points[-1]


def layer_of(point: str) -> int:
    """Return the encoder's layer that a point names; raises InputError for another name."""
    match = _POINT.fullmatch(point)
    if match is None:
        raise InputError(
            f"Point {point!r} is no layer of Whisper's encoder; expected a name such as "
            "'model.encoder.layers.3'."
        )
    return int(match[1])


def sweep_of(study: WhisperStudy, d_in: int) -> SweepConfig:
    """Return the training of all SAEs: BatchTopK at every point, group and seed."""
    steps = study.frames // study.batch_size
    groups = {name: _fields(study, name, d_in, steps) for name in GROUPS}
    return SweepConfig(
        sae={"architecture": "regularized_batchtopk"},
        groups=groups,
        seeds=study.seeds,
        hook_name=list(study.points),
        tokens=study.frames,
        batch_size=study.batch_size,
        buffer_tokens=8 * study.batch_size,
        lr=study.lr,
        dead_feature_window=max(1, steps // 5),
        checkpoint_every=max(1, steps // 6),
        device=study.device,
        llm_dtype="float32",
        autocast=False,
        seed=study.seed,
    )


def _fields(study: WhisperStudy, group: str, d_in: int, steps: int) -> dict[str, Any]:
    """Return the fields of a group: as in arXiv 2603.04198, but for BatchTopK and all frames."""
    preset = weight_regularized_topk(
        k=study.k,
        penalty="l2" if group == "l2" else "none",
        k_annealing_steps=max(1, steps // 100),
    )
    fields = preset.sae_fields(d_in=d_in, d_sae=study.expansion * d_in)
    left_out = ("architecture", "d_in", "max_norm_multiple")
    return {name: value for name, value in fields.items() if name not in left_out}
