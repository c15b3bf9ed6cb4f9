"""Faults of release folders that are read."""

from __future__ import annotations

from tests.faults.fault import RUN, Fault, Place


def _cut_weights(place: Place) -> None:
    path = place.release / "saes" / "none-seed0" / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])


FAULTS = [
    Fault(
        name="weights of a release are cut",
        row="held",
        arrange=_cut_weights,
        command=RUN,
        status=2,
        words=r"none-seed0/sae_weights\.safetensors' is damaged",
    ),
]
