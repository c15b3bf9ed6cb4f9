"""The embedded model's first four layers, for tests that read no later layer."""

from __future__ import annotations

import atexit
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from saereg_plugin.sources import models


@cache
def _parent() -> Path:
    """A folder that is removed when the process ends; forks of the process leave it."""
    folder = Path(mkdtemp(prefix="saereg-tests-"))
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder)


@cache
def cut_model(logit_scale: float = 1.0) -> Path:
    """
    Return the folder of the first four layers, made once per process.

    Activations up to layer 3 are those of the whole model, bit for bit. TransformerLens
    loads four layers five times faster than thirty. Without the layers that follow, logits
    are so large that probabilities are 0; where these are read, ``logit_scale`` shrinks them.
    """
    whole = models.ensure("smollm2-135m-instruct")
    folder = _parent() / f"smollm2-of-four-layers-{logit_scale:g}"
    config = AutoConfig.from_pretrained(whole, num_hidden_layers=4)
    cut = AutoModelForCausalLM.from_pretrained(whole, config=config)
    cut.model.norm.weight.data *= logit_scale
    cut.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)
    return folder
