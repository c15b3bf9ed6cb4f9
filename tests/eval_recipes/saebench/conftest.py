"""The cut model for all of SAEBench's evaluations, which read early layers."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformer_lens import HookedTransformer

from saereg_plugin.sources import models


@pytest.fixture(scope="session")
def model_name(cut_model_folder: Path) -> str:
    return str(cut_model_folder)


@pytest.fixture(scope="session")
def model(model_name: str) -> HookedTransformer:
    return models.load(model_name).eval()
