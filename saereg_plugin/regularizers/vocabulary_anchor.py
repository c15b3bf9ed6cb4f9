"""Decoder rows pulled to token embeddings (VASAE, arXiv 2606.27941)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from sae_lens import TrainingSAE
from typing_extensions import override

from saereg_plugin.component import Step
from saereg_plugin.config import RunSettings, choice, count, number
from saereg_plugin.errors import InputError
from saereg_plugin.kernels.top_k import top_k
from saereg_plugin.metrics.similarity import ALIGNED_THRESHOLD
from saereg_plugin.registry import register_regularizer
from saereg_plugin.regularizers.cosines import (
    DirectionalConfig,
    DirectionalPenalty,
    Directions,
    cosine_gradient_,
)
from saereg_plugin.sources.embeddings import (
    AnchorVocabulary,
    Vocabulary,
    find_embeddings,
    read_vocabulary,
    require_embeddings,
)

AnchorMode = Literal["nearest", "logsumexp", "softmax"]

_TOKENS = 8192
_LATENTS = 1024
_GATHERED = 1 << 19
"""Entries of gathered embeddings held at once: few enough to stay in the cache."""


def nearest_tokens(
    unit: torch.Tensor,
    vocabulary: Vocabulary,
    top: int,
    *,
    dtype: torch.dtype | None = None,
    chunk: int = _TOKENS,
) -> torch.Tensor:
    """
    Return the ``top`` tokens of largest cosine to each row, int64 [n, top], in no order.

    Streamed: the vocabulary in chunks, and rows in blocks within a chunk.

    Args:
        unit: unit rows, [n, d].
        vocabulary: embeddings of at least ``top`` tokens.
        top: tokens for each row.
        dtype: of the products; None is that of ``unit``. In bfloat16, near ties may be
            taken in another order.
        chunk: tokens in one chunk.
    """
    dtype = unit.dtype if dtype is None else dtype
    queries = unit.to(dtype)
    tokens = torch.zeros(len(unit), top, dtype=torch.long, device=unit.device)
    best = torch.full_like(tokens, float("-inf"), dtype=unit.dtype)
    for start in range(0, len(vocabulary.rows), chunk):
        keys = _unit_tokens(vocabulary, slice(start, start + chunk), dtype).T
        for first in range(0, len(queries), _LATENTS):
            part = slice(first, first + _LATENTS)
            found = top_k(queries[part] @ keys, min(top, keys.shape[1]))
            values = torch.cat([best[part], found[0].to(unit.dtype)], dim=1)
            columns = torch.cat([tokens[part], found[1] + start], dim=1)
            kept = values.topk(top, dim=1, sorted=False)
            best[part] = kept.values
            tokens[part] = columns.gather(1, kept.indices)
    return tokens


def _unit_tokens(
    vocabulary: Vocabulary, part: slice, dtype: torch.dtype
) -> torch.Tensor:
    scale = vocabulary.inverse_norms[part, None]
    return (vocabulary.rows[part].to(scale.dtype) * scale).to(dtype)


def anchor_scores(
    cosines: torch.Tensor, mode: AnchorMode, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Return each latent's score s [n] and the derivatives ds/dcos [n, top].

    With t the temperature and sums over the kept tokens: nearest ``max cos``; logsumexp
    ``t log sum exp(cos / t)``; softmax ``sum p cos`` with ``p = softmax(cos / t)``, through
    which the gradient passes.

    Args:
        cosines: of each latent to its kept tokens, [n, top].
        mode: how they are combined.
        temperature: above 0; unused by nearest.
    """
    if mode == "nearest":
        score, best = cosines.max(dim=1)
        return score, torch.zeros_like(cosines).scatter_(1, best[:, None], 1.0)
    share = (cosines / temperature).softmax(dim=1)
    if mode == "logsumexp":
        return temperature * (cosines / temperature).logsumexp(dim=1), share
    score = (share * cosines).sum(dim=1)
    return score, share * (1 + (cosines - score[:, None]) / temperature)


class Anchored(NamedTuple):
    """Scores of latents and their pull to the kept tokens."""

    score: torch.Tensor
    """[n], to be maximised."""
    max_cosine: torch.Tensor
    """[n] exact cosine to the nearest kept token."""
    pull: torch.Tensor
    """[n, d] ``sum_k w_ik e_k`` with w = ds/dcos and e_k of norm 1."""
    along: torch.Tensor
    """[n] ``sum_k w_ik cos_ik``."""


