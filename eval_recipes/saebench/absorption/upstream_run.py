"""Run of upstream's absorption eval on one SAE, in private folders."""

from __future__ import annotations

import copy
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sae_bench.evals.absorption import main as upstream_main
from sae_bench.evals.absorption.eval_config import AbsorptionEvalConfig
from sae_bench.evals.absorption.eval_output import AbsorptionEvalOutput
from sae_lens import SAE
from torch import Tensor, nn
from typing_extensions import override

from eval_recipes.results.subject import Subject
from eval_recipes.running.artifacts import ArtifactFolder
from eval_recipes.saebench.absorption.options import EVAL
from eval_recipes.saebench.absorption.probes import (
    DATA,
    Memory,
    quiet,
    stopping_after,
    stored_probes,
    upstream_words,
)
from eval_recipes.saebench.upstream import (
    UpstreamError,
    all_patched,
    read_upstream,
    upstream,
)
from saereg_plugin.sources.models import LanguageModel

_WORDS_AT_ONCE = 512


@dataclass(frozen=True)
class Given:
    """Upstream's inputs other than the SAE."""

    config: AbsorptionEvalConfig
    """Its settings, with the seed in use."""

    model: LanguageModel
    layer: int
    device: str
    words: list[str]

    probes: ArtifactFolder
    """The first-letter probes (``probes.ensure_probes``)."""

    memory: Memory
    """Activations on earlier prompts; new ones are added."""


class Scored(NamedTuple):
    """Result of one run."""

    output: AbsorptionEvalOutput
    """As upstream wrote it."""

    probe_f1: dict[str, float]
    """F1 of each letter's probe on the model's activations."""


def refuse_non_finite(given: Given, subject: Subject, sae: SAE[Any]) -> None:
    """
    Refuse an SAE with a NaN or infinity in its decoder or in its latents on the test words.

    Upstream takes NaN for "not active", so a broken SAE would get the best score.

    Raises:
        UpstreamError: naming the SAE.
    """
    with np.load(given.probes.require(DATA), allow_pickle=False) as data:
        words = torch.from_numpy(data["X_test"])
    with torch.no_grad():
        finite = bool(sae.W_dec.isfinite().all()) and all(
            bool(sae.encode(rows.to(sae.device, sae.dtype)).isfinite().all())
            for rows in words.split(_WORDS_AT_ONCE)
        )
    if not finite:
        raise UpstreamError(
            f"{EVAL} of SAE {subject.sae_id!r} failed: its decoder or its latents hold NaN or "
            "infinity."
        )


def score(given: Given, subject: Subject, sae: SAE[Any]) -> Scored:
    """
    Return upstream's scores of an SAE.

    Raises:
        UpstreamError: if upstream failed or left no result.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            upstream(
                EVAL, subject, sae, given.model, seed=given.config.random_seed
            ) as captured,
            quiet(),
            upstream_words(given.words),
            stopping_after(given.model, given.layer, given.memory),
            stored_probes(given.probes, given.model, given.layer, folder / "probes"),
            private_folders(folder, folder / "probes"),
        ):
            # upstream needs an output folder and writes below the working folder
            (folder / "out").mkdir()
            os.chdir(folder)
            # a release's name may be a path, to which upstream would write
            selected: Any = [("release", subject.sae_id)]
            upstream_main.run_eval(
                given.config, selected, given.device, str(folder / "out")
            )
        f1 = _probe_f1(folder)
        if "Cannot evaluate absorption" in captured.printed.getvalue():
            least = given.config.min_GT_probe_f1
            good = sum(value > least for value in f1.values())
            raise UpstreamError(
                f"{EVAL} of SAE {subject.sae_id!r} has no result: {good} of 26 letters have a "
                f"probe on 'blocks.{given.layer}.hook_resid_post' with an F1 above {least}, and "
                f"min_feats_for_eval asks for {given.config.min_feats_for_eval}. Use more "
                "words_per_letter or a later layer."
            )
        output = read_upstream(
            folder / "out", AbsorptionEvalOutput, eval=EVAL, subject=subject
        )
    return Scored(output, f1)


@contextmanager
def private_folders(folder: Path, probes: Path) -> Iterator[None]:
    """
    Keep upstream from writing into the installed package.

    Its folders are default arguments bound at import. An SAE's intermediate results go to
    ``folder``, which is deleted after it: upstream knows them by name only.
    """
    sparse, absorbed = folder / "k_sparse_probing", folder / "feature_absorption"
    seams: dict[str, dict[str, Path]] = {
        "run_k_sparse_probing_experiment": {"experiment_dir": sparse},
        "run_feature_absortion_experiment": {
            "experiment_dir": absorbed,
            "sparse_probing_experiment_dir": sparse,
        },
    }
    replaced = [
        (
            upstream_main,
            name,
            partial(getattr(upstream_main, name), probes_dir=probes, **folders),
        )
        for name, folders in seams.items()
    ]
    with all_patched(replaced):
        yield


def _probe_f1(folder: Path) -> dict[str, float]:
    """Return the F1 of each letter's probe, from the files next to upstream's result."""
    (path,) = (folder / "artifacts" / "absorption").rglob("*_k_sparse_probing.json")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return {row["letter"]: float(row["f1_probe"]) for row in rows}


# Float32 rows that were divided by their norms are off by some 1e-7.
_TOLERANCE = 1e-4


def norm_deviation(sae: SAE[Any]) -> float:
    """Return the largest distance from 1 of a decoder row's norm; zero rows do not count."""
    norms = sae.W_dec.detach().double().norm(dim=-1)
    distances = (norms[norms > 0] - 1).abs()
    return float(distances.max()) if len(distances) else 0.0


def is_unit(sae: SAE[Any]) -> bool:
    """Return whether the decoder's rows have norm 1, up to rounding."""
    return norm_deviation(sae) < _TOLERANCE


class UnitDecoder(nn.Module):
    """
    An SAE's own choice of latents, times the norms of their rows, over rows of norm 1.

    ``fold_W_dec_norm`` moves the norms into the encoder, before latents are chosen. SAELens
    refuses that where the choice depends on the encoder's scale: in a TopK SAE without
    ``rescale_acts_by_decoder_norm`` (the default of older configurations) and in matching
    pursuit. Here the norms are applied after the choice, so that every latent's share of
    the reconstruction is what it was: ``encode(x) * norms`` on ``W_dec / norms``.

    It has what the absorption eval reads of an SAE, and shares nothing with ``sae``.
    """

    def __init__(self, sae: SAE[Any]) -> None:
        super().__init__()
        self.base = copy.deepcopy(sae)
        self.cfg = self.base.cfg
        norms = self.base.get_W_dec_norm().detach()
        self.norms = nn.Parameter(norms, requires_grad=False)
        rows = self.base.W_dec.detach() / norms[:, None]
        self.W_dec = nn.Parameter(rows, requires_grad=False)

    @property
    def W_enc(self) -> Tensor:
        """Encoder, [d_in, d_sae], for its directions."""
        return self.base.W_enc

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.W_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.W_dec.dtype

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents, [..., d_sae], in units of the reconstruction."""
        return self.base.encode(x) * self.norms

    def _setup_activation_normalization(self) -> None:
        """Bind the run-time normalisation of a copy to the copy, as an SAE does."""
        self.base._setup_activation_normalization()

    def fold_W_dec_norm(self) -> None:
        """Do nothing: it is folded."""

    @override
    def to(self, *args: Any, **kwargs: Any) -> UnitDecoder:
        """Move and cast; an SAE also stores its data type."""
        self.base.to(*args, **kwargs)
        return super().to(*args, **kwargs)
