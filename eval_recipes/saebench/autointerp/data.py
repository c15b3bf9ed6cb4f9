"""Text and activations of autointerp, stored once per hook."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_bench.sae_bench_utils.activation_collection import get_bos_pad_eos_mask
from sae_bench.sae_bench_utils.dataset_utils import tokenize_and_concat_dataset
from sae_lens import SAE
from torch import Tensor
from tqdm.auto import tqdm

from eval_recipes.running.activation_source import Source, model_determinants
from eval_recipes.running.artifacts import ArtifactFolder, artifact_folder
from eval_recipes.running.context import RunContext
from saereg_plugin.errors import InputError
from saereg_plugin.sources import corpora
from saereg_plugin.sources.models import LanguageModel

logger = logging.getLogger(__name__)

HUB_DATASET = "monology/pile-uncopyrighted"
"""The text that SAEBench explains latents on."""

# upstream leaves out shorter texts, and reads five characters per token
_LEAST_CHARACTERS = 100
_CHARACTERS_A_TOKEN = 5
# Values of one chunk of latent activations: 2^25 float32 are 128 MiB.
_CHUNK_VALUES = 1 << 25


@dataclass(frozen=True)
class Text:
    """Tokens, and their folder."""

    folder: ArtifactFolder
    tokens: Tensor
    """Shape (contexts, context_size); each context starts with BOS."""


def hook_layer(hook_name: str) -> int:
    """
    Return the layer whose activations a hook gives.

    Raises:
        InputError: for a hook outside the blocks, where upstream cannot stop the model.
    """
    match = re.match(r"blocks\.(\d+)\.", hook_name)
    if match is None:
        raise InputError(
            f"autointerp cannot serve the hook {hook_name!r}; expected one inside a "
            "block, such as 'blocks.4.hook_resid_post'."
        )
    return int(match.group(1))


def load_text(
    context: RunContext,
    source: Source,
    model: LanguageModel,
    *,
    dataset: str,
    total_tokens: int,
    context_size: int,
) -> Text:
    """
    Return the tokens of a text, made as upstream makes them, and store them.

    Args:
        dataset: "heldout", the held-out split of the run's corpus, or a hub data set.
        total_tokens: number of tokens; a short text gives fewer.

    Raises:
        InputError: if there is no text, or less than one context of it.
    """
    heldout = dataset == "heldout"
    path = corpora.ensure(context.corpus, "heldout") if heldout else dataset
    folder = artifact_folder(
        context.artifacts,
        "autointerp",
        {
            **model_determinants(context, source),
            "text": path,
            "total_tokens": total_tokens,
            "context_size": context_size,
        },
    )

    def make(stored: Path) -> None:
        corpus, split = (context.corpus, "heldout") if heldout else (dataset, "train")
        texts = _read_texts(corpus, split, total_tokens * _CHARACTERS_A_TOKEN)
        tokens = tokenize_and_concat_dataset(
            model.tokenizer,  # pyright: ignore[reportArgumentType]
            texts,
            context_size,
            max_tokens=total_tokens,
        )
        # upstream takes up to a context more
        tokens = tokens[: max(1, total_tokens // context_size)].clone()
        if tokens.numel() == 0:
            raise InputError(
                f"Text {corpus!r} has less than {context_size} tokens; expected at least "
                "one context. Choose a longer text or a smaller llm_context_size."
            )
        if tokens.numel() < total_tokens // context_size * context_size:
            logger.warning("The text ended after %d tokens", tokens.numel())
        torch.save(tokens, stored)

    stored = folder.ensure("tokens.pt", make)
    return Text(folder, torch.load(stored, weights_only=True))


def _read_texts(corpus: str, split: Any, characters: int) -> list[str]:
    texts: list[str] = []
    total = 0
    for row in corpora.load(corpus, split, streaming=True):
        text = row.get("text")  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        if not isinstance(text, str):
            raise InputError(
                f"Text {corpus!r} has no column 'text'; autointerp shows text to a judge "
                "and cannot use stored tokens."
            )
        if len(text) > _LEAST_CHARACTERS:
            texts.append(text)
            total += len(text)
            if total > characters:
                break
    return texts or [""]


@torch.no_grad()
def load_activations(
    context: RunContext, text: Text, model: LanguageModel, hook_name: str
) -> Activations:
    """
    Return the activations at a hook, with the mask that upstream uses.

    They are a file mapped into memory. The first SAE reads the same file as all others.
    """
    layer, batch_size = hook_layer(hook_name), context.batch_size_prompts
    determinants = {
        "text": text.folder.path.name,
        "hook": hook_name,
        "dtype": context.dtype,
        "batch_size": batch_size,
        "device": str(model.cfg.device),
    }
    rows, length = text.tokens.shape
    width = _run(model, hook_name, layer, text.tokens[:1, :1]).shape[-1]
    size = rows * length * width
    kind: torch.dtype = model.cfg.dtype

    def make(path: Path) -> None:
        mapped = torch.from_file(str(path), shared=True, size=size, dtype=kind).view(
            rows, length, width
        )
        for start in tqdm(range(0, rows, batch_size), desc="autointerp activations"):
            batch = text.tokens[start : start + batch_size]
            mapped[start : start + batch_size] = _run(model, hook_name, layer, batch)

    folder = artifact_folder(context.artifacts, "autointerp", determinants)
    file = folder.ensure("activations.bin", make)
    residuals = torch.from_file(str(file), size=size, dtype=kind)
    keep = get_bos_pad_eos_mask(text.tokens, model.tokenizer)
    return Activations(residuals.view(rows, length, width), keep, batch_size)


def _run(model: LanguageModel, hook_name: str, layer: int, tokens: Tensor) -> Tensor:
    _, cache = model.run_with_cache(
        tokens, stop_at_layer=layer + 1, names_filter=hook_name
    )
    # hooks inside the attention have one row per head
    return cache[hook_name].flatten(2).cpu()


@dataclass(frozen=True)
class Activations:
    """Activations that an SAE encodes; replaces two functions of upstream."""

    residuals: Tensor
    """Shape (contexts, context_size, d_in)."""

    keep: Tensor
    """False at BOS, EOS and padding, shape (contexts, context_size)."""

    batch_size: int
    """Contexts encoded at once, at most."""

    @torch.no_grad()
    def frequencies(self, sae: SAE[Any]) -> Tensor:
        """Return the share of the kept tokens on which each latent fires, (d_sae,)."""
        counts = torch.zeros(int(sae.cfg.d_sae))
        for _, latents in self._encoded(sae):
            counts += (latents > 0).sum((0, 1)).cpu()
        return counts / self.keep.sum()

    @torch.no_grad()
    def of(self, sae: SAE[Any], chosen: Sequence[int]) -> Tensor:
        """Return bfloat16 activations, shape (contexts, context_size, len(chosen))."""
        shape = (*self.keep.shape, len(chosen))
        found = torch.empty(shape, dtype=torch.bfloat16)
        for rows, latents in self._encoded(sae):
            found[rows] = latents[..., list(chosen)].to("cpu", torch.bfloat16)
        return found

    def _encoded(self, sae: SAE[Any]) -> Iterator[tuple[slice, Tensor]]:
        contexts, length = self.keep.shape
        if sae.hook_z_reshaping_mode:
            # the heads are already joined
            sae.turn_off_forward_pass_hook_z_reshaping()
        fitting = _CHUNK_VALUES // (length * int(sae.cfg.d_sae))
        step = max(1, min(self.batch_size, fitting))
        for start in range(0, contexts, step):
            rows = slice(start, start + step)
            latents = sae.encode(self.residuals[rows].to(sae.device))
            yield rows, latents * self.keep[rows, :, None].to(latents.device)


def latents_at_once(text: Text, memory_gib: float) -> int:
    """Return the number of latents whose activations fit into half of the memory."""
    one = text.tokens.numel() * torch.bfloat16.itemsize
    return max(1, math.floor(memory_gib * 2**30 / 2 / one))
