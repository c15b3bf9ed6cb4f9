"""The vectors of one SAE as the evaluation compares them, prepared once for all pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.results.files import BaseFields, base_fields
from eval_recipes.results.subject import Subject
from saereg_plugin.metrics import encoder_decoder_cosines, row_norms, unit_rows


@dataclass(frozen=True)
class Weights:
    """Directions of one SAE's vectors, and what their lengths said."""

    enc: Tensor
    """[d_sae, d_in] encoder vectors as unit rows, float32."""
    dec: Tensor
    """[d_sae, d_in] decoder vectors as unit rows, float32."""
    decoder_norms: Tensor
    """[d_sae] norms of the decoder vectors, in the units of the weights."""
    cosines: Tensor
    """[d_sae] cosine of each latent's encoder and decoder vector."""
    alive: Tensor
    """[d_sae] bool: the cosine exceeds the alive threshold."""

    @classmethod
    def of(cls, W_enc: Tensor, W_dec: Tensor, *, alive_threshold: float) -> Weights:
        """Take SAELens' ``W_enc`` [d_in, d_sae] and ``W_dec`` [d_sae, d_in]."""
        rows = W_dec.detach().cpu().float()
        enc, dec = unit_rows(W_enc.detach().cpu().T), unit_rows(rows)
        cosines = encoder_decoder_cosines(enc, dec)
        return cls(
            enc.contiguous(), dec, row_norms(rows), cosines, cosines > alive_threshold
        )

    @cached_property
    def alive_ids(self) -> Tensor:
        """Ids of the alive latents."""
        return self.alive.nonzero().flatten()


Shape = tuple[int, int]
"""(d_sae, d_in)."""


@dataclass(frozen=True)
class Loaded:
    """What is kept of one SAE."""

    subject: Subject
    seed: int
    weights: Weights
    fields: BaseFields

    @property
    def shape(self) -> Shape:
        """(d_sae, d_in)."""
        d_sae, d_in = self.weights.dec.shape
        return d_sae, d_in


def load(subject: Subject, seed: int, config: CrossSeedEvalConfig) -> Loaded:
    """
    Load one SAE and keep its encoder and decoder only.

    A gated SAE's ``W_enc`` is shared by its gate and its magnitudes.

    Raises:
        ValueError: if the weights are not finite, or too few to have a geometry.
    """
    sae = subject.load()
    weights = Weights.of(
        sae.W_enc.data, sae.W_dec.data, alive_threshold=config.alive_threshold
    )
    for name, rows in (("W_enc", weights.enc), ("W_dec", weights.dec)):
        if not rows.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinity")
    if len(weights.dec) < 2:
        raise ValueError("an SAE of one latent has no geometry")
    return Loaded(subject, seed, weights, base_fields(subject, sae))


def unequal_shapes(saes: list[Loaded]) -> dict[str, str]:
    """Return why a group cannot be compared, by the name of each whose SAEs differ in shape."""
    first: dict[str, Loaded] = {}
    causes: dict[str, str] = {}
    for sae in saes:
        other = first.setdefault(sae.subject.group, sae)
        if other.shape != sae.shape:
            causes[sae.subject.group] = (
                f"SAEs {other.subject.sae_id!r} and {sae.subject.sae_id!r} of group "
                f"{sae.subject.group!r} have (d_sae, d_in) {other.shape} and "
                f"{sae.shape}; expected one shape in a group. Put SAEs of different "
                "width into different groups."
            )
    return causes
