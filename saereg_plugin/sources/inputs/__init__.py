"""Images and audio clips that modules read."""

from saereg_plugin.sources.inputs.data import Clip, InputData, Split
from saereg_plugin.sources.inputs.opening import open_data

__all__ = ["Clip", "InputData", "Split", "open_data"]
