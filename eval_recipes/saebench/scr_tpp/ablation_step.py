"""Ablation of latents for SCR and TPP, on real tokens only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.sparse_probing.probe_training import Probe
from sae_lens import SAE
from torch import Tensor

from eval_recipes.results import metrics
from eval_recipes.statistics.interval import Interval

Array = NDArray[np.float64]


class TextMeans(NamedTuple):
    """Sums over the tokens of each text, divided by its number of real tokens."""

    clean: Tensor
    """Summed activations, shape (texts, d_in)."""
    real: Tensor
    """Latents summed over real tokens, shape (texts, latents)."""
    padded: Tensor
    """Latents summed over padded positions, shape (texts, latents)."""


def real_positions(acts: Tensor) -> Tensor:
    """
    Return a mask of the real tokens of activations (texts, tokens, d_in).

    Upstream sets padded and special positions to zero, and finds them by a sum of zero, which
    a real token may have by chance.
    """
    return (acts != 0).any(-1)


@torch.no_grad()
def text_means(
    sae: SAE[Any], acts: Tensor, latents: Tensor, *, batch_size: int
) -> TextMeans:
    """
    Return means of activations and of the chosen latents, in float32.

    Memory: the latents of one batch, ``batch_size x tokens x d_sae`` values.

    Args:
        sae: the SAE; its ``decode`` must be linear in the latents of a token.
        acts: shape (texts, tokens, d_in), zero at padded positions.
        latents: indices of the latents wanted.
        batch_size: texts encoded at once.
    """
    parts: list[TextMeans] = []
    for batch in acts.split(batch_size):
        real = real_positions(batch)
        count = real.sum(1, keepdim=True)
        # encode keeps the scale with which decode undoes a normalisation
        values = sae.encode(batch)[..., latents].float()
        values = values * _output_scale(sae, batch)[..., None]
        on_real = torch.where(real[..., None], values, 0)
        parts.append(
            TextMeans(
                clean=batch.float().sum(1) / count,
                real=on_real.sum(1) / count,
                padded=(values - on_real).sum(1) / count,
            )
        )
    return TextMeans(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _output_scale(sae: SAE[Any], acts: Tensor) -> Tensor:
    """Return the factor of ``decode`` for each token after ``encode(acts)``, (texts, tokens)."""
    units = torch.tensor([1.0, 0.0], dtype=acts.dtype, device=acts.device)
    out = sae.run_time_activation_norm_fn_out(units.expand(*acts.shape[:2], 2))
    return (out[..., 0] - out[..., 1]).float()


def logits(clean: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a probe's logits (texts, probes) for weights (probes, d_in) and bias (probes,)."""
    return clean.double() @ weight.double().T + bias.double()


def logit_shift(contribution: Tensor, selected: Tensor, effect: Tensor) -> Tensor:
    """
    Return the change of each probe's logit when latents are ablated, (texts, probes).

    Args:
        contribution: ``TextMeans.real``, ``.padded`` or their sum, (texts, latents).
        selected: True for a latent to ablate, shape (latents,).
        effect: decoder rows times probe weights, shape (latents, probes).
    """
    return -(contribution[:, selected].double() @ effect[selected].double())


class Sampled(NamedTuple):
    """A figure, its bootstrap resamples and the number of texts behind it."""

    value: float
    draws: Array
    n: int


def stratified(
    strata: Sequence[Array], *, resamples: int, seed: Sequence[int]
) -> tuple[Array, Array]:
    """
    Return the sum over strata of column means, and its bootstrap resamples.

    Texts are resampled within their stratum (a class), whose size stays.

    Each stratum has shape (texts of the stratum, columns).

    Returns:
        Shapes (columns,) and (resamples, columns).
    """
    generator = np.random.default_rng(list(seed))
    value = sum((s.mean(0) for s in strata), np.zeros(strata[0].shape[1]))
    draws = np.zeros((resamples, strata[0].shape[1]))
    for stratum in strata:
        n = len(stratum)
        weights = generator.multinomial(n, np.full(n, 1 / n), size=resamples)
        draws += weights @ stratum / n
    return value, draws


def averaged(sets: Sequence[dict[str, Sampled]]) -> dict[str, Sampled]:
    """Average every figure over data sets; only their texts are resampled."""
    return {
        name: Sampled(
            float(np.mean([figures[name].value for figures in sets])),
            np.mean([figures[name].draws for figures in sets], axis=0),
            sum(figures[name].n for figures in sets),
        )
        for name in sets[0]
    }


def share(part: Array, rest: Array) -> Array:
    """Return part / (part + rest), 0 where both are 0."""
    whole = part + rest
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def flat(figures: dict[str, Sampled]) -> dict[str, Any]:
    """
    Spread figures over their metrics' fields, with 95 % percentile intervals.

    >>> flat({"x": Sampled(0.5, np.array([0.5, 0.5]), 7)})
    {'x': 0.5, 'x_ci_low': 0.5, 'x_ci_high': 0.5, 'x_n': 7}
    """
    intervals: dict[str, Interval] = {}
    for name, figure in figures.items():
        low, high = np.percentile(figure.draws, [2.5, 97.5]).tolist()
        intervals[name] = Interval(figure.value, low, high, figure.n)
    return metrics.flat(intervals)


