"""Names of an SAE on Neuronpedia."""

from __future__ import annotations

import re
from dataclasses import dataclass

from saereg_plugin.errors import InputError

_MODEL = re.compile(r"[a-z][a-z0-9.-]*[a-z0-9]")
_LONGEST_MODEL = 32
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass(frozen=True)
class NeuronpediaId:
    """
    An SAE as Neuronpedia names it: a source of a model, in a set of its own.

    ``str()`` is what SAELens keeps as ``metadata.neuronpedia_id``.
    """

    model: str
    layer: int
    set_name: str

    @property
    def source(self) -> str:
        """Layer and set."""
        return f"{self.layer}-{self.set_name}"

    def __str__(self) -> str:
        return f"{self.model}/{self.source}"


def neuronpedia_id(
    release: str, sae_id: str, *, model: str, hook_name: str
) -> NeuronpediaId:
    """
    Return the names of an SAE: of the model's name, the hook's layer, release and SAE id.

    >>> str(neuronpedia_id("lab/run", "l2-0.006-seed0", model="EleutherAI/Pythia-70m",
    ...                    hook_name="blocks.2.hook_resid_post"))
    'pythia-70m/2-lab-run-l2-0-006-seed0'

    Raises:
        InputError: if Neuronpedia does not take the model's name.
    """
    layer = _LAYER.search(hook_name)
    name = _joined(f"{release}-{sae_id}", r"[^a-z0-9]+")
    set_name = name if name[:1].isalpha() else f"sae-{name}".rstrip("-")
    return NeuronpediaId(model_id(model), int(layer[1]) if layer else 0, set_name)


def model_id(name: str) -> str:
    """
    Return a model's name on Neuronpedia: the last part of its path in small letters.

    Raises:
        InputError: if that is not 2 to 32 letters, digits, hyphens and periods.
    """
    found = _joined(name.rstrip("/").rpartition("/")[2], r"[^a-z0-9.]+")
    found = re.sub(r"\.{2,}", ".", found).strip(".-")
    if len(found) > _LONGEST_MODEL or _MODEL.fullmatch(found) is None:
        raise InputError(
            f"Neuronpedia takes no model named {found!r} (from {name!r}); expected 2 to "
            f"{_LONGEST_MODEL} small letters, digits, hyphens and periods, a letter first. Name "
            "one with --model-id."
        )
    return found


def _joined(text: str, others: str) -> str:
    """Return text in small letters with one hyphen for each run of other characters."""
    return re.sub(others, "-", text.lower()).strip("-")
