"""Small untrained SAEs with a real decoder bias, saved as a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from sae_lens import TopKSAE, TopKSAEConfig
from sae_lens.saes.sae import SAEMetadata

from eval_recipes.results.subject import Subject
from saereg_plugin.files import folder_hashes
from saereg_plugin.releases.opening import register_release
from saereg_plugin.releases.release import Entry, Release, write_release

D_SAE = 256


def tiny_sae(
    model_name: str,
    hook_name: str,
    mean: torch.Tensor,
    seed: int,
    *,
    by_head: bool = False,
) -> TopKSAE:
    """
    A TopK SAE with a random tied dictionary and the activations' mean as bias.

    ``by_head``: it joins heads itself, as SAELens' SAEs on ``hook_z`` do.
    """
    generator = torch.Generator().manual_seed(seed)
    metadata = SAEMetadata(
        model_name=model_name,
        hook_name=hook_name,
        context_size=32,
        prepend_bos=True,
    )
    cfg = TopKSAEConfig(d_in=len(mean), d_sae=D_SAE, k=8, metadata=metadata)
    if by_head:
        cfg.reshape_activations = "hook_z"
    sae = TopKSAE(cfg)
    rows = torch.randn(D_SAE, len(mean), generator=generator)
    # Norms differ from one, so that a fold by mistake would show.
    sae.W_dec.data = torch.nn.functional.normalize(rows, dim=-1) * 1.5
    sae.W_enc.data = sae.W_dec.data.T.contiguous() * 0.2
    # Latents 0 and 1 never fire.
    sae.b_enc.data[:2] = -1e6
    sae.b_dec.data = mean.clone()
    return sae


def save_release(
    folder: Path,
    saes: dict[str, TopKSAE],
    *,
    damage: Callable[[Path], None] | None = None,
) -> list[Subject]:
    """Save the SAEs below ``folder``, register them and return them as subjects."""
    entries: list[Entry] = []
    for seed, (sae_id, sae) in enumerate(saes.items()):
        path = folder / sae_id
        sae.save_model(str(path))
        if damage is not None:
            damage(path)
        hashes = folder_hashes(path)
        entries.append(Entry(sae_id, sae_id, group="tiny", seed=seed, files=hashes))
    release = Release(
        folder.name, "smollm2-135m-instruct", tuple(entries), folder=folder
    )
    write_release(release)
    register_release(folder)
    return [Subject(folder.name, e.sae_id, e.group, e.seed) for e in entries]
