"""Columns of the study on images, and the papers' figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from eval_recipes.studies.framework.definition import Column, Published

R2 = Column("vision", "reconstruction/r2", "R2")
NMSE = Column("vision", "reconstruction/nmse", "NMSE")
DEAD = Column("vision", "reconstruction/dead_fraction", "dead share")
SCORE = Column("vision", "monosemanticity/judge_score", "MS, judges")
NORMALISED = Column("vision", "monosemanticity/judge_normalised", "normalised MS")
OWN = Column("vision", "monosemanticity/own_normalised", "normalised MS, own input")
PURITY = Column("vision", "purity/binary", "purity")
WEIGHTED = Column("vision", "purity/weighted", "weighted purity")
ABOVE = Column("vision", "purity/above_floor", "purity above floor")
HELD_OUT = Column("vision", "purity/held_out", "held-out purity")
AREA = Column("vision", "robustness/probe_area", "probe area")

ORDER = ("baseline", "off-support", "ratio")
"""Methods in the order of each tuple of three."""

D_SAE = 8192

RECONSTRUCTION: Mapping[str, Mapping[int, tuple[tuple[float, float, int], ...]]] = {
    "siglip2": {
        32: ((0.773, 0.579, 233), (0.773, 0.587, 232), (0.775, 0.577, 248)),
        64: ((0.827, 0.572, 227), (0.828, 0.588, 176), (0.830, 0.572, 255)),
        128: ((0.871, 0.558, 133), (0.871, 0.578, 72), (0.875, 0.560, 157)),
    },
    "vit": {
        32: ((0.775, 0.345, 0), (0.778, 0.471, 0), (0.800, 0.413, 0)),
        64: ((0.809, 0.238, 0), (0.811, 0.308, 0), (0.824, 0.289, 0)),
        128: ((0.838, 0.155, 0), (0.839, 0.193, 0), (0.842, 0.164, 0)),
    },
}
"""R2, monosemanticity and dead latents on ImageNet, by encoder and k (arXiv 2606.27321)."""

Three = tuple[float, float, float]

PURITIES: Mapping[str, Mapping[int, tuple[Three, Three]]] = {
    "clip": {
        32: ((0.220, 0.280, 0.235), (0.290, 0.359, 0.308)),
        64: ((0.149, 0.207, 0.165), (0.225, 0.301, 0.253)),
        128: ((0.103, 0.126, 0.105), (0.167, 0.204, 0.176)),
    },
    "siglip2": {
        32: ((0.286, 0.313, 0.288), (0.358, 0.383, 0.359)),
        64: ((0.239, 0.264, 0.242), (0.330, 0.357, 0.335)),
        128: ((0.188, 0.213, 0.188), (0.287, 0.319, 0.291)),
    },
    "vit": {
        32: ((0.244, 0.383, 0.314), (0.418, 0.551, 0.479)),
        64: ((0.128, 0.176, 0.158), (0.311, 0.372, 0.343)),
        128: ((0.065, 0.080, 0.067), (0.224, 0.259, 0.229)),
    },
}
"""Binary and weighted class purity on ImageNet."""

AREAS: Mapping[str, Mapping[int, tuple[float, float]]] = {
    "clip": {32: (0.683, 0.731), 64: (0.607, 0.726), 128: (0.479, 0.692)},
    "siglip2": {32: (0.706, 0.778), 64: (0.625, 0.771), 128: (0.485, 0.757)},
    "vit": {32: (0.758, 0.784), 64: (0.743, 0.782), 128: (0.752, 0.755)},
}
"""Area of the truncated probe: baseline, ratio."""

CLIP_DEAD = {32: (26, 1052), 64: (1, 316), 128: (0, 27)}
"""Dead latents of off-support L1 on CLIP and ImageNet: with its mask, without."""

MONO_LOSS = (0.431, 0.586)
"""Binary and weighted purity of MonoLoss with ViT and TopK (arXiv 2602.12403)."""


def published_figures(
    encoder: str, group: Callable[[int, str], str], note: str
) -> list[Published]:
    """
    Return the papers' figures of an encoder on ImageNet.

    Args:
        encoder: a key of ``PURITIES``.
        group: name of the table's row for a k and a method.
        note: on what the figures are of.
    """
    found: list[tuple[int, str, Column, float]] = []
    for k, methods in RECONSTRUCTION.get(encoder, {}).items():
        for method, (r2, score, dead) in zip(ORDER, methods, strict=True):
            found += [(k, method, R2, r2), (k, method, SCORE, score)]
            found.append((k, method, DEAD, dead / D_SAE))
    for k, pair in PURITIES[encoder].items():
        for column, values in zip((PURITY, WEIGHTED), pair, strict=True):
            for method, value in zip(ORDER, values, strict=True):
                found.append((k, method, column, value))
    for k, areas in AREAS[encoder].items():
        found += [
            (k, method, AREA, value)
            for method, value in zip(("baseline", "ratio"), areas, strict=True)
        ]
    rows = [Published(group(k, m), c.title, value, note) for k, m, c, value in found]
    return [*rows, *_further(encoder, group)]


def _further(encoder: str, group: Callable[[int, str], str]) -> list[Published]:
    """Return dead latents without the mask for CLIP, MonoLoss for ViT."""
    if encoder == "clip":
        return [
            Published(
                group(k, method), DEAD.title, dead / D_SAE, f"{dead} dead of {D_SAE}"
            )
            for k, counts in CLIP_DEAD.items()
            for method, dead in zip(
                ("off-support", "off-support-unmasked"), counts, strict=True
            )
        ]
    if encoder == "vit":
        # the k of that paper's TopK runs
        return [
            Published(group(64, "mono"), column.title, value, "MonoLoss, ViT TopK")
            for column, value in zip((PURITY, WEIGHTED), MONO_LOSS, strict=True)
        ]
    return []
