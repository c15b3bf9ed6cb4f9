"""Clips out of audio files, and other sampling rates."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from saereg_plugin.errors import InputError
from saereg_plugin.sources.inputs.data import Clip


def read_clip(
    file: Path | IO[bytes] | bytes, name: str, *, text: str | None = None
) -> Clip:
    """
    Read an audio file as a clip in mono, the mean of its channels.

    Args:
        file: a path, an open file, or the content of one.
        name: what errors call it.
        text: what is said in it.

    Raises:
        InputError: if it is no audio file, or is empty.
    """
    import soundfile

    source: Any = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        read = soundfile.read(source, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{name!r} cannot be read as audio ({error}); expected WAV, FLAC, OGG or MP3. Remove "
            "the file or save it again."
        ) from error
    samples, rate = cast("tuple[npt.NDArray[np.float32], int]", read)
    if not len(samples) or not np.isfinite(samples).all():
        raise InputError(
            f"{name!r} has no sound, or samples that are no numbers. Remove the file or save it "
            "again."
        )
    return Clip(np.ascontiguousarray(samples.mean(axis=1)), rate, text)


def resampled(clip: Clip, rate: int) -> npt.NDArray[np.float32]:
    """Return a clip's waveform at another number of samples per second."""
    if clip.rate == rate:
        return clip.waveform
    from scipy.signal import resample_poly

    shared = math.gcd(clip.rate, rate)
    found = resample_poly(clip.waveform, rate // shared, clip.rate // shared)
    return np.asarray(found, dtype=np.float32)
