"""Initial encoder, decoder and decoder bias."""

from __future__ import annotations

from typing import Any, Literal

import torch
from sae_lens import TrainingSAE
from torch import nn
from typing_extensions import override

from saereg_plugin.component import Component

Initialization = Literal["tied", "untied"]
BDecInit = Literal["zero", "mean", "geometric_median"]
EncoderScale = Literal["as_drawn", "unit_reconstructions"]

_PROBES = 256
"""Random inputs by which the encoder is scaled, as in the source."""


@torch.no_grad()
def initialize_untied_(sae: TrainingSAE[Any]) -> None:
    """
    Draw encoder and decoder independently, in place.

    Both are Kaiming uniform in ``nn.Linear``'s layout: first the encoder [d_sae, d_in]
    with fan-in d_in, then the decoder [d_in, d_sae] with fan-in d_sae. With a
    ``decoder_init_norm`` the decoder's rows are scaled to it.
    """
    encoder = torch.empty_like(sae.W_enc.T.contiguous())
    nn.init.kaiming_uniform_(encoder)
    decoder = torch.empty_like(sae.W_dec.T.contiguous())
    nn.init.kaiming_uniform_(decoder)
    sae.W_enc.copy_(encoder.T)
    sae.W_dec.copy_(decoder.T)
    norm = sae.cfg.decoder_init_norm
    if norm is not None:
        sae.W_dec.mul_(norm / sae.W_dec.norm(dim=-1, keepdim=True))


@torch.no_grad()
def scale_encoder_(sae: TrainingSAE[Any]) -> None:
    """
    Scale the encoder so that reconstructions of unit inputs have unit norm, in place.

    As the public code of arXiv 2406.04093: W_enc is divided by the mean norm of the
    reconstructions of 256 random inputs of norm 1. The biases are 0 at the start, so a
    reconstruction grows with the encoder and the mean is 1 afterwards, up to rounding. The
    inputs are the same for every SAE of one width and leave torch's generator alone.
    """
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(_PROBES, int(sae.cfg.d_in), generator=generator)
    inputs = inputs / inputs.norm(dim=-1, keepdim=True)
    recons = sae.decode(sae.encode(inputs.to(sae.W_enc)))
    sae.W_enc.div_(recons.norm(dim=-1).mean())


class BDecFromFirstBatch(Component):
    """
    Set b_dec to the mean or the geometric median of the first batch.

    Weights that come from a checkpoint count as initialised.
    """

    initialized: torch.Tensor

    def __init__(self, *, label: str, method: BDecInit):
        super().__init__(label=label)
        self.method = method
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    @override
    def prepare(self, sae_in: torch.Tensor) -> torch.Tensor:
        if not self.initialized:
            points = sae_in.detach().float()
            center = (
                points.mean(dim=0)
                if self.method == "mean"
                else geometric_median(points)
            )
            with torch.no_grad():
                self.sae.b_dec.copy_(center)
            self.initialized.fill_(1)
        return sae_in


def geometric_median(
    points: torch.Tensor, *, max_iterations: int = 100, tolerance: float = 1e-5
) -> torch.Tensor:
    """
    Return the point [d] of least summed distance to ``points`` [n, d].

    Weiszfeld's iteration from the mean; it ends when the estimate moves by less
    than ``tolerance`` times its norm.
    """
    estimate = points.mean(dim=0)
    for _ in range(max_iterations):
        distances = (points - estimate).norm(dim=-1).clamp(min=1e-12)
        weights = distances.reciprocal()
        updated = (points * weights[:, None]).sum(dim=0) / weights.sum()
        moved = (updated - estimate).norm()
        estimate = updated
        if moved <= tolerance * estimate.norm():
            break
    return estimate
