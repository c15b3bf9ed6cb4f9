"""What SCR's and TPP's ablation step works on, as upstream hands it over for one data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sae_bench.evals.scr_and_tpp import main as upstream_main
from sae_bench.evals.sparse_probing.probe_training import Probe
from sae_lens import SAE
from torch import Tensor

from eval_recipes.saebench.scr_tpp.masked_ablation import (
    Array,
    TextMeans,
    logit_shift,
    logits,
    text_means,
)

# Upstream adds and subtracts whole reconstructions in float32; this is its rounding.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class AblatedLogits:
    """Logits (texts, probes) of texts, and what ablating one set of latents does to them."""

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
        """Logits after upstream's ablation, of padded positions too."""
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
        """Return the named probes' logits of the texts ``key``, ``n`` latents of ``ablated`` gone."""
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
        Return what upstream's ``ablated_precomputed_activations`` does, padding included.

        Upstream encodes and decodes all texts anew for every class and number of latents;
        here the latents of each text have been summed once.
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
