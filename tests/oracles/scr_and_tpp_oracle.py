"""Slow SCR and TPP: every token of every text ablated by itself, straight from the definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Predict = Callable[[str, Tensor], bool]
"""Whether the probe of that name says yes to a mean activation."""


def ablated_mean(
    text: Tensor, sae: Any, latents: Sequence[int], *, padded: bool
) -> Tensor:
    """Mean activation of one text (tokens, d_in) without ``latents``, in float64."""
    total = torch.zeros(text.shape[1], dtype=torch.float64)
    real = 0
    for token in text:
        is_real = bool(token.abs().max() > 0)
        real += is_real
        total += token.double()
        if not latents or not (is_real or padded):
            continue
        acts = sae.encode(token[None])[0]
        without = acts.clone()
        for latent in latents:
            without[latent] = 0
        total += (sae.decode(without[None])[0] - sae.decode(acts[None])[0]).double()
    return total / real


def predictor(probes: dict[str, Any]) -> Predict:
    def predict(name: str, mean: Tensor) -> bool:
        net = probes[name].net
        return float(mean @ net.weight.double()[0] + net.bias.double()[0]) > 0

    return predict


def accuracy(
    means: Sequence[tuple[Tensor, bool]], probe: str, predict: Predict
) -> float:
    return sum(predict(probe, mean) == label for mean, label in means) / len(means)


def scr(
    acts: dict[str, Tensor],
    latents: dict[str, list[int]],
    probes: dict[str, Any],
    sae: Any,
    *,
    padded: bool,
) -> dict[str, float]:
    """Both directions and the published one; ``latents`` to ablate by class."""
    biased = "male_professor / female_nurse"
    predict = predictor(probes)
    scores: dict[str, float] = {}
    start: dict[str, float] = {}
    for name, ablated, read, other in (
        ("dir1", "male / female", "professor / nurse", "nurse_data_only"),
        ("dir2", "professor / nurse", "male / female", "female_data_only"),
    ):
        texts = [(t, True) for t in acts[read]] + [(t, False) for t in acts[other]]

        def means(gone: list[int], texts: list[tuple[Tensor, bool]] = texts):
            return [
                (ablated_mean(t, sae, gone, padded=padded), yes) for t, yes in texts
            ]

        clean = accuracy(means([]), read, predict)
        before = accuracy(means([]), biased, predict)
        after = accuracy(means(latents[ablated]), biased, predict)
        start[name] = before
        gap = clean - before
        scores[name] = 0.0 if gap < 0.001 else (after - before) / gap
    scores["metric"] = scores["dir1" if start["dir1"] < start["dir2"] else "dir2"]
    return scores


def tpp(
    acts: dict[str, Tensor],
    latents: dict[str, list[int]],
    probes: dict[str, Any],
    sae: Any,
    *,
    padded: bool,
) -> dict[str, float]:
    """Total, intended and unintended, every class against all texts of each other class."""
    predict = predictor(probes)
    classes = list(acts)

    def balanced(gone: list[int]) -> dict[str, float]:
        means = {
            c: [ablated_mean(t, sae, gone, padded=padded) for t in acts[c]]
            for c in classes
        }
        found: dict[str, float] = {}
        for probe in classes:
            shares = {
                c: accuracy([(m, c == probe) for m in means[c]], probe, predict)
                for c in classes
            }
            others = [shares[c] for c in classes if c != probe]
            found[probe] = (shares[probe] + sum(others) / len(others)) / 2
        return found

    clean = balanced([])
    intended: list[float] = []
    unintended: list[float] = []
    for ablated in classes:
        after = balanced(latents[ablated])
        falls = {c: clean[c] - after[c] for c in classes}
        intended.append(falls.pop(ablated))
        unintended.append(sum(falls.values()) / len(falls))
    means = [sum(values) / len(values) for values in (intended, unintended)]
    return {"total": means[0] - means[1], "intended": means[0], "unintended": means[1]}
