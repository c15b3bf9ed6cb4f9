"""Arrays of activations as a source: numpy, torch, files."""

from saereg_plugin.activations.arrays.source import ArraysConfig as ArraysConfig
from saereg_plugin.activations.arrays.source import ArraySource as ArraySource
from saereg_plugin.activations.arrays.source import describe_arrays as describe_arrays
from saereg_plugin.activations.arrays.source import open_arrays as open_arrays
