"""Decoder rows pulled to token embeddings (VASAE, arXiv 2606.27941)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Step
from saereg_plugin.errors import InputError
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.anchor_search import (
    AnchorMode,
    nearest_tokens,
    score_tokens,
)
from saereg_plugin.regularizers.cosines import (
    DirectionalConfig,
    DirectionalPenalty,
    Directions,
    cosine_gradient_,
)
from saereg_plugin.sources.embeddings import (
    ALIGNED_THRESHOLD,
    Vocabulary,
    find_embeddings,
    read_vocabulary,
    require_embeddings,
)

SearchDtype = Literal["float32", "bfloat16"]


@register_regularizer("vocabulary_anchor")
@dataclass(frozen=True, kw_only=True)
class VocabularyAnchor(DirectionalConfig):
    """
    ``- coefficient * mean_i s_i``, with s_i how near dec_i is to a token's embedding.

    arXiv 2606.27941. Over the ``top`` embeddings e_j of largest cosine to dec_i, ``s_i`` is
    ``max_j cos(dec_i, e_j)`` (nearest), ``t log sum_j exp(cos / t)`` (logsumexp) or
    ``sum_j softmax(cos / t)_j cos_j`` (softmax), t the temperature. The embeddings are
    frozen, neither parameters nor state.

    Args:
        mode: nearest | logsumexp | softmax.
        top: tokens kept for each latent.
        embeddings: a safetensors file (``path`` or ``path::tensor``); None takes the
            model in ``cfg.metadata.model_name``.
        refresh_every: steps between exact searches over the vocabulary. Between them the
            cosines to the kept tokens are exact, and another token is not noticed; 1
            searches in every step.
        search_dtype: of the search's products; the kept tokens' cosines are exact in
            either.
        temperature: t, above 0.
        every: apply the penalty in every n-th step only, n times as strong.

    The paper's coefficients, 1e-4 (GPT-2) and 5e-3 (Llama), are for the squared error
    averaged over d_in: under SAELens' sum they are d_in times as large.
    """

    mode: AnchorMode = "nearest"
    top: int = 10
    embeddings: str | None = None
    refresh_every: int = 50
    search_dtype: SearchDtype = "float32"
    temperature: float = 1.0

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_choice("mode", get_args(AnchorMode))
        self.require_choice("search_dtype", get_args(SearchDtype))
        self.require_count("top")
        self.require_count("refresh_every")
        self.require_number("temperature", lambda v: v > 0, "a finite number above 0")

    @override
    def check(self, sae_cfg: Any) -> None:
        if sae_cfg.normalize_activations == "covariance_whitening":
            raise InputError(
                f"{self.name}: with normalize_activations='covariance_whitening' decoder rows are "
                "directions of whitened activations, embeddings are not: undoing the whitening would "
                "turn each row away from its token. Use "
                "normalize_activations='expected_average_only_in'."
            )
        if sum(isinstance(each, VocabularyAnchor) for each in sae_cfg.regularizers) > 1:
            raise InputError(
                f"{self.name} is given twice; it pulls a row to one vocabulary, and the table of "
                "nearest tokens in a release has one. Leave one out."
            )

    def check_model(
        self,
        model_name: str | None,
        d_in: int,
        *,
        model_class_name: str = "HookedTransformer",
    ) -> None:
        """
        Prove within seconds that the embeddings can be had; reads no weights.

        Raises:
            InputError: if they cannot, are of another width than d_in, or fewer than ``top``.
        """
        file = find_embeddings(
            model_name, self.embeddings, model_class_name=model_class_name
        )
        self.require_tokens(require_embeddings(file, d_in))

    def require_tokens(self, tokens: int) -> None:
        """Refuse a vocabulary of fewer tokens than are to be kept."""
        if tokens < self.top:
            raise InputError(
                f"{self.name}: top is {self.top}, but there are {tokens} embeddings; expected at "
                f"most as many. Set top={tokens} or less."
            )

    def refreshes(self, step: int) -> bool:
        """Whether the search is due in ``step``, one in which the penalty acts."""
        return step // self.refresh_every != (step - self.every) // self.refresh_every

    @override
    def build(self, sae_cfg: Any, *, label: str, seed: int) -> VocabularyAnchorModule:
        return VocabularyAnchorModule(self, sae_cfg.d_sae, label=label)


class VocabularyAnchorModule(DirectionalPenalty):
    """The anchor at work. Of its state only the kept tokens are in checkpoints."""

    cfg: VocabularyAnchor
    kept_tokens: torch.Tensor

    def __init__(self, cfg: VocabularyAnchor, d_sae: int, *, label: str):
        super().__init__(cfg, label=label)
        # bytes: SAELens casts what it loads to the SAE's type, and bfloat16 rounds ids
        nobody = torch.full((d_sae, cfg.top), -1, dtype=torch.int32)
        self.register_buffer("kept_tokens", nobody.view(torch.uint8))
        self._vocabulary: Vocabulary | None = None

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_vocabulary": None}

    @override
    def setup(self, sae: TrainingSAE[Any]) -> None:
        self._vocabulary = self._read(sae)

    @override
    def measure(
        self, step: Step, own: Directions
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        vocabulary = self.vocabulary
        tokens = self._current_tokens(step.index, own.unit)
        anchored = score_tokens(
            own.unit,
            vocabulary,
            tokens,
            self.cfg.mode,
            temperature=self.cfg.temperature,
        )
        self.logged = {
            "mean_max_cos": anchored.max_cosine.mean(),
            "aligned": (anchored.max_cosine >= ALIGNED_THRESHOLD).float().mean(),
        }
        gradient = cosine_gradient_(
            own, anchored.pull, anchored.along, -1 / len(tokens)
        )
        return -anchored.score.mean(), gradient

    @property
    def tokens(self) -> torch.Tensor:
        """The kept tokens, int64 [d_sae, top]; -1 before the first search."""
        return self.kept_tokens.view(torch.int32).long()

    @property
    def vocabulary(self) -> Vocabulary:
        """The embeddings, on the SAE's device."""
        if self._vocabulary is None:
            self._vocabulary = self._read(self.sae)
        return self._vocabulary

    def _current_tokens(self, step: int, unit: torch.Tensor) -> torch.Tensor:
        """Return the tokens to score in ``step``; search for those that are due or unknown."""
        tokens = self.tokens
        stale = (tokens < 0).any(dim=1) | self.cfg.refreshes(step)
        if bool(stale.all()):
            tokens = self._search(unit)
        elif bool(stale.any()):
            tokens[stale] = self._search(unit[stale])
        else:
            return tokens
        self._keep(tokens)
        return tokens

    def _search(self, unit: torch.Tensor) -> torch.Tensor:
        half = self.cfg.search_dtype == "bfloat16"
        return nearest_tokens(
            unit,
            self.vocabulary,
            self.cfg.top,
            dtype=torch.bfloat16 if half else None,
        )

    def _keep(self, tokens: torch.Tensor) -> None:
        self.kept_tokens.copy_(tokens.int().view(torch.uint8))

    @override
    def restarted(self, latents: torch.Tensor) -> None:
        # their kept tokens are those of the old direction: search for them in the next step
        tokens = self.tokens
        tokens[latents.to(tokens.device)] = -1
        self._keep(tokens)

    def _read(self, sae: TrainingSAE[Any]) -> Vocabulary:
        metadata = sae.cfg.metadata
        file = find_embeddings(
            metadata.model_name,
            self.cfg.embeddings,
            model_class_name=metadata.model_class_name or "HookedTransformer",
        )
        self.cfg.require_tokens(require_embeddings(file, sae.cfg.d_in))
        return read_vocabulary(file, sae.cfg.d_in, sae.W_dec.device)
