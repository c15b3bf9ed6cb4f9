"""One SAE as the evaluation keeps it: its vectors and what its result file repeats."""

from __future__ import annotations

from dataclasses import dataclass

from eval_recipes.cross_seed.options import CrossSeedEvalConfig
from eval_recipes.cross_seed.weights import Weights
from eval_recipes.results.files import BaseFields, base_fields
from eval_recipes.results.subject import Subject

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