def score_tokens(
    unit: torch.Tensor,
    vocabulary: Vocabulary,
    tokens: torch.Tensor,
    mode: AnchorMode,
    *,
    temperature: float = 1.0,
) -> Anchored:
    """
    Score each row [n, d] of norm 1 by the exact cosines to its ``tokens``, int64 [n, top].

    The embeddings are gathered a block of rows at a time and never held for all.
    """
    (n, top), d = tokens.shape, unit.shape[1]
    result = Anchored(
        unit.new_empty(n), unit.new_empty(n), torch.empty_like(unit), unit.new_empty(n)
    )
    step = max(1, _GATHERED // (top * d))
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        chosen = tokens[part].reshape(-1)
        rows = vocabulary.rows.index_select(0, chosen).to(unit.dtype).view(-1, top, d)
        scale = vocabulary.inverse_norms[chosen].to(unit.dtype).view(-1, top)
        cosines = torch.bmm(rows, unit[part, :, None]).squeeze(2) * scale
        score, weight = anchor_scores(cosines, mode, temperature)
        result.score[part] = score
        result.max_cosine[part] = cosines.amax(dim=1)
        result.along[part] = (weight * cosines).sum(dim=1)
        result.pull[part] = torch.bmm((weight * scale)[:, None, :], rows).squeeze(1)
    return result


SearchDtype = Literal["float32", "bfloat16"]


@register_regularizer("vocabulary_anchor")
@dataclass(frozen=True, kw_only=True)
class VocabularyAnchor(DirectionalConfig):
    """
    ``- coefficient * mean_i s_i``, with s_i the similarity of dec_i to token embeddings.

    arXiv 2606.27941. Over the ``top`` embeddings e_j of largest cosine to dec_i, ``s_i`` is
    ``max_j cos(dec_i, e_j)`` (nearest), ``t log sum_j exp(cos / t)`` (logsumexp) or
    ``sum_j softmax(cos / t)_j cos_j`` (softmax), t the temperature. The embeddings are
    frozen, neither parameters nor state.

    Args:
        mode: nearest | logsumexp | softmax.
        top: tokens kept for each latent.
        embeddings: a safetensors file (``path`` or ``path::tensor``); None takes the
            model in ``cfg.metadata.model_name``.
        refresh_every: steps between exact searches over the vocabulary. Between searches
            the cosines to the kept tokens are exact, and other tokens are not noticed.
        search_dtype: of the search's products; cosines to the kept tokens are exact.
        temperature: t, above 0.
        every: apply the penalty in every n-th step only, n times as strong.

    The paper's coefficients, 1e-4 (GPT-2) and 5e-3 (Llama), are for the squared error
    averaged over d_in: under SAELens' sum they are d_in times as large.
    """

    mode: AnchorMode = choice("nearest", AnchorMode)
    top: int = count(10)
    embeddings: str | None = None
    refresh_every: int = count(50)
    search_dtype: SearchDtype = choice("float32", SearchDtype)
    temperature: float = number(1.0, lambda v: v > 0, "a finite number above 0")

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

    @override
    def check_run(self, settings: RunSettings) -> None:
        if settings.source_kind != "language_model" and self.embeddings is None:
            raise InputError(
                f"{self.name}: the source of kind {settings.source_kind!r} has no vocabulary. Train it "
                "on a language model, or give embeddings, the path of a file."
            )
        self.check_model(
            settings.model_name,
            settings.sae.d_in,
            model_class_name=settings.model_class_name,
        )

    @override
    def anchor_vocabulary(self, metadata: Any) -> AnchorVocabulary:
        file = find_embeddings(
            metadata.model_name,
            self.embeddings,
            model_class_name=metadata.model_class_name or "HookedTransformer",
        )
        named = self.embeddings is None
        return AnchorVocabulary(file, str(metadata.model_name) if named else None)

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
    """The anchor in training; checkpoints hold its kept tokens."""

    cfg: VocabularyAnchor
    kept_tokens: torch.Tensor

    def __init__(self, cfg: VocabularyAnchor, d_sae: int, *, label: str):
        super().__init__(cfg, label=label)
        # bytes: SAELens casts what it loads to the SAE's type, and bfloat16 rounds ids
        none = torch.full((d_sae, cfg.top), -1, dtype=torch.int32)
        self.register_buffer("kept_tokens", none.view(torch.uint8))
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
            unit, self.vocabulary, self.cfg.top, dtype=torch.bfloat16 if half else None
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
        file = self.cfg.anchor_vocabulary(sae.cfg.metadata).file
        self.cfg.require_tokens(require_embeddings(file, sae.cfg.d_in))
        return read_vocabulary(file, sae.cfg.d_in, sae.W_dec.device)
