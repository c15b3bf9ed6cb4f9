"""Images and audio clips that modules read."""

from saereg_plugin.sources.inputs.data import Clip, InputData, Split
from saereg_plugin.sources.inputs.opening import (
    EMBEDDED,
    class_labels,
    data_from_dataset,
    open_data,
)
from saereg_plugin.sources.inputs.sound import resampled

__all__ = [
    "EMBEDDED",
    "Clip",
    "InputData",
    "Split",
    "class_labels",
    "data_from_dataset",
    "open_data",
    "resampled",
]