# Upstream adds and subtracts whole reconstructions in float32; this is its rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class AblatedLogits:
    """Logits (texts, probes), and their shift when one set of latents is ablated."""

    clean: Array
    on_real: Array
    """Shift from real tokens."""
    on_padded: Array
    """Shift from padded positions."""

    @property
    def masked(self) -> Array:
        """Logits after the ablation of real tokens alone."""
        return self.clean + self.on_real

    @property
    def leaky(self) -> Array:
        """Logits after upstream's ablation, which includes padded positions."""
        return self.masked + self.on_padded


class AblationStep:
    """
    One data set's probes, test activations and latents chosen by upstream.

    Attributes:
        probes: by class name; for SCR also by name of the biased probe.
        classes: the classes whose latents are ablated.
        n_values: how many latents are ablated at a time.
    """

    def __init__(
        self,
        probes: dict[str, Probe],
        sae: SAE[Any],
        acts: dict[str, Tensor],
        effects: dict[str, Tensor],
        *,
        classes: list[str],
        n_values: list[int],
        batch_size: int,
    ) -> None:
        self.probes, self.classes, self.n_values = probes, classes, n_values
        self._sae, self._acts = sae, acts
        self._masks = {
            (name, n): upstream_main.select_top_n_features(effects[name], n, name)
            for name in classes
            for n in n_values
        }
        self._latents = torch.stack(list(self._masks.values())).any(0).nonzero()[:, 0]
        self._decoder = sae.W_dec.data[self._latents]
        self._means = {
            key: text_means(sae, rows, self._latents, batch_size=batch_size)
            for key, rows in acts.items()
        }
        self._keys = {id(rows): key for key, rows in acts.items()}

    def logits(
        self, key: str, ablated: str, n: int, probe_names: list[str]
    ) -> AblatedLogits:
        """Return logits of the texts ``key`` with ``n`` latents of ``ablated`` removed."""
        means = self._means[key]
        # A text without a token has no mean; upstream predicts the negative class for it.
        kept = means.clean.isfinite().all(-1)
        means = TextMeans(*(rows[kept] for rows in means))
        weight = torch.cat([self.probes[name].net.weight.data for name in probe_names])
        bias = torch.cat([self.probes[name].net.bias.data for name in probe_names])
        effect = self._decoder.double() @ weight.double().T
        selected = self._masks[ablated, n][self._latents]
        return AblatedLogits(
            clean=logits(means.clean, weight, bias).cpu().numpy(),
            on_real=logit_shift(means.real, selected, effect).cpu().numpy(),
            on_padded=logit_shift(means.padded, selected, effect).cpu().numpy(),
        )

    def ablated_activations(
        self, acts: Tensor, _sae: SAE[Any], to_ablate: Tensor, _batch_size: int
    ) -> Tensor:
        """
        Return the result of upstream's ``ablated_precomputed_activations``, padding included.

        Upstream encodes all texts for every class and number of latents; here the latents of
        each text are summed once.
        """
        means = self._means[self._keys[id(acts)]]
        return _ablate(means, to_ablate[self._latents], self._decoder).to(acts.dtype)

    def check_linear(self) -> None:
        """
        Compare one ablation of two texts with upstream's own.

        Raises:
            ValueError: if they differ: this SAE's decoder is not linear in its latents.
        """
        acts = next(iter(self._acts.values()))[:2]
        mask = self._masks[self.classes[0], max(self.n_values)]
        theirs = upstream_main.ablated_precomputed_activations(
            acts, self._sae, mask, len(acts)
        )
        means = text_means(self._sae, acts, self._latents, batch_size=len(acts))
        ours = _ablate(means, mask[self._latents], self._decoder)
        scale = float(acts.abs().max())
        difference = float((ours - theirs).abs().max())
        if not difference <= _TOLERANCE * scale:
            raise ValueError(
                f"Ablated activations differ by {difference:.3g} from upstream's (largest "
                f"activation {scale:.3g}); expected an SAE whose decoder is linear."
            )


def _ablate(means: TextMeans, selected: Tensor, decoder: Tensor) -> Tensor:
    contribution = means.real[:, selected] + means.padded[:, selected]
    return means.clean - contribution @ decoder[selected].float()


Columns = dict[str, Array]
"""Figures by name: their values, or their bootstrap resamples."""


def sampled(value: Columns, draws: Columns, texts: int) -> dict[str, Sampled]:
    """Join figures and their resamples by name."""
    return {
        name: Sampled(float(value[name]), np.asarray(draws[name]), texts)
        for name in value
    }
