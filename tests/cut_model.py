"""The embedded model's first four layers, for tests that read no later layer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from saereg_plugin.sources import models


@cache
def _parent() -> TemporaryDirectory[str]:
    """A folder that is removed when the process ends."""
    return TemporaryDirectory(prefix="saereg-tests-")


@cache
def cut_model() -> Path:
    """
    Return the folder of the first four layers, made once per process.

    Activations up to layer 3 are those of the whole model, bit for bit. TransformerLens
    loads four layers five times faster than thirty.
    """
    whole = models.ensure("smollm2-135m-instruct")
    folder = Path(_parent().name) / "smollm2-of-four-layers"
    config = AutoConfig.from_pretrained(whole, num_hidden_layers=4)
    cut = AutoModelForCausalLM.from_pretrained(whole, config=config)
    cut.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return folder
