"""Two photos and real sounds, shared by the tests of modules and of inputs."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from saereg_plugin.sources.inputs import InputData, open_data


@pytest.fixture(scope="session")
def photos() -> list[Any]:
    """A temple in China and a flower, 640 x 427 pixels, as scikit-learn ships them."""
    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


@pytest.fixture(scope="session")
def speech() -> InputData:
    """The embedded prompts, both sides."""
    return open_data("speech")
