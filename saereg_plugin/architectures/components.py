"""The components of an SAE, in the order in which they act."""

from __future__ import annotations

import zlib

import torch

from saereg_plugin.architectures.config import RegularizedConfigMixin
from saereg_plugin.component import Component
from saereg_plugin.mechanics.initialization import BDecFromFirstBatch
from saereg_plugin.mechanics.norm_mask import NormMask
from saereg_plugin.mechanics.row_floor import RowFloor
from saereg_plugin.mechanics.unit_norm import UnitNormDecoder
from saereg_plugin.registry import acts


def build_components(cfg: RegularizedConfigMixin) -> list[Component]:
    """
    Make the components of a configuration, in the order in which they act.

    Regularisers come first, so that what mechanics do to gradients concerns theirs too.
    Mechanics follow by their ``order``, with unit norm at its own place among them: after
    those that change single gradients (its projection) or weights (its normalisation),
    before resampling, which sets rows of norm 1 itself. The floor of free rows comes last.
    """
    base_seed = torch.initial_seed() if cfg.init_seed is None else cfg.init_seed
    components: list[Component] = []
    if cfg.max_norm_multiple is not None:
        components.append(NormMask(label="norm_mask", multiple=cfg.max_norm_multiple))
    for number, (label, regularizer) in enumerate(cfg.labelled_regularizers().items()):
        seed = _seed(base_seed, number)
        components.append(regularizer.build(cfg, label=label, seed=seed))
    if cfg.b_dec_init != "zero":
        # after those that leave rows out of the batch
        components.append(BDecFromFirstBatch(label="b_dec_init", method=cfg.b_dec_init))
    ordered: list[tuple[int, Component]] = []
    for mechanic in cfg.mechanics:
        # by name: the seed must not depend on the order in the list
        seed = _seed(base_seed, zlib.crc32(mechanic.name.encode()))
        ordered.append((mechanic.order, mechanic.build(cfg, seed=seed)))
    if cfg.unit_norm:
        ordered.append((UnitNormDecoder.order, UnitNormDecoder(label="unit_norm")))
    if _shortens_rows(cfg):
        ordered.append((RowFloor.order, RowFloor(label="row_floor")))
    ordered.sort(key=lambda pair: pair[0])
    return components + [component for _, component in ordered]


def _shortens_rows(cfg: RegularizedConfigMixin) -> bool:
    """Whether SAELens divides by the norms of rows that some component may shrink to 0."""
    return getattr(cfg, "rescale_acts_by_decoder_norm", False) and bool(
        cfg.mechanics or any(acts(each.to_dict()) for each in cfg.regularizers)
    )


def _seed(base_seed: int, number: int) -> int:
    return (base_seed * 1_000_003 + number) % 2**63
