"""Passes of the language model from a hook to the next-token loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sae_lens import SAE
from sae_lens.util import get_special_token_ids
from torch import Tensor

from eval_recipes.running.activation_source import Source, check_hook
from eval_recipes.running.context import RunContext
from eval_recipes.running.heldout_pass import heldout_store, token_batches
from saereg_plugin.errors import InputError
from saereg_plugin.finetuning.frozen_model import CleanPass, FrozenModel
from saereg_plugin.finetuning.losses import Objective
from saereg_plugin.metrics.attribution import next_token_losses
from saereg_plugin.sources.models import LanguageModel

# Values of one batch of logits: 2^26 float32 are 256 MiB, held a few times.
_LOGIT_VALUES = 1 << 26


class LossPasses:
    """
    The language model behind one hook, whose activations can be replaced.

    A row is an activation of a token that is read: not special, in the SAEs' slice of the
    context, and with a token after it. The loss is that of the tokens after those.

    Args:
        context: the run.
        source: what the SAEs read.
        sae: one of them.
        n_tokens: of held-out text.
    """

    def __init__(
        self, context: RunContext, source: Source, sae: SAE[Any], *, n_tokens: int
    ) -> None:
        model = context.models.get(
            source.model_name,
            dtype=context.dtype,
            device=context.device,
            model_kwargs=source.model_kwargs,
        )
        check_hook(model, source.hook_name)
        self._model, self._source, self._corpus = model, source, context.corpus
        # only the hook is read of the clean pass
        self._frozen = FrozenModel(model, [source.hook_name], Objective("mse"))
        self._special = torch.tensor(get_special_token_ids(model.tokenizer))  # pyright: ignore[reportArgumentType]
        self._store = heldout_store(model, sae, source, corpus=context.corpus)
        self._contexts = math.ceil(n_tokens / source.context_size)
        most = _LOGIT_VALUES // (int(model.cfg.d_vocab) * source.context_size)
        self.at_once = max(1, min(most, context.batch_size_prompts))
        """Contexts in one pass."""
        self.total = math.ceil(self._contexts / self.at_once)
        self.tokens = torch.zeros(0, source.context_size, dtype=torch.int64)
        """Ids of all contexts that were read, int64 [contexts, size], on the CPU."""
        self.counts = torch.zeros(0, dtype=torch.int64)
        """Rows of each of them."""

    @property
    def hook_name(self) -> str:
        """The hook."""
        return self._source.hook_name

    def __iter__(self) -> Iterator[CleanPass]:
        """
        Read the held-out text.

        Raises:
            InputError: if there is none of that size.
        """
        read: list[Tensor] = []
        counts: list[Tensor] = []
        for tokens in token_batches(
            self._store, contexts=self._contexts, batch_size=self.at_once
        ):
            read.append(tokens.cpu())
            found = self.clean(tokens)
            counts.append(found.keep.sum(1).cpu())
            yield found
        if not read or not int(torch.cat(counts).sum()):
            raise InputError(
                f"Corpus {self._corpus!r} has no held-out text of {self._source.context_size} "
                "tokens that the SAE reads; expected at least one context. Choose a longer text "
                "or a smaller context_size."
            )
        self.tokens, self.counts = torch.cat(read), torch.cat(counts)

    def clean(self, tokens: Tensor) -> CleanPass:
        """Return the activations at the hook; ``tokens`` are (contexts, size)."""
        keep = ~torch.isin(tokens.cpu(), self._special)
        places = torch.zeros(tokens.shape[1], dtype=torch.bool)
        places[slice(*self._source.seqpos_slice)] = True
        # nothing is predicted after the last token
        places[-1] = False
        keep = (keep & places).to(self._model.cfg.device or "cpu")
        return self._frozen.clean(tokens.to(keep.device), keep)

    def rows(self, clean: CleanPass) -> Tensor:
        """Return the activations of the tokens that are read, float32 [rows, d_in]."""
        return self.of_sae(clean)[clean.keep].float()

    def of_sae(self, clean: CleanPass) -> Tensor:
        """Return the activations that the SAE reads, [contexts, size, d_in]."""
        return self._view(clean.activations[self.hook_name])

    def with_rows(self, clean: CleanPass, rows: Tensor) -> Tensor:
        """Return ``of_sae`` with others in place of the tokens that are read."""
        found = self.of_sae(clean).clone()
        found[clean.keep] = rows.to(found.device, found.dtype)
        return found

    def logits(self, clean: CleanPass, of_sae: Tensor) -> Tensor:
        """Return the logits [contexts, size, V] with other activations for the SAE to read."""
        whole = clean.activations[self.hook_name].clone(
            memory_format=torch.contiguous_format
        )
        self._view(whole)[:] = of_sae
        return self._frozen.patched(clean, self.hook_name, whole)[0]

    def losses(self, clean: CleanPass, of_sae: Tensor) -> Tensor:
        """Return the summed loss of each context, float64 [contexts]."""
        found = next_token_losses(self.logits(clean, of_sae), clean.tokens)
        return torch.where(clean.keep[:, :-1], found, 0).double().sum(1)

    @torch.enable_grad()
    def gradient(self, clean: CleanPass, rows: Tensor) -> Tensor:
        """
        Return the gradient of the loss, summed over all contexts, at ``rows`` [rows, d_in].

        It is that of each row's own context: contexts do not read each other.
        """
        placed = rows.detach().requires_grad_()
        with _without_gradients(self._model):
            loss = self.losses(clean, self.with_rows(clean, placed)).sum()
            (gradient,) = torch.autograd.grad(loss, placed)
        return gradient.float()

    def _view(self, whole: Tensor) -> Tensor:
        """Return a view of what the SAE reads of the activations, [contexts, size, d_in]."""
        head = self._source.hook_head_index
        return whole.flatten(2) if head is None else whole[:, :, head]


@contextmanager
def _without_gradients(model: LanguageModel) -> Iterator[None]:
    """Let weights need no gradient, so that none of their inputs is kept."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in trained:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in trained:
            weight.requires_grad_(True)
